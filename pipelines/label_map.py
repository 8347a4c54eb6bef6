"""The masks of one grid as one label map: rows of the masks table in, an array (z, y, x) of labels out.

Masks that are stored as runs and have no voxel in common are never unpacked: all their runs, in the order of the grid,
are the label map, which is written once, from its first voxel to its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from pipelines import mask_runs
from pipelines.masks import RUNS, MaskDamaged, MaskRow, decode_inside, decode_runs

# A run is sorted as one number: where it begins (a grid has at most 2^33 voxels), how many voxels it has, its label.
_LENGTH_BITS, _LABEL_BITS = 16, 8
MAX_LABEL = (1 << _LABEL_BITS) - 1


def decode_label_map(masks: Mapping[int, MaskRow]) -> NDArray[np.uint8]:
    """The source grid (z, y, x) with 0 where no mask is; a voxel in several has the label of the last of them.

    `masks`, by their labels of 1 to `MAX_LABEL`, are rows that `MaskRow.from_columns` let pass, at least one.

    Raises:
        MaskDamaged: the masks do not lie on one grid, or `decode_inside` refuses one.
    """
    if not all(0 < label <= MAX_LABEL for label in masks):
        raise ValueError(f"expected labels from 1 to {MAX_LABEL}")
    first, *others = masks.values()
    if any(row.shape_zyx != first.shape_zyx or row.affine != first.affine for row in others):
        raise MaskDamaged("the masks do not lie on one grid")
    written = _written(masks, first.shape_zyx)
    return _painted(masks, first.shape_zyx) if written is None else written


def _written(masks: Mapping[int, MaskRow], shape_zyx: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """The label map, of one pass over it; None where masks overlap or are not the runs of rows."""
    numbers = []
    for label, row in masks.items():
        runs = _on_the_grid(row)
        if runs is None:
            return None
        begins, lengths = runs
        numbers.append((begins << _LENGTH_BITS | lengths) << _LABEL_BITS | label)
    every = np.concatenate(numbers)
    every.sort()
    begins = every >> _LENGTH_BITS + _LABEL_BITS
    lengths = every >> _LABEL_BITS & (1 << _LENGTH_BITS) - 1
    if (begins[:-1] + lengths[:-1] > begins[1:]).any():
        return None
    return mask_runs.fill(begins, lengths, every.astype(np.uint8), prod(shape_zyx)).reshape(shape_zyx)


def _on_the_grid(row: MaskRow) -> tuple[mask_runs.Places, mask_runs.Places] | None:
    """Where the mask's runs begin among the voxels of the grid, and their lengths; None for what is no runs of rows."""
    if row.encoding != RUNS:
        return None
    begins, lengths = decode_runs(row)
    if not lengths.all():  # empty ones, which led to one far away
        begins, lengths = begins[lengths > 0], lengths[lengths > 0]
    _, height, width = row.size
    lines = begins // width
    x = begins - lines * width
    if (x + lengths > width).any():
        return None
    z0, y0, x0 = row.bbox[:3]
    lines += (row.shape_zyx[1] - height) * (lines // height) + z0 * row.shape_zyx[1] + y0
    return lines * row.shape_zyx[2] + (x + x0), lengths


def _painted(masks: Mapping[int, MaskRow], shape_zyx: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The label map, one mask after the other."""
    labels = np.zeros(shape_zyx, dtype=np.uint8)
    for label, row in masks.items():
        z0, y0, x0, z1, y1, x1 = row.bbox
        np.copyto(labels[z0:z1, y0:y1, x0:x1], np.uint8(label), where=decode_inside(row))
    return labels
