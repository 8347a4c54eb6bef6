"""Masks as the runs of their rows: a boolean (z, y, x) array in, bytes out, and back without loss.

A run is what a row (along x) has set without a gap. Of each run, in (z, y, x) order, two numbers of 16 bits are stored:
how many voxels it begins after the begin of the run before it (the first: after the first voxel), and how many it has.
Organs mostly have one run in a row, much like that of the row before: then the first number is near the length of a
row, and both change little. Where the next run is too far away for 16 bits, empty ones lead there. Bytes come in the
order: the lower ones of all first numbers, those of all second, the upper ones of all first, those of all second. What
is alike lies together, for zstd to find.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BYTES_PER_RUN = 4
MAX_STEP = 0xFFFF  # voxels, of a row too

Places = NDArray[np.int64]
Value = TypeVar("Value", bound=np.generic)


def to_bytes(mask: NDArray[np.bool_]) -> bytes:
    """The runs of a mask (z, y, x) with rows of at most `MAX_STEP` voxels."""
    rows, width = mask.shape[0] * mask.shape[1], mask.shape[2]
    # With a place that is not set before the first row and after each, no run goes on in another row.
    places = np.zeros(1 + rows * (width + 1), dtype=np.bool_)
    places[1:].reshape(*mask.shape[:2], width + 1)[:, :, :width] = mask
    edges = np.flatnonzero(places[1:] != places[:-1])
    edges -= edges // (width + 1)
    begins, ends = edges.reshape(-1, 2).T
    steps, lengths = np.diff(begins, prepend=0), ends - begins
    on_the_way = np.maximum(steps - 1, 0) // MAX_STEP
    at = np.repeat(np.arange(steps.size), on_the_way)
    steps = np.insert(steps - MAX_STEP * on_the_way, at, MAX_STEP)
    numbers = np.stack([steps, np.insert(lengths, at, 0)]).astype("<u2")
    return numbers.view(np.uint8).reshape(2, -1, 2).transpose(2, 0, 1).tobytes()


def to_runs(bits: bytes, voxels: int) -> tuple[Places, Places]:
    """At which of a mask's so many voxels, in (z, y, x) order, each of its runs begins, and how many it has; some none.

    Raises:
        ValueError: the bytes are not runs, or not of such a mask.
    """
    if not bits or len(bits) % BYTES_PER_RUN:
        raise ValueError(f"{len(bits)} bytes, expected {BYTES_PER_RUN} for each run")
    lower, upper = np.frombuffer(bits, dtype=np.uint8).reshape(2, 2, -1)
    numbers = np.empty((*lower.shape, 2), dtype=np.uint8)
    numbers[:, :, 0], numbers[:, :, 1] = lower, upper
    steps, lengths = numbers.view("<u2")[:, :, 0]
    begins = np.cumsum(steps, dtype=np.int64)
    if (steps[1:] < lengths[:-1]).any() or begins[-1] + lengths[-1] > voxels:
        raise ValueError("the runs overlap, or are not those of a box of this size")
    return begins, lengths.astype(np.int64)


def to_mask(begins: Places, lengths: Places, size: tuple[int, int, int]) -> NDArray[np.bool_]:
    """The mask (z, y, x) of this size that has these runs, of which none reaches into the next."""
    is_set = np.ones(lengths.size, dtype=np.bool_)
    return fill(begins, lengths, is_set, math.prod(size)).reshape(size)


def fill(begins: Places, lengths: Places, values: NDArray[Value], voxels: int) -> NDArray[Value]:
    """So many voxels in one row, of which each run, none reaching into the next, has its value; the others have 0."""
    counts = np.empty(2 * begins.size + 1, dtype=np.int64)  # voxels without, with, ..., without a value
    counts[1::2] = lengths
    counts[0], counts[-1] = begins[0], voxels - begins[-1] - lengths[-1]
    np.subtract(begins[1:], begins[:-1], out=counts[2:-1:2])
    counts[2:-1:2] -= lengths[:-1]
    alternating = np.zeros(counts.size, dtype=values.dtype)
    alternating[1::2] = values
    return np.repeat(alternating, counts)
