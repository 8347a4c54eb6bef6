"""The inside of a sandbox: objects on a socket in, a volume or masks in sealed shared memory out, series after series.

Runs as a process of its own, started by `pipelines.sandbox`: it has no credentials, talks to nobody but its parent, and
its memory, CPU time and files are limited before it sees a byte of anybody's. Whatever a decoder does to it, it does to
this process.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctsam3d.imaging.decoders import DecoderMissing
from ctsam3d.imaging.dicom import DicomSeries, Limits, read_folder, read_series
from ctsam3d.outcome import Rejected
from pipelines.frames import JOB, REPLY, FrameError, Job, Kind, Reply, receive, send
from pipelines.reasons import Failure

_JOB_BYTES = 1 << 16


def main() -> None:
    """Serve the parent until it closes its end of the socket.

    The arguments are the numbers of that socket and of a pipe whose other end the parent holds.
    """
    sock = socket.socket(fileno=int(sys.argv[1]))
    _die_with_parent(int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold a patient's images
    send(sock, Kind.READY)
    try:
        while (frame := receive(sock, _JOB_BYTES)) is not None:
            _serve(sock, JOB.validate_json(frame[1]))
    except (FrameError, ConnectionError):
        return  # the parent is gone


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the last copy of the pipe's other end closes, whatever is being run then.

    (A death signal would do so when the parent's *thread* ends that started this process.)
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # closed before the kernel was told
        raise SystemExit


def _serve(sock: socket.socket, job: Job) -> None:
    """Do one job and reply; the objects that were not asked for are read past."""
    _limit(job)
    inbox = _Inbox(sock, job)
    reply, file = _answer(job, inbox)
    send(sock, Kind.REPLY, REPLY.dump_json(reply), file)
    if file is not None:
        os.close(file)
    inbox.drain()


class _Inbox:
    """Objects as they come."""

    def __init__(self, sock: socket.socket, job: Job) -> None:
        self._sock, self._job = sock, job
        self._has_ended = job.folder is not None

    def objects(self) -> Iterator[tuple[str, bytes]]:
        while not self._has_ended:
            frame = receive(self._sock, int(self._job.limits["max_object_bytes"]))
            if frame is None:
                raise ConnectionError("the parent is gone")
            if frame[0] is Kind.END:
                self._has_ended = True
                return
            yield "", frame[1]

    def drain(self) -> None:
        for _ in self.objects():
            pass


def _answer(job: Job, inbox: _Inbox) -> tuple[Reply, int | None]:
    file: int | None = None
    try:
        if job.packed_bytes is not None:
            return _labels(inbox, job.packed_bytes)
        limits = Limits(**{name: type(getattr(Limits(), name))(v) for name, v in job.limits.items()})
        series = read_folder(job.folder, limits) if job.folder else read_series(inbox.objects(), limits)
        parts = [np.ascontiguousarray(series.volume.hu).data.cast("B")]
        if series.volume.padding is not None:
            parts.append(np.packbits(series.volume.padding).data)
        file = _shared(*parts)
        reply = _described(series)
    except (ConnectionError, FrameError):
        raise
    except Rejected as refusal:
        reply = Reply(refused=refusal.reason, detail=refusal.detail)
    except MemoryError:
        reply = Reply(failed=Failure.MEMORY, detail=f"over {job.memory_bytes >> 20} MiB")
    except DecoderMissing as lack:
        reply = Reply(failed=Failure.CODEC_UNAVAILABLE, detail=lack.transfer_syntax_uid)
    except (OSError, ValueError) as fault:
        # About a folder these are words for people; about objects a fault of ours, whose text may quote a header.
        reply = (
            Reply(unusable=str(fault))
            if job.folder
            else Reply(failed=Failure.INTERNAL, detail=type(fault).__name__)
        )
    except Exception as fault:
        reply = Reply(failed=Failure.INTERNAL, detail=type(fault).__name__)
    return reply, file


def _labels(inbox: _Inbox, packed_bytes: int) -> tuple[Reply, int]:
    """The reply to a label map, and its masks."""
    from ctsam3d.imaging.packed_labels import read_packed

    file, *beside = inbox.objects()
    found = read_packed(file[1], beside[0][1] if beside else None, packed_bytes)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Reply(labels=found.sheet, peak_memory_bytes=peak_bytes), _shared(found.bits.data)


def _described(series: DicomSeries) -> Reply:
    volume = series.volume
    return Reply(
        facts=series.facts,
        is_float=volume.hu.dtype == np.float32,
        has_padding=volume.padding is not None,
        shape_zyx=volume.geometry.shape_zyx,
        affine=tuple(float(v) for v in volume.geometry.affine.ravel()),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _shared(*parts: memoryview) -> int:
    """Bytes in memory that has no name and that nobody can change or shorten any more."""
    file = os.memfd_create("voxels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            _write(file, part)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(file)
        raise
    return file


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _limit(job: Job) -> None:
    """Bounds of this job, beyond what earlier ones have used."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _soft(resource.RLIMIT_AS, pages * resource.getpagesize() + job.memory_bytes)
    _soft(resource.RLIMIT_FSIZE, job.memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _soft(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + job.seconds))


def _soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
