"""Read a series in a child process: objects or a folder in; voxels, a refusal, or what became of the child out.

Parsers and decoders meet bytes that nobody vouches for. In the child (`sandbox_child`) a crash, an endless loop or a
decompression bomb costs that child, which is replaced; here it is a reason. The child is kept warm between series, has
none of this process's environment but what a Python needs, and gives back plain numbers and one sealed file of voxels.
"""

from __future__ import annotations

import atexit
import fcntl
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.dicom import DicomSeries, Limits
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.packed_labels import PackedLabels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Rejected
from pipelines.frames import JOB, REPLY, FrameError, Job, Kind, Reply, receive, send
from pipelines.reasons import Failure

_ENTRY = "pipelines.sandbox_child"
_START_S = 120.0
_END_S = 2.0
_REPLY_BYTES = 1 << 24
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_GIB = 1 << 30
_BYTES_PER_VOXEL = 24  # HU as floats, evened out, with padding, and the working room of decoders


Answer = TypeVar("Answer")


class SandboxFailure(Exception):
    """A series that got no answer out of the sandbox, or one that is no answer. `detail` holds no DICOM value."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail


class SandboxBroken(Exception):
    """The child does not start: a fault of this installation, not of any series."""


def is_supported() -> bool:
    """Whether this system has what a sandbox is made of; without it series are read in the process itself."""
    return hasattr(os, "memfd_create")


def memory_for(objects_bytes: int, voxels: int) -> int:
    """Address space enough for a series of so many bytes and voxels, whatever has to be done to it."""
    return _GIB + 2 * objects_bytes + _BYTES_PER_VOXEL * voxels


class Sandbox:
    """One warm child; one series at a time.

    Args:
        seconds: CPU time a series may take, and time it may keep us waiting.
        entry: module the child runs.
    """

    def __init__(self, seconds: float, entry: str = _ENTRY) -> None:
        self._seconds, self._entry = seconds, entry
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._lifeline: int | None = None
        self.peak_memory_bytes = 0

    def read_series(
        self, objects: Iterable[tuple[str, bytes]], limits: Limits, memory_bytes: int
    ) -> DicomSeries:
        """As `ctsam3d.imaging.dicom.read_series`, which the child does; its arrays are this process's own.

        An error of the iterator is the caller's, and ends the job.

        Raises:
            Rejected: as there.
            SandboxFailure: CODEC_UNAVAILABLE, DECODER_CRASH, MEMORY, TIMEOUT or INTERNAL.
            SandboxBroken: the child does not start.
        """
        return self._run(Job(asdict(limits), memory_bytes, self._seconds), objects, _series)

    def read_folder(self, folder: Path, limits: Limits) -> DicomSeries:
        """As `ctsam3d.imaging.dicom.read_folder`; the child itself reads the files.

        Raises:
            Rejected, ValueError, OSError: as there.
            SandboxFailure, SandboxBroken: as `read_series`.
        """
        held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        voxels = min(limits.max_pixel_bytes, 16 * held) // 2
        job = Job(asdict(limits), memory_for(held, voxels), self._seconds, str(folder.resolve()))
        return self._run(job, (), _series)

    def read_labels(
        self, objects: Iterable[tuple[str, bytes]], limits: Limits, packed_bytes: int, memory_bytes: int
    ) -> PackedLabels:
        """As `ctsam3d.imaging.packed_labels.read_packed`; the objects are the file and, if any, the JSON beside it.

        Raises:
            Rejected: as there.
            SandboxFailure, SandboxBroken: as `read_series`.
        """
        job = Job(asdict(limits), memory_bytes, self._seconds, packed_bytes=packed_bytes)
        return self._run(job, objects, _labels)

    def close(self) -> None:
        """End the child; the next series starts another."""
        child, sock, self._child, self._sock = self._child, self._sock, None, None
        lifeline, self._lifeline = self._lifeline, None
        if sock is not None:
            sock.close()
        if lifeline is not None:
            os.close(lifeline)
        if child is not None:
            child.kill()
            child.wait()

    def _run(
        self, job: Job, objects: Iterable[tuple[str, bytes]], take: Callable[[Reply, int | None], Answer]
    ) -> Answer:
        with self._lock:
            sock = self._started()
            wait = _Wait(sock, job.seconds)
            try:
                wait.send(Kind.JOB, JOB.dump_json(job))
                if job.folder is None:
                    for _, data in objects:
                        if wait.has_answer():
                            break  # refused before its end: the rest is not needed
                        wait.send(Kind.OBJECT, data)
                    wait.send(Kind.END)
                reply, file = wait.reply()
            except (ConnectionError, FrameError):
                raise self._failure() from None
            except TimeoutError:
                self.close()
                raise SandboxFailure(Failure.TIMEOUT, f"no answer within {job.seconds:g} s") from None
            except BaseException:  # of the objects' own: what the child has of them is of no use
                self.close()
                raise
            try:
                return self._taken(reply, file, take)
            finally:
                if file is not None:
                    os.close(file)

    def _taken(self, reply: Reply, file: int | None, take: Callable[[Reply, int | None], Answer]) -> Answer:
        self.peak_memory_bytes = reply.peak_memory_bytes
        if reply.refused is not None:
            raise Rejected(reply.refused, reply.detail or "")
        if reply.unusable is not None:
            raise ValueError(reply.unusable)
        if reply.failed is not None:
            if reply.failed is Failure.MEMORY:
                self.close()  # what is left of it may be in pieces
            raise SandboxFailure(reply.failed, reply.detail or "")
        try:
            return take(reply, file)
        except (ValueError, TypeError, OSError) as fault:
            self.close()
            raise SandboxFailure(
                Failure.INTERNAL, f"an answer that is none ({type(fault).__name__})"
            ) from None

    def _started(self) -> socket.socket:
        if self._child is not None and self._child.poll() is not None:
            self.close()  # it ended while nobody looked
        if self._sock is None:
            try:
                self._sock = self._start()
                frame = receive(self._sock, 0)
            except (OSError, FrameError):
                frame = None
            if self._sock is None or frame is None or frame[0] is not Kind.READY:
                self.close()
                raise SandboxBroken("the sandbox's child does not start")
        return self._sock

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        end, self._lifeline = os.pipe()  # the child dies when we do: see there
        files = (theirs.fileno(), end)
        try:
            self._child = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-m", self._entry, *map(str, files)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what native code prints may quote a header
                stderr=subprocess.DEVNULL,
                pass_fds=files,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # an interrupt at the terminal is for us to handle
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(end)
        ours.settimeout(_START_S)
        return ours

    def _failure(self) -> SandboxFailure:
        """Why the child is gone."""
        assert self._child is not None
        try:
            code = self._child.wait(_END_S)
        except subprocess.TimeoutExpired:  # alive, but talking nonsense
            code = 0
        self.close()
        if code == -signal.SIGXCPU:
            return SandboxFailure(Failure.TIMEOUT, f"over {self._seconds:g} s of CPU time")
        if code == -signal.SIGKILL:  # not by us: the kernel, short of memory
            return SandboxFailure(Failure.MEMORY, "ended by SIGKILL")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return SandboxFailure(Failure.DECODER_CRASH, how)


class _Wait:
    """A socket, and how much longer its other end may keep us waiting; time between calls is our own."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock, self._left_s = sock, seconds

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        start = self._start()
        try:
            send(self._sock, kind, payload)
        finally:
            self._left_s -= time.monotonic() - start

    def has_answer(self) -> bool:
        return bool(select.select([self._sock], [], [], 0)[0])

    def reply(self) -> tuple[Reply, int | None]:
        self._start()
        frame = receive(self._sock, _REPLY_BYTES)
        if frame is None:
            raise ConnectionError("the child is gone")
        kind, payload, file = frame
        try:
            if kind is not Kind.REPLY:
                raise FrameError("expected a reply")
            return REPLY.validate_json(payload), file
        except ValueError:
            if file is not None:
                os.close(file)
            raise FrameError("a reply that is none") from None

    def _start(self) -> float:
        if self._left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(self._left_s)
        return time.monotonic()


def _series(reply: Reply, file: int | None) -> DicomSeries:
    """The series of a reply; ValueError where its parts do not belong together."""
    if reply.facts is None or reply.shape_zyx is None or reply.affine is None or file is None:
        raise ValueError("a reply without a volume")
    shape = reply.shape_zyx
    if min(shape) < 1:
        raise ValueError("a volume without voxels")
    voxels = shape[0] * shape[1] * shape[2]
    kind = np.dtype(np.float32 if reply.is_float else np.int16)
    padding_bytes = (voxels + 7) // 8 if reply.has_padding else 0
    shared = _mapped(file, voxels * kind.itemsize + padding_bytes)
    hu = np.frombuffer(shared, kind, voxels).reshape(shape)
    padding = None
    if reply.has_padding:
        bits = np.frombuffer(shared, np.uint8, padding_bytes, voxels * kind.itemsize)
        padding = np.unpackbits(bits, count=voxels).reshape(shape).view(np.bool_)
    geometry = Geometry(shape, np.array(reply.affine).reshape(4, 4))
    return DicomSeries(Volume(hu, geometry, padding), reply.facts)


def _labels(reply: Reply, file: int | None) -> PackedLabels:
    """The label map of a reply; ValueError where its parts do not belong together."""
    if reply.labels is None or file is None:
        raise ValueError("a reply without labels")
    size = reply.labels.packed_bytes
    bits: NDArray[np.uint8] = np.frombuffer(_mapped(file, size) if size else b"", np.uint8)
    return PackedLabels(reply.labels, bits)


def _mapped(file: int, size: int) -> mmap.mmap:
    """What a child has written; ValueError where it is of another size or the child could still change it."""
    # Sealed it can no longer be cut short under the mapping, which would be a bus error here.
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    if fcntl.fcntl(file, fcntl.F_GET_SEALS) & sealed != sealed or os.fstat(file).st_size != size:
        raise ValueError("voxels of another size, or not sealed")
    return mmap.mmap(file, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _environment() -> dict[str, str]:
    """What a Python needs to find its modules, and nothing else: no credentials, no addresses, no settings."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(str(Path(entry).resolve()) if entry else str(Path.cwd()) for entry in sys.path)
    return kept | {
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


@cache
def warm(seconds: float) -> Sandbox:
    """This process's sandbox, started when first used and kept until the process ends."""
    sandbox = Sandbox(seconds)
    atexit.register(sandbox.close)
    return sandbox
