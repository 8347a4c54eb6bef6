"""The Ray cluster of a run: an address in, this process a part of the cluster while a block lasts."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before Ray is imported: no usage reports, no C++ log lines on the terminal.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

import ray

from pipelines.cohort.shape import Node, logical_cpus
from pipelines.config import ConfigError
from pipelines.faults import CONTINUES, Aborted, ExitCode

_ANSWER_S = 10.0
_LOOK_AT_HEAD_EVERY_S = 5.0
_HEAD_GONE_AFTER_S = 30.0  # well before Ray ends this process, after 60 and with a code of its own
_STARTS = 3
_SHORT_FOLDER = "/tmp"  # noqa: S108 (a folder of mode 0700 is made in it)


class ClusterLost(Aborted):
    """The cluster ended, or stood still, before its series did; what is committed stays. One line."""


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Join the Ray cluster at an address, or start one of this process's own, and leave it at the end.

    A process that is already part of a cluster, such as a notebook, stays in it.

    Raises:
        ConfigError: nothing answers at the address.
        ClusterLost: what answers is no cluster to join, or none would start.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local":
        _check_answers(address)
        with _joined(address, 1, options):
            yield
        return
    options |= {"num_cpus": logical_cpus(os.cpu_count() or 1), "include_dashboard": False}
    # Ray gives a cluster of one's own half a minute to start, which a busy machine may need more than once.
    with _private_folder() as folder, _joined(address, _STARTS, options | {"_temp_dir": folder}):
        yield


@contextmanager
def _joined(address: str, tries: int, options: dict[str, Any]) -> Iterator[None]:
    for left in reversed(range(tries)):
        try:
            with _silence(), _own_sigterm():
                ray.init(address=address, **options)
            # Or Ray would print what it has to say of dead workers on stdout, among our results.
            ray._private.worker._worker_logs_enabled = False
            break
        except Exception as fault:  # Ray raises a plain Exception where its node is late
            ray.shutdown()
            if not left:
                raise ClusterLost(f"no Ray cluster at {address!r} ({type(fault).__name__})") from fault
    try:
        with _watching_head(ray.get_runtime_context().gcs_address):
            yield
    finally:
        ray.shutdown()


@contextmanager
def _watching_head(address: str) -> Iterator[None]:
    """End this process where nothing answers at the head's address any more: Ray would wait for it and hear nothing."""
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        seen_s = time.monotonic()
        while not over.wait(_LOOK_AT_HEAD_EVERY_S):
            try:
                socket.create_connection((host, int(port)), timeout=_LOOK_AT_HEAD_EVERY_S).close()
                seen_s = time.monotonic()
            except OSError:
                if time.monotonic() - seen_s > _HEAD_GONE_AFTER_S:
                    print(
                        f"ctsam3d: the head of the Ray cluster is gone; {CONTINUES}",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(ExitCode.ABORTED)

    threading.Thread(target=watch, name="head", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def _private_folder() -> Iterator[str]:
    """A folder for logs, sockets and spilled volumes that only this user may enter; emptied at the end.

    Its path is short, for the paths of sockets are limited. With CTSAM3D_DEBUG it stays, to be looked at.
    """
    folder = tempfile.mkdtemp(prefix="ctsam3d-", dir=os.environ.get("RAY_TMPDIR") or _SHORT_FOLDER)
    try:
        yield str(Path(folder) / "ray")  # which Ray opens to everyone
    finally:
        if not os.environ.get("CTSAM3D_DEBUG"):
            shutil.rmtree(folder, ignore_errors=True)


def _check_answers(address: str) -> None:
    """Raise ConfigError where nothing listens at `host:port`: Ray itself would try for minutes, in silence."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "local" and "auto" are no places on a network
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError):
        raise ConfigError(f"resources.address: found {address!r}, expected a running Ray cluster") from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would have it exit at once, with a code of its own."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    if kept is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _silence() -> Iterator[None]:
    """Send what is written to file descriptor 2 nowhere: Ray's native part announces its log level there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        Node(float(node.get("CPU", 0)), float(node.get("GPU", 0)), float(node.get("memory", 0)))
        for node in alive
    ]
