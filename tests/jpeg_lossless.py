"""Stored values to lossless JPEG (process 14, selection value 1); no library installed can encode it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CATEGORIES = 17  # of differences modulo 2^16, T.81 table H.2
_CODE_BITS = 5  # one length for all codes: 17 of 32, and never all ones


def encode_jpeg_lossless(values: NDArray[Any]) -> bytes:
    """Encode 16-bit values (rows, columns), each predicted from the one on its left or above."""
    rows, columns = values.shape
    pixels = values.astype(np.int64) & 0xFFFF
    predicted = np.empty_like(pixels)
    predicted[:, 1:] = pixels[:, :-1]
    predicted[1:, 0] = pixels[:-1, 0]
    predicted[0, 0] = 1 << 15
    bits = "".join(_code(int(d)) for d in ((pixels - predicted) & 0xFFFF).ravel())
    bits += "1" * (-len(bits) % 8)
    entropy = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    huffman = bytes(
        [0] + [_CATEGORIES if n == _CODE_BITS else 0 for n in range(1, 17)] + list(range(_CATEGORIES))
    )
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB3B", 16, rows, columns, 1, 1, 0x11, 0)),
            _segment(0xC4, huffman),
            _segment(0xDA, bytes([1, 1, 0, 1, 0, 0])),
            entropy,
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _code(difference: int) -> str:
    """Category code and extra bits of a difference modulo 2^16."""
    signed = difference - 65536 if difference > 32768 else difference
    category = abs(signed).bit_length()
    code = format(category, f"0{_CODE_BITS}b")
    if category in (0, 16):
        return code
    extra = signed if signed > 0 else signed + (1 << category) - 1
    return code + format(extra, f"0{category}b")
