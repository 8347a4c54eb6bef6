"""Store HU with a stated error in little room: a volume in, its slices as JPEG 2000 out, and back.

Half of what an image of a scanner takes to store is its noise. A network that is trained with more noise on top loses
nothing where a cache keeps the image to within a few HU, and such a cache travels.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LOWEST_HU, _LARGEST = -1024, 65535  # what is stored is HU above the lowest, in 16 bits


def encode(hu: NDArray[np.int16], error: float) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All bytes, and where each slice's end.

    Args:
        hu: (z, y, x), -1024 or more.
        error: root mean square of what decoding gives less what was encoded, HU.
    """
    decibels = 20 * math.log10(_LARGEST / error)
    slices = []
    for plane in hu:
        stored = io.BytesIO()
        image = Image.fromarray((plane.astype(np.int32) - _LOWEST_HU).clip(0, _LARGEST).astype(np.uint16))
        image.save(stored, format="JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[decibels])
        slices.append(stored.getvalue())
    return np.frombuffer(b"".join(slices), dtype=np.uint8), np.cumsum([len(s) for s in slices])


def decode(slices: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int16]:
    """HU (z, y, x) of what `encode` gave."""
    planes = []
    for stored in np.split(slices, ends[:-1]):
        with Image.open(io.BytesIO(stored.tobytes()), formats=["JPEG2000"]) as image:
            planes.append((np.asarray(image).astype(np.int32) + _LOWEST_HU).astype(np.int16))
    return np.stack(planes)
