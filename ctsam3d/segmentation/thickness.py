"""How thick things are on the model grid, for rules that know thin from thick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def thick_parts(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """What is left of a mask (z, y, x) after an opening by so many voxels.

    Beyond the box the image goes on: what touches its faces is taken to be as thick as it looks.
    """
    padded = np.pad(mask, voxels, mode="edge")
    opened: NDArray[np.bool_] = ndimage.binary_opening(padded, iterations=voxels)
    return opened[(slice(voxels, -voxels),) * 3]
