"""Messages between a process and its sandbox: a kind and bytes in, one frame on a socket out, and back.

Nothing here is pickled: what a broken decoder could send is a length, bytes, and at most one file descriptor.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from pydantic import TypeAdapter

from ctsam3d.imaging.dicom import SeriesFacts
from ctsam3d.imaging.packed_labels import LabelSheet
from ctsam3d.outcome import Reason
from pipelines.reasons import Failure

_HEAD = struct.Struct(">4sBQ")
_MAGIC = b"CTSF"
_CHUNK_BYTES = 1 << 20


class Kind(IntEnum):
    """What a frame is."""

    READY = 1  # the child has started
    JOB = 2  # a Job as JSON
    OBJECT = 3  # one object: DICOM, or of a label map
    END = 4  # no more objects
    REPLY = 5  # a Reply as JSON, its voxels or masks in the file that comes with it


class FrameError(Exception):
    """Bytes that are no frame, or a frame larger than it may be."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a child is asked to do.

    Attributes:
        limits: of `ctsam3d.imaging.dicom.Limits`, as plain values.
        memory_bytes: address space it may take beyond what it has.
        seconds: of CPU time, and of keeping the parent waiting.
        folder: to be read by the child itself; None where objects follow.
        packed_bytes: that the masks of a label map may take, whose object follows and, where there is one, the JSON
            that names its labels; None of a series.
    """

    limits: dict[str, float]
    memory_bytes: int
    seconds: float
    folder: str | None = None
    packed_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a job: facts and the form of the voxels, a sheet of labels, or one of three kinds of failure.

    Attributes:
        refused, failed: the code, with its detail.
        unusable: the message of a ValueError or OSError about the folder.
        is_float: float32 HU, else int16.
        shape_zyx, affine: of the volume; the file holds its HU, then the packed bits of its padding.
        labels: of a label map; the file holds its packed masks.
        peak_memory_bytes: of the child, over its life.
    """

    refused: Reason | None = None
    failed: Failure | None = None
    unusable: str | None = None
    detail: str | None = None
    facts: SeriesFacts | None = None
    is_float: bool = False
    has_padding: bool = False
    shape_zyx: tuple[int, int, int] | None = None
    affine: tuple[float, ...] | None = None
    labels: LabelSheet | None = None
    peak_memory_bytes: int = 0


JOB = TypeAdapter(Job)
REPLY = TypeAdapter(Reply)


def send(sock: socket.socket, kind: Kind, payload: bytes = b"", file: int | None = None) -> None:
    """Write one frame, with a file descriptor beside it where one is given."""
    head = _HEAD.pack(_MAGIC, kind, len(payload))
    sent = socket.send_fds(sock, [head], [file]) if file is not None else sock.send(head)
    sock.sendall(head[sent:])
    if payload:
        sock.sendall(payload)


def receive(sock: socket.socket, most_bytes: int) -> tuple[Kind, bytes, int | None] | None:
    """Read one frame: its kind, payload and file descriptor, which the caller closes; None at the end of the stream.

    Raises:
        FrameError: the stream is not made of frames, ends within one, or one is longer than `most_bytes`.
    """
    head, files = _head(sock)
    try:
        if not head:
            return None
        if len(head) < _HEAD.size:
            raise FrameError("the stream ends within a frame")
        magic, kind, length = _HEAD.unpack(head)
        if magic != _MAGIC or kind not in list(Kind) or length > most_bytes or len(files) > 1:
            raise FrameError("not a frame of the sandbox, or one that is too long")
        payload = _exactly(sock, length)
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return Kind(kind), payload, files[0] if files else None


def _head(sock: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_LEN(array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(_HEAD.size, space, socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(rights[: len(rights) - len(rights) % files.itemsize])
    while data and len(data) < _HEAD.size:
        more = sock.recv(_HEAD.size - len(data))
        if not more:
            break
        data += more
    return data, list(files)


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        count = sock.recv_into(view[at : at + _CHUNK_BYTES])
        if not count:
            raise FrameError("the stream ends within a frame")
        at += count
    return bytes(data)
