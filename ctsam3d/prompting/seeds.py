"""Choose where to click: a coarse mask in, the centres of the cubes that cover it out, the same ones every time.

1. The depth of every voxel is its distance to the mask's outside; candidates are the deepest voxels around.
2. Of the candidates, the one whose cube covers most of what is not covered yet is taken; the deeper, then the first in
   (z, y, x) order, wins a draw.
3. Until every voxel of the mask lies within `reach` of a chosen one, along each axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def covering_seeds(mask: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """Seeds (n, 3) in (z, y, x) voxels of the mask, all inside it.

    Args:
        mask: bool (z, y, x).
        reach: every voxel of the mask ends up within this many voxels of a seed along each axis.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.empty((0, 3), dtype=np.int64)
    corner = np.array([s.start for s in box[0]])
    inside = np.pad(mask[box[0]], 1)
    depth = ndimage.distance_transform_edt(inside)
    # a click near the border invites the neighbour in: keep to voxels as deep as any close by
    deepest = ndimage.maximum_filter(depth, size=min(5, 2 * reach + 1))
    candidates = inside & (depth >= 0.7 * deepest)
    missing = inside.copy()
    seeds: list[NDArray[np.int64]] = []
    while missing.any():
        covered = box_sums(missing, reach)
        pool = candidates & (covered > 0)
        if not pool.any():  # a corner that only its own shallow voxels reach
            pool = missing
        score = np.where(pool, covered + depth / (depth.max() + 1), -1.0)
        seed = np.array(np.unravel_index(int(score.argmax()), score.shape))
        seeds.append(seed)
        around = tuple(slice(max(0, c - reach), c + reach + 1) for c in seed)
        missing[around] = False
    return np.array(seeds) - 1 + corner


def box_sums(mask: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """How many voxels of the mask lie within `reach` of each voxel along each axis, exactly."""
    sums = mask.astype(np.int64)
    for axis in range(3):
        padding = [(0, 0)] * 3
        padding[axis] = (reach + 1, reach)
        running = np.cumsum(np.pad(sums, padding), axis=axis)
        size = mask.shape[axis]
        high = np.take(running, np.arange(size) + 2 * reach + 1, axis=axis)
        low = np.take(running, np.arange(size), axis=axis)
        sums = high - low
    return sums
