"""Bones as the image shows them: where a mask says roughly where a bone is, density says where it ends.

Ribs, shoulder blades and the processes of vertebrae are thinner than a coarse network's voxels, and masks miss much of
them. For reviews (`ctsam3d.training.review`), where somebody looks at what comes of it. Arrays are (z, y, x), axes
along LPS+, spacings in mm (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cc3d
import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

Mask = NDArray[np.bool_]
Masks = Mapping[str, Mask]

_RIB_HU, _BLADE_HU, _PROCESS_HU = 150.0, 160.0, 180.0
_BLUR_VOXELS = 0.7  # in plane; noise of a voxel is no bone
_THIN_SLICE_MM = 2.0  # slices no thicker are blurred through as well
_WALL_MM = 16.0  # what is dense lies so near to the organs of the chest, or is no rib
_NEAR_RIB_MM = 10.0  # or so near to what was found of the ribs
_BESIDE_SPINE_MM = 4.0  # the rim of a vertebra, which may belong to it
_LEAST_RIB_ML = 0.3
_LEAST_FOUND = 0.15  # of a dense piece, found by the mask before
_MEDIASTINUM_MM = 8.0  # so deep between the lungs are vessels with contrast medium
_HEADS_MM = 12.0  # and so near to the spine heads of ribs
_BLADE_MM = 25.0  # how far a shoulder blade reaches beyond its mask
_PROCESSES_MM = ((-12.0, 12.0), (4.0, 55.0))  # left and right of the canal, and behind it
_CLOSED_MM = 3.5
_SOLID_HU = 140.0  # of the shells of thick bones
_SHELL_MM = 1.0  # what is closed of a shell before marrow is looked for in it
_NOTCH_MM = 1.5  # and of the bone after
_MARROW_BLUR_MM = 1.5  # in plane
_ORGANS = ("lung_left", "lung_right", "liver", "spleen", "heart", "stomach")
_NO_RIBS = (
    "vertebrae", "sternum", "scapula_left", "scapula_right", "clavicula_left", "clavicula_right", "humerus_left",
    "humerus_right", "aorta", "heart", "inferior_vena_cava", "kidney_left", "kidney_right", "liver", "spleen",
    "spinal_cord", "costal_cartilages", "trachea",
)  # fmt: skip


def as_dense(name: str, hu: NDArray[np.int16], masks: Masks, spacing_mm: NDArray[np.float64]) -> Mask:
    """The bone that a mask found part of.

    Args:
        name: of the bone; others than ribs and shoulder blades are what is dense of them and what that encloses.
        hu: of the image.
        masks: of all structures that are known, this one among them.
        spacing_mm: of the voxels (z, y, x).
    """
    if name == "ribs":
        return _ribs(hu, masks, spacing_mm)
    if name.startswith("scapula"):
        return _shoulder_blade(name, hu, masks, spacing_mm)
    if name != "vertebrae":
        return _solid(masks[name], hu, spacing_mm, slice_by_slice=True)
    # the rims of two bodies may enclose the disc between them in a slice, but not in three dimensions
    bone = _solid(masks[name], hu, spacing_mm, slice_by_slice=False)
    canal = _any_of(masks, ["spinal_cord"], bone.shape)
    return (bone | _processes(hu, canal, spacing_mm)) & ~canal


def doubtful(
    mask: Mask, bone: Mask, hu: NDArray[np.int16], spacing_mm: NDArray[np.float64], soft_hu: float
) -> Mask:
    """What of a mask may be bone although the image does not show it: no softer than marrow can be.

    Args:
        mask: of a bone, as it was found.
        bone: as the image shows it (`as_dense`).
        hu: of the image.
        spacing_mm: of the voxels (z, y, x).
        soft_hu: softer is no marrow.
    """
    blurred = ndimage.gaussian_filter(hu.astype(np.float32), [0.0, *(_MARROW_BLUR_MM / spacing_mm[1:])])
    return mask & ~bone & (blurred >= soft_hu)


def dense(hu: NDArray[np.int16], spacing_mm: NDArray[np.float64], least_hu: float = _RIB_HU) -> Mask:
    """Where an image is as dense as bone; contrast medium is as well."""
    through = _BLUR_VOXELS if spacing_mm[0] <= _THIN_SLICE_MM else 0.0
    found: Mask = (
        ndimage.gaussian_filter(hu.astype(np.float32), [through, _BLUR_VOXELS, _BLUR_VOXELS]) > least_hu
    )
    return found


def _ribs(hu: NDArray[np.int16], masks: Masks, spacing_mm: NDArray[np.float64]) -> Mask:
    others = _any_of(masks, _NO_RIBS, hu.shape)
    off_spine_mm = _off_mm(_any_of(masks, ["vertebrae"], hu.shape), spacing_mm)
    off_ribs_mm = _off_mm(masks["ribs"], spacing_mm)
    wall = (_off_mm(_any_of(masks, _ORGANS, hu.shape), spacing_mm) < _WALL_MM) | (off_ribs_mm < _NEAR_RIB_MM)
    pieces = cc3d.connected_components(
        (dense(hu, spacing_mm) & wall & ~others).view(np.uint8), connectivity=26
    )
    sizes = np.bincount(pieces.ravel())
    found = np.bincount(pieces[ndimage.binary_dilation(masks["ribs"])], minlength=len(sizes))
    kept = (sizes * spacing_mm.prod() / 1000 > _LEAST_RIB_ML) & (found > _LEAST_FOUND * sizes)
    kept[0] = False
    lungs = _any_of(masks, ["lung_left", "lung_right"], hu.shape)
    inside = _between(lungs, spacing_mm) & (off_spine_mm > _HEADS_MM)
    return _filled(kept[pieces] & ~inside, spacing_mm) & wall & ~others & (off_spine_mm > _BESIDE_SPINE_MM)


def _shoulder_blade(name: str, hu: NDArray[np.int16], masks: Masks, spacing_mm: NDArray[np.float64]) -> Mask:
    side = name.removeprefix("scapula_")
    others = _any_of(masks, ["ribs", f"humerus_{side}", f"clavicula_{side}", "vertebrae"], hu.shape)
    near = _off_mm(masks[name], spacing_mm) < _BLADE_MM
    bone = (dense(hu, spacing_mm, _BLADE_HU) & near & ~others) | masks[name]
    largest = cc3d.largest_k(bone.view(np.uint8), k=1, connectivity=26) > 0
    return _filled(largest, spacing_mm) & ~others


def _solid(
    mask: Mask, hu: NDArray[np.int16], spacing_mm: NDArray[np.float64], *, slice_by_slice: bool
) -> Mask:
    """What is dense of a mask, a voxel beyond it, and the marrow that it encloses."""
    shell = dense(hu, spacing_mm, _SOLID_HU)
    shell = ndimage.binary_dilation(mask & shell, mask=shell)
    shell = _closed(shell, spacing_mm, _SHELL_MM)
    if slice_by_slice:
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in shell])
    else:  # a body that the image cuts is enclosed by the image's end
        ends = np.pad(shell, ((1, 1), (0, 0), (0, 0)), constant_values=True)
        filled = ndimage.binary_fill_holes(ends)[1:-1]
    return _closed(filled, spacing_mm, _NOTCH_MM) & (mask | shell)


def _processes(hu: NDArray[np.int16], canal: Mask, spacing_mm: NDArray[np.float64]) -> Mask:
    """What is dense behind the spinal canal: the spinous processes."""
    bone = dense(hu, spacing_mm, _PROCESS_HU)
    (left, right), (front, back) = _PROCESSES_MM
    behind = np.zeros_like(canal)
    for z in np.flatnonzero(canal.any(axis=(1, 2))):
        y, x = np.argwhere(canal[z]).mean(axis=0)
        rows = (np.arange(canal.shape[1]) - y) * spacing_mm[1]
        columns = (np.arange(canal.shape[2]) - x) * spacing_mm[2]
        behind[z] = ((rows > front) & (rows < back))[:, None] & ((columns > left) & (columns < right))
    return bone & behind


def _between(lungs: Mask, spacing_mm: NDArray[np.float64]) -> Mask:
    """The convex hull of both lungs in each slice, but for its rim."""
    inside = np.zeros_like(lungs)
    y, x = np.indices(lungs.shape[1:])
    for z in np.flatnonzero(lungs.any(axis=(1, 2))):
        places = np.argwhere(lungs[z])
        if np.ptp(places, axis=0).min() > 0:
            hull = Outline(places[ConvexHull(places).vertices])
            inside[z] = hull.contains_points(np.column_stack([y.ravel(), x.ravel()])).reshape(y.shape)
    rim = [1e9, *spacing_mm[1:]]  # slice by slice
    deep: Mask = ndimage.distance_transform_edt(inside, sampling=rim) > _MEDIASTINUM_MM
    return deep


def _filled(mask: Mask, spacing_mm: NDArray[np.float64]) -> Mask:
    """Closed and without holes, slice by slice: marrow is not dense."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in _closed(mask, spacing_mm, _CLOSED_MM)])


def _closed(mask: Mask, spacing_mm: NDArray[np.float64], gap_mm: float) -> Mask:
    """Without gaps of so many mm to both sides, slice by slice."""
    steps = max(1, round(gap_mm / spacing_mm[1]))
    padded = np.pad(mask, ((0, 0), (steps, steps), (steps, steps)))
    closed: Mask = ndimage.binary_closing(padded, np.ones((1, 3, 3)), iterations=steps)[
        :, steps:-steps, steps:-steps
    ]
    return closed


def _any_of(masks: Masks, names: Iterable[str], shape: tuple[int, ...]) -> Mask:
    found = np.zeros(shape, dtype=bool)
    for name in names:
        if name in masks:
            found |= masks[name]
    return found


def _off_mm(mask: Mask, spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance to a mask; infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    off: NDArray[np.float64] = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return off
