"""Hold a bone to what is dense: a probability and the image in, the bone as the image shows it out.

A network at 1.5 mm that was told where to look by voxels of 6 mm draws bones too thick and breaks ribs into pieces,
while their border is as plain in the image as that of a lung. Thin bones go on along what is dense for a short way, as
far as it stays thin: a rib ends at the spine. Others keep what is dense of them, with what that encloses: marrow is
not dense. Where little of a mask is dense (thick slices, osteoporosis) it is left as it is. Between vertebrae lie
discs, which are as soft as marrow may be; but marrow is enclosed as seen from the side or the front, and a disc is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.segmentation.thickness import thick_parts

Mask = NDArray[np.bool_]

VERTEBRAE = "vertebrae"
THIN = frozenset({"ribs", "scapula_left", "scapula_right"})
# a sacrum's marrow is as little dense as what is around it: 0.66 Dice became 0.47 to 0.60
SOLID = frozenset(
    {VERTEBRAE, "hip_left", "hip_right", "femur_left", "femur_right", "humerus_left", "humerus_right"}
)
_DENSE_HU = 140.0
_VERTEBRA_HU = 120.0  # of a vertebra most marrow is as dense
_DISC_HU = 60.0  # at least; what is nearer to it than to a case's vertebrae is none
_DEEP_VOXELS = 4  # within a mask, to tell how dense vertebrae are
_BLUR_VOXELS = 0.5  # noise of a voxel is no bone
_LEAST_DENSE = 0.25  # of a mask
_THIN_GROWTH_VOXELS, _SOLID_GROWTH_VOXELS = 16, 2
_THICK_VOXELS = 4  # what an erosion of so many leaves something of is no rib
_THIN_CLOSING_VOXELS, _SOLID_CLOSING_VOXELS = 2, 6
_GROWN_PROBABILITY = np.float32(0.55)  # so that a neighbour, where the network sees it, has it


def as_dense(name: str, probability: NDArray[np.float32], hu: NDArray[Any]) -> NDArray[np.float32]:
    """The probability of a bone, 0 where it is not and at least 0.55 where it must be.

    Args:
        name: of THIN or SOLID.
        probability: float32 (z, y, x) over a box of the model grid.
        hu: the image over the same box.
    """
    mask = probability > 0.5
    blurred = ndimage.gaussian_filter(hu.astype(np.float32), _BLUR_VOXELS)
    dense = blurred > (_VERTEBRA_HU if name == VERTEBRAE else _DENSE_HU)
    sure = mask & dense
    if np.count_nonzero(sure) <= _LEAST_DENSE * np.count_nonzero(mask):
        return probability
    if name in THIN:
        bone = _thin(sure, dense)
    else:
        grown = ndimage.binary_dilation(sure, iterations=_SOLID_GROWTH_VOXELS, mask=dense)
        within = grown | ndimage.binary_dilation(mask)
        bone = _solid(grown)
        if name == VERTEBRAE:
            bone = _without_discs(bone, grown, mask, blurred)
        bone &= within
    return np.where(bone, np.maximum(probability, _GROWN_PROBABILITY), np.float32(0))


def _thin(sure: Mask, dense: Mask) -> Mask:
    thin = dense & ~thick_parts(dense, _THICK_VOXELS)
    grown = ndimage.binary_dilation(sure, iterations=_THIN_GROWTH_VOXELS, mask=sure | thin)
    return _closed(grown, _THIN_CLOSING_VOXELS)


def _solid(grown: Mask) -> Mask:
    closed = _closed(grown, _SOLID_CLOSING_VOXELS)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in closed])


def _without_discs(bone: Mask, grown: Mask, mask: Mask, hu: NDArray[np.float32]) -> Mask:
    """Without what is soft and not enclosed, be it from the side or from the front."""
    shell = _closed(grown, 1)
    enclosed = shell.copy()
    for axis in (1, 2):
        for plane, filled in zip(np.moveaxis(shell, axis, 0), np.moveaxis(enclosed, axis, 0), strict=True):
            filled |= ndimage.binary_fill_holes(plane)
    deep = ndimage.binary_erosion(mask, iterations=_DEEP_VOXELS)
    inside_hu = float(np.median(hu[deep])) if deep.any() else 0.0
    return (bone & (hu >= (_DISC_HU + inside_hu) / 2)) | enclosed


def _closed(mask: Mask, voxels: int) -> Mask:
    padded = ndimage.binary_closing(np.pad(mask, voxels), iterations=voxels)
    closed: Mask = padded[(slice(voxels, -voxels),) * 3]
    return closed
