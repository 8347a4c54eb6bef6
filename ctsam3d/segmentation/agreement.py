"""How far what a cube says of a structure is believed: its mask, its HU and what is known already in, a verdict out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

_TOUCHING = np.ones((3, 3, 3), dtype=bool)
_RARE_PERCENT = 2.0  # of a structure's voxels, at either end of its HU
_FEW_VOXELS = 500  # 1.7 ml: their median says little
_SAMPLE = 2000  # voxels of each cube are remembered


def agreement(one: Mask, other: Mask, where: Mask) -> float:
    """Dice of two masks (z, y, x) in a region, if what lies within a voxel of the other mask counts as shared.

    A thin structure is nearly all border, and two cubes never draw it in the same voxels.

    Args:
        one: a mask.
        other: another one on the same grid.
        where: they are compared.

    Returns:
        0 where neither has a voxel there.
    """
    mine, theirs = one & where, other & where
    total = np.count_nonzero(mine) + np.count_nonzero(theirs)
    if total == 0:
        return 0.0
    shared = np.count_nonzero(mine & ndimage.binary_dilation(other, _TOUCHING))
    shared += np.count_nonzero(theirs & ndimage.binary_dilation(one, _TOUCHING))
    return float(shared / total)


class Tissue:
    """How dense a structure is, from what was believed to be of it."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._seen: list[NDArray[Any]] = []
        self._low, self._high = -np.inf, np.inf

    def learn(self, hu: NDArray[Any]) -> None:
        """Take HU (n,) of the structure in; as many count of each cube."""
        if len(hu):
            self._seen.append(np.sort(hu)[:: max(1, len(hu) // _SAMPLE)])
            rare = [_RARE_PERCENT, 100 - _RARE_PERCENT]
            self._low, self._high = np.percentile(np.concatenate(self._seen), rare)

    def may_be(self, hu: NDArray[Any]) -> bool:
        """Whether HU (n,) can be of more of it: their median is not rare among those known; of few it may."""
        return len(hu) < _FEW_VOXELS or bool(self._low <= np.median(hu) <= self._high)
