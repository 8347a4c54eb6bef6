"""Where an image is blanked but for the spinal canal: a coarse cord that ends there in, the cord all through it out.

Images for planning a radiation may be blanked to air below the neck but for a tube of some 20 mm around the cord (three
in eight of Open-KBP's heads). A network takes what it sees of that for a bone. But a tube that goes on from a cord and
is as thin as that has the cord along its middle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.network.config import SPACING_MM
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure

_SHOWN_HU = -700.0
_LEAST_CM2, _MOST_CM2 = 1.0, 12.0  # of a tube across; a neck has 80
_APART_MM = 12.0  # of a tube's middles in neighbouring blocks
_GAP_MM = 30.0  # without a tube, before the first or between two
_RADIUS_MM = 6.0  # of a cord, 1.1 cm2
_BLOCK_MM = COARSE_FACTOR * SPACING_MM

_Middle = NDArray[np.float64]  # (y, x) in blocks


def through_bare_canal(cord: CoarseStructure, hu: NDArray[Any]) -> CoarseStructure:
    """The cord with its way down through slices in which it lies in a tube, apart from all else.

    Args:
        cord: as it was found, not empty.
        hu: (z, y, x) on the model grid.
    """
    mask, probability = cord.mask.copy(), cord.probability.copy()
    y, x = np.ogrid[: mask.shape[1], : mask.shape[2]]
    for z, middle in _way_down(mask, hu):
        distance_mm = np.hypot(y - middle[0], x - middle[1]) * _BLOCK_MM
        mask[z] |= distance_mm < _RADIUS_MM
        probability[z] = np.maximum(probability[z], 1 - distance_mm / (2 * _RADIUS_MM))
    return replace(cord, mask=mask, probability=probability)


def _way_down(cord: NDArray[np.bool_], hu: NDArray[Any]) -> list[tuple[int, _Middle]]:
    """Slices of blocks below the lower end of a cord, and the middle of its tube in each; in gaps on a line."""
    way: list[tuple[int, _Middle]] = []
    last = int(np.flatnonzero(cord.any(axis=(1, 2)))[0])
    middle: _Middle = np.argwhere(cord[last]).mean(axis=0)
    for z in range(last - 1, -1, -1):
        steps = last - z
        if steps * _BLOCK_MM > _GAP_MM:
            break
        tubes = _tubes(hu[min(z * COARSE_FACTOR + COARSE_FACTOR // 2, len(hu) - 1)])
        far_mm = np.hypot(*(tubes - middle).T) * _BLOCK_MM
        if len(tubes) and far_mm.min() <= steps * _APART_MM:
            way_on = (tubes[far_mm.argmin()] - middle) / steps
            way += [(last - n, middle + n * way_on) for n in range(1, steps + 1)]
            last, middle = z, tubes[far_mm.argmin()]
    return way


def _tubes(hu: NDArray[Any]) -> NDArray[np.float64]:
    """The middles (n, 2) of a slice's (y, x) pieces that may be a canal's tube; in a body nothing lies apart in air."""
    pieces, _ = ndimage.label(hu > _SHOWN_HU)
    cm2 = np.bincount(pieces.ravel())[1:] * SPACING_MM**2 / 100
    thin = 1 + np.flatnonzero((cm2 >= _LEAST_CM2) & (cm2 <= _MOST_CM2))
    middles = np.array(ndimage.center_of_mass(pieces > 0, pieces, thin)).reshape(-1, 2)
    return (middles + 0.5) / COARSE_FACTOR - 0.5
