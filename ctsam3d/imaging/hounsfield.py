"""Values to Hounsfield units with air as the floor, and which voxels were measured; a check that it is CT."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.orientation import to_canonical
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.outcome import Reason, Rejected

MAX_HU = 32767
# Noise takes air a few hundred HU below -1000; nothing measured lies below this. Scanners fill the corners
# outside a round field of view with -2000, -2048, -3024 and the like, often without declaring a padding
# value.
UNMEASURED_BELOW_HU = -1500
MIN_RANGE_HU = 50
_SOFT_TISSUE_HU = (-200, 300)
_MIN_SOFT_TISSUE_FRACTION = 1e-3
# Soft tissue that sits around +1000 while nothing is as dark as air: values whose offset was never
# subtracted.
_SHIFTED_TISSUE_HU = (800, 1250)
_SHIFTED_TISSUE_FRACTION = 0.15
_DARKEST_AIR_HU = -500
_SAMPLES = 2_000_000


def reaching_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a mask (rows, columns) that a straight run along a row or column joins to an edge.

    Enough for what lies outside a convex field of view; dark streaks inside the body are left out.
    """
    along = np.logical_and.accumulate
    return (
        along(mask, axis=0)
        | along(mask[::-1], axis=0)[::-1]
        | along(mask, axis=1)
        | along(mask[:, ::-1], axis=1)[:, ::-1]
    )


def hu_from_values(
    values: NDArray[Any], geometry: Geometry
) -> tuple[NDArray[np.int16] | NDArray[np.float32], NDArray[np.bool_] | None]:
    """Values (z, y, x) of a file to HU as int16 (all whole) or float32, floored at AIR_HU, and padding.

    The padding mask is None where there is none. What is not finite counts as lower than anything measured.
    """
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        whole = bool(finite.all()) and bool((np.rint(values) == values).all())
        if not finite.all():
            values = np.where(finite, values, UNMEASURED_BELOW_HU - 1)
    else:
        whole = True
        if values.dtype != np.int16:
            values = values.astype(np.int64)  # unsigned types cannot be compared with, or clipped at, air
    unmeasured = np.ascontiguousarray(values < UNMEASURED_BELOW_HU)
    hu = np.ascontiguousarray(np.clip(values, AIR_HU, MAX_HU).astype(np.int16 if whole else np.float32))
    if not unmeasured.any():
        return hu, None
    for picture in to_canonical(unmeasured, geometry):  # axial pictures, as views
        if picture.any():
            picture[...] = reaching_edge(picture)
    return hu, (unmeasured if unmeasured.any() else None)


def check_plausible(hu: NDArray[Any], padding: NDArray[np.bool_] | None) -> None:
    """Refuse what cannot be HU of a body: constant, without soft tissue, or with air far from -1000.

    Raises:
        Rejected: HU_IMPLAUSIBLE.
    """
    stride = max(1, math.ceil((hu.size / _SAMPLES) ** 0.5))
    sample = hu[:, ::stride, ::stride]
    measured = sample[~padding[:, ::stride, ::stride]] if padding is not None else sample.ravel()
    if measured.size == 0:
        raise Rejected(Reason.HU_IMPLAUSIBLE, "every voxel is padding")
    low, high = float(measured.min()), float(measured.max())
    if high - low < MIN_RANGE_HU:
        raise Rejected(
            Reason.HU_IMPLAUSIBLE, f"values span {high - low:.0f} HU, expected at least {MIN_RANGE_HU}"
        )
    tissue = _fraction(measured, _SOFT_TISSUE_HU)
    if tissue < _MIN_SOFT_TISSUE_FRACTION:
        raise Rejected(Reason.HU_IMPLAUSIBLE, f"{tissue:.2%} of the voxels are soft tissue")
    darkest = float(np.percentile(measured, 1))
    shifted = _fraction(measured, _SHIFTED_TISSUE_HU)
    if darkest > _DARKEST_AIR_HU and shifted > _SHIFTED_TISSUE_FRACTION:
        raise Rejected(
            Reason.HU_IMPLAUSIBLE,
            f"darkest voxels at {darkest:.0f} HU and {shifted:.0%} of all near +1000 HU",
        )


def _fraction(values: NDArray[Any], window_hu: tuple[int, int]) -> float:
    return float(np.count_nonzero((values >= window_hu[0]) & (values <= window_hu[1]))) / values.size
