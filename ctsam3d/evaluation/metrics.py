"""Compare two masks on one grid: found and true voxels in, overlap, surface distances and volumes out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.imaging.geometry import Geometry

TOLERANCE_MM = 2.0
_PERCENTILE = 95

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Metrics:
    """How a mask compares with the truth; None where a number has no meaning.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|); None where both are empty.
        surface_dice: share of both surfaces that lies within 2 mm of the other; None where both are empty or it was not
            asked for. Where a structure is cut by the image's edge the cut counts as surface.
        hd95_mm: 95th percentile of the distances from either surface to the other, the larger of the two; None where
            one of them is empty, or where it was not asked for.
        truth_ml: volume of the truth.
        found_ml: volume of the mask.
    """

    dice: float | None
    surface_dice: float | None
    hd95_mm: float | None
    truth_ml: float
    found_ml: float

    @property
    def error_ml(self) -> float:
        """Volume found too much; negative where it is too little."""
        return self.found_ml - self.truth_ml

    @property
    def error_percent(self) -> float | None:
        """Of the true volume; None where there is none."""
        return 100 * self.error_ml / self.truth_ml if self.truth_ml else None


def compare(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], geometry: Geometry, *, surfaces: bool = True
) -> Metrics:
    """All metrics of one structure, computed within the box that both masks span.

    Args:
        found: bool (z, y, x).
        truth: bool (z, y, x) of the same shape.
        geometry: of their grid.
        surfaces: compare them as well, which takes longer than all the rest; else those metrics are None.
    """
    counts = int(np.count_nonzero(found)), int(np.count_nonzero(truth))
    found_ml, truth_ml = (n * geometry.voxel_volume_ml for n in counts)
    box = union_box(found, truth)
    if box is None:
        return Metrics(None, None, None, truth_ml, found_ml)
    mine, true = found[box], truth[box]
    dice = 2 * int(np.count_nonzero(mine & true)) / sum(counts)
    if not surfaces:
        return Metrics(dice, None, None, truth_ml, found_ml)
    if 0 in counts:
        return Metrics(dice, 0.0, None, truth_ml, found_ml)
    return Metrics(dice, *_surfaces(mine, true, geometry.spacing_xyz_mm[::-1]), truth_ml, found_ml)


def union_box(*masks: NDArray[np.bool_], margin: int = 0) -> Box | None:
    """The smallest box that holds all voxels of all masks and so many more on each side; None if there are none."""
    boxes = [found[0] for mask in masks if (found := ndimage.find_objects(mask.view(np.uint8)))]
    if not boxes:
        return None
    z, y, x = (
        slice(max(0, min(b[axis].start for b in boxes) - margin), max(b[axis].stop for b in boxes) + margin)
        for axis in range(3)
    )
    return z, y, x


def _surfaces(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_zyx_mm: tuple[float, ...]
) -> tuple[float, float]:
    """Surface Dice and 95th percentile of the distances, of two masks that both have voxels."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    mine, true = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (found, truth))
    spacing = [float(mm) for mm in spacing_zyx_mm]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # MONAI's own functions call each other in a deprecated way
        # surfaces weighed by their area, as in the reference implementation of this metric
        within = compute_surface_dice(
            mine, true, [TOLERANCE_MM], include_background=True, spacing=spacing, use_subvoxels=True
        )
        distance = compute_hausdorff_distance(
            mine, true, include_background=True, percentile=_PERCENTILE, spacing=spacing
        )
    return float(within), float(distance)
