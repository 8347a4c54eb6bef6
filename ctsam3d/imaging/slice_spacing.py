"""Distances between slices to one grid: even spacing, a spacing that changes and can be evened out, or a refusal.

A stack is even where all distances agree. It can be evened out where it is made of runs of slices, each even in itself,
as heads used to be scanned thin below and thick above: between two slices that near, nothing is guessed that resampling
to the model's grid would not interpolate as well. Lone wide gaps are lost slices, and anything else is refused.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ctsam3d.outcome import Reason, Rejected

SPACING_RELATIVE_TOLERANCE = 1e-2  # of one distance between slices from their median
RUN_RELATIVE_TOLERANCE = 2e-2  # of one distance from the median of its run, where spacing changes
MAX_UNEVEN_GAP_MM = 10.0
MAX_UNEVEN_RATIO = 4.0  # of the widest to the narrowest run
_SHORTEST_RUN = 3  # distances; fewer are not a way of scanning but a fault


def place_on_grid(along_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where slices lie on an evenly spaced grid from the first to the last of them.

    Args:
        along_mm: at least two positions along the normal, increasing.

    Returns:
        float64 (slices): the grid index of each slice; the whole numbers from 0 where the stack is even, else
        fractions between them, the first and the last of them whole.

    Raises:
        Rejected: SLICES_MISSING or SPACING_IRREGULAR.
    """
    gaps = np.diff(along_mm)
    if _is_even(gaps, SPACING_RELATIVE_TOLERANCE):
        return np.arange(len(along_mm), dtype=np.float64)
    _refuse_lost_slices(gaps)
    runs = _runs(gaps)
    if runs is None:
        low, high = float(gaps.min()), float(gaps.max())
        raise Rejected(
            Reason.SPACING_IRREGULAR, f"distances between slices range from {low:.3f} to {high:.3f} mm"
        )
    extent = along_mm[-1] - along_mm[0]
    steps = max(1, round(float(extent / min(runs))))
    placed: NDArray[np.float64] = (along_mm - along_mm[0]) / extent * steps
    whole = np.rint(placed)
    # Slices that the grid meets to within the tolerance of an even stack are on it: they are kept as they are.
    return np.where(np.abs(placed - whole) <= SPACING_RELATIVE_TOLERANCE, whole, placed)


def _is_even(gaps: NDArray[np.float64], tolerance: float) -> bool:
    median = float(np.median(gaps))
    return bool((np.abs(gaps - median) <= tolerance * median).all())


def _refuse_lost_slices(gaps: NDArray[np.float64]) -> None:
    """Lost slices leave a few gaps that are multiples of the rest; several in a row are a spacing that changes."""
    base = float(np.median(gaps[gaps <= gaps.min() * (1 + 2 * SPACING_RELATIVE_TOLERANCE)]))
    multiples = np.rint(gaps / base)
    wide = multiples > 1
    whole = bool((np.abs(gaps - multiples * base) <= SPACING_RELATIVE_TOLERANCE * gaps).all())
    longest_run = max((len(list(group)) for is_wide, group in groupby(wide) if is_wide), default=0)
    if whole and wide.any() and 2 * int(wide.sum()) <= len(gaps) and longest_run < _SHORTEST_RUN:
        missing = int((multiples - 1).sum())
        raise Rejected(
            Reason.SLICES_MISSING, f"{missing} slices missing in {int(wide.sum())} gaps of {len(gaps)}"
        )


def _runs(gaps: NDArray[np.float64]) -> list[float] | None:
    """The spacing of each even run; None where the gaps are not made of such runs, or are too wide to fill."""
    groups: list[list[float]] = []
    for gap in gaps.tolist():
        if groups and abs(gap - float(np.median(groups[-1]))) <= RUN_RELATIVE_TOLERANCE * gap:
            groups[-1].append(gap)
        else:
            groups.append([gap])
    spacings = [float(np.median(group)) for group in groups]
    for i, group in enumerate(groups):
        if len(group) >= _SHORTEST_RUN:
            continue
        # From one run to the next there may be one step of a width between the two.
        beside = spacings[i - 1 : i + 2] if 0 < i < len(groups) - 1 else []
        if (
            len(group) > 1
            or not beside
            or not min(beside[0], beside[2]) <= group[0] <= max(beside[0], beside[2])
        ):
            return None
    narrow, wide = min(spacings), max(spacings)
    return spacings if wide <= MAX_UNEVEN_GAP_MM and wide <= MAX_UNEVEN_RATIO * narrow else None
