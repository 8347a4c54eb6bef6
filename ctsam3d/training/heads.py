"""Brain and skull as the image shows them, from the crown down to where the skull no longer closes around the brain.

For reviews, like `bones`: labelled heads are few, and inside a closed ring of bone there is nothing to confuse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

BRAIN, SKULL = "brain", "skull"
_BONE_HU = 250.0
_GAP_MM = 12.0  # in the ring, where it is thin or holds air, that is closed
_BRAIN_HU = (-30.0, 140.0)
_MOSTLY = 0.85  # of what the ring holds, within these HU
_AREA_MM2 = (500.0, 25_000.0)
_GOES_ON = 0.6  # of a slice's brain, below or above the next one's
_WALL_MM, _DIPLOE_MM = 14.0, 20.0  # bone belongs to the ring so near to the brain; what it encloses, so near


def vault(hu: NDArray[np.int16], spacing_mm: NDArray[np.float64]) -> tuple[Mask, Mask]:
    """Brain and skull of the closed part of a head; both empty where the image does not show its crown.

    Args:
        hu: of the image (z, y, x), axes along LPS+.
        spacing_mm: of its voxels (z, y, x).
    """
    brain, skull = np.zeros(hu.shape, dtype=bool), np.zeros(hu.shape, dtype=bool)
    above: Mask | None = None
    for z in reversed(range(len(hu))):
        inside = _enclosed(hu[z], spacing_mm)
        if inside is None or (above is not None and not _goes_on(inside, above)):
            if above is not None:
                break
            continue
        brain[z] = above = inside
        off_mm = ndimage.distance_transform_edt(~inside, sampling=spacing_mm[1:])
        ring = (hu[z] > _BONE_HU) & (off_mm < _WALL_MM)
        skull[z] = ndimage.binary_fill_holes(ring | inside) & ~inside & (off_mm < _DIPLOE_MM)
    return brain, skull


def _enclosed(plane: NDArray[np.int16], spacing_mm: NDArray[np.float64]) -> Mask | None:
    """The largest part of a slice that bone encloses, if it looks like brain."""
    steps = max(1, round(_GAP_MM / spacing_mm[1]))
    bone = np.pad(plane > _BONE_HU, 2 * steps)
    closed = ndimage.binary_closing(bone, iterations=steps)[2 * steps : -2 * steps, 2 * steps : -2 * steps]
    parts, count = ndimage.label(ndimage.binary_fill_holes(closed) & ~closed)
    if count == 0:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    inside: Mask = parts == sizes.argmax()
    area_mm2 = sizes.max() * spacing_mm[1] * spacing_mm[2]
    brain = (plane[inside] > _BRAIN_HU[0]) & (plane[inside] < _BRAIN_HU[1])
    return inside if _AREA_MM2[0] < area_mm2 < _AREA_MM2[1] and brain.mean() > _MOSTLY else None


def _goes_on(inside: Mask, above: Mask) -> bool:
    smaller = min(np.count_nonzero(inside), np.count_nonzero(above))
    return bool(np.count_nonzero(inside & above) > _GOES_ON * smaller)
