"""One compressed frame to what its own stream says of itself, before a decoder believes it.

Decoders make room for the size a stream names, whatever the header says; pad out what a stream lacks; and RLE grows
sixty-four-fold. None of it is to be found out by decoding.
"""

from __future__ import annotations

import struct

from ctsam3d.imaging.decoders import JPEG, JPEG_2000, JPEG_LS
from ctsam3d.outcome import Reason, Rejected

_MOST_OVERHEAD_BYTES = 1 << 16  # of tables and metadata, beyond twice what is encoded
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # T.81 table B.1; F7 is JPEG-LS
_FILL = 0xFF
_END_OF_IMAGE = b"\xff\xd9"  # occurs in no coded pixels; padding may follow it
_RLE_HEADER_BYTES = 64  # how many segments, and where each starts: PS3.5 G.5
_NO_OPERATION = 0x80  # above it a byte repeated, below it bytes as they are: PS3.5 G.3.1
_CODESTREAM_AND_SIZE = b"\xff\x4f\xff\x51"  # SOC, SIZ: T.800 table A.2


def check_stream(stream: bytes, transfer_syntax_uid: str, rows: int, columns: int, frame_bytes: int) -> None:
    """Refuse a frame of another size than the header's, one that ends early, and one far longer than what it encodes.

    Args:
        stream: all fragments of the frame.
        transfer_syntax_uid: a compressed one of `SUPPORTED_SYNTAXES`.
        rows, columns: by the header.
        frame_bytes: of the frame decoded.

    Raises:
        Rejected: PIXEL_DECODE.
    """
    most = 2 * frame_bytes + _MOST_OVERHEAD_BYTES
    if len(stream) > most:
        raise Rejected(Reason.PIXEL_DECODE, f"a frame of {len(stream)} bytes, expected at most {most}")
    start_of_frame = 0
    if transfer_syntax_uid in JPEG | JPEG_LS:
        start_of_frame = _jpeg_frame_header(stream)
        found = _jpeg_size(stream, start_of_frame)
    elif transfer_syntax_uid in JPEG_2000:
        found = _jpeg_2000_size(stream)
    else:
        _check_run_lengths(stream, rows * columns)
        return
    if found != (rows, columns):
        said = "no size" if found is None else f"{found[0]} rows and {found[1]} columns"
        raise Rejected(Reason.PIXEL_DECODE, f"a stream of {said}, expected {rows} and {columns}")
    # One decoder goes on with what it read last, the other counts to two thousand million first; JPEG 2000's says so.
    if transfer_syntax_uid in JPEG | JPEG_LS and stream.find(_END_OF_IMAGE, start_of_frame) < 0:
        raise Rejected(Reason.PIXEL_DECODE, f"a stream of {len(stream)} bytes that does not end as one")


def _check_run_lengths(stream: bytes, pixels: int) -> None:
    """Refuse segments, one for each byte of a pixel, that do not hold just as many bytes; padding may follow them."""
    count, *starts = struct.unpack_from("<16I", stream.ljust(_RLE_HEADER_BYTES, b"\0"))
    ends = [*starts[1:count], len(stream)]
    for segment in (stream[start:end] for start, end in zip(starts, ends, strict=False)):
        at = found = 0
        while at < len(segment) and found < pixels:
            code = segment[at]
            if code < _NO_OPERATION:
                found += min(code + 1, len(segment) - at - 1)
                at += code + 2
            elif code == _NO_OPERATION:
                at += 1
            else:
                found += 257 - code
                at += 2
        if found != pixels or segment[at:].strip(b"\0\x80"):
            raise Rejected(Reason.PIXEL_DECODE, f"a run of {found} bytes or more, expected {pixels}")


def _jpeg_frame_header(stream: bytes) -> int:
    """Where the frame header's marker is, past the end where there is none."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == _FILL:
        marker = stream[at + 1]
        if marker in _START_OF_FRAME:
            return at
        at += 1 if marker == _FILL else 2 + int.from_bytes(stream[at + 2 : at + 4])
    return len(stream)


def _jpeg_size(stream: bytes, start_of_frame: int) -> tuple[int, int] | None:
    """Rows and columns in the frame header, None where it is not whole."""
    sizes = stream[start_of_frame + 5 : start_of_frame + 9]
    return (int.from_bytes(sizes[:2]), int.from_bytes(sizes[2:])) if len(sizes) == 4 else None


def _jpeg_2000_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns of the image area of the codestream, which may lie in the boxes of a file."""
    at = stream.find(_CODESTREAM_AND_SIZE)
    if at < 0 or at + 24 > len(stream):
        return None
    right, bottom, left, top = (int.from_bytes(stream[at + n : at + n + 4]) for n in (8, 12, 16, 20))
    return bottom - top, right - left
