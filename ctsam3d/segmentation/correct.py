"""Correct a cube's answer where the coarse masks say for certain that it is wrong: an answer in, clicks out.

A person who sees a mask run into the neighbouring organ clicks there, and so does this: a negative click in the
thickest part that is surely another structure's, a positive one in the thickest part that is surely this one's and was
missed. Where the coarse masks are unsure the network is believed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import Patch

_LEAST_DEPTH = (
    3.0  # model voxels from the border of a wrong part, for a click to be worth its cube's second answer
)


def correcting_clicks(
    owners: SureOwners, patch: Patch, answer: NDArray[np.float32]
) -> tuple[VoxelClick, ...]:
    """At most one negative and one positive click for a cube whose answer (64, 64, 64) is surely wrong somewhere."""
    own, there = owners.names.index(patch.structure) + 1, owners.over(patch)
    mask = answer > 0.5
    clicks = []
    for wrong, positive in ((mask & (there != own) & (there > 0), False), (~mask & (there == own), True)):
        place = _deepest(wrong)
        if place is not None:
            z, y, x = (int(p) + o for p, o in zip(place, patch.origin_zyx, strict=True))
            clicks.append(VoxelClick((z, y, x), positive))
    return tuple(clicks)


def _deepest(wrong: NDArray[np.bool_]) -> tuple[np.intp, ...] | None:
    """The voxel farthest from the border of a region, the cube's faces aside; None of a thin one."""
    box = ndimage.find_objects(wrong.view(np.uint8))
    if not box or min(s.stop - s.start for s in box[0]) < 2 * _LEAST_DEPTH - 1:
        return None
    depth = ndimage.distance_transform_edt(np.pad(wrong[box[0]], 1))
    if depth.max() < _LEAST_DEPTH:
        return None
    at = np.unravel_index(int(depth.argmax()), depth.shape)
    return tuple(a - 1 + s.start for a, s in zip(at, box[0], strict=True))
