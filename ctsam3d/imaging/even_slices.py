"""Slices at their true places to a volume of evenly spaced ones, by linear interpolation along the normal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def evened_out(slices: NDArray[Any], placed: NDArray[np.float64], count: int) -> NDArray[Any]:
    """Interpolate between the two slices on either side of each place of an even grid.

    Args:
        slices: int16 or float32 (slices, rows, columns); or bool, of which a new slice holds what either
            neighbour does.
        placed: (slices) the grid index of each, increasing from 0 to `count` - 1.
        count: slices of the grid.

    Returns:
        (count, rows, columns) of the same type. A slice that lies on the grid is kept as it is.
    """
    even = np.empty((count, *slices.shape[1:]), slices.dtype)
    for k in range(count):
        upper = int(np.searchsorted(placed, k))
        if placed[upper] == k:
            even[k] = slices[upper]
            continue
        below, above = slices[upper - 1], slices[upper]
        if slices.dtype == np.bool_:
            even[k] = below | above
            continue
        share = np.float32((k - placed[upper - 1]) / (placed[upper] - placed[upper - 1]))
        between = below + share * (above.astype(np.float32) - below)
        even[k] = np.rint(between) if slices.dtype.kind == "i" else between
    return even
