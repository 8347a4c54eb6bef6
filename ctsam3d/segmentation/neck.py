"""A mask that has leaked, clicks in the structure and one beside it in; what lies beyond the neck of the leak out.

Wherever a leak is clicked on, the whole of it is meant. It is told from the structure by the widest way between them:
the narrowest place on that way is the neck, and what hangs on the wrong click when the mask is worn down to the neck's
width is the leak. Where the click does not lie much deeper than that there is no neck, and nothing is cut: it may be
the rim alone that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

_NARROW = 0.6  # of the wrong click's depth in the mask, for a place to be a neck


def beyond_the_neck(
    mask: NDArray[np.bool_], inside: Sequence[tuple[int, int, int]], outside: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Voxels (z, y, x) of a mask that belong to a click outside the structure rather than to those inside it.

    Args:
        mask: (z, y, x).
        inside: voxels of the structure; those that are not in the mask do not count.
        outside: a voxel that the mask should not cover.
    """
    none = np.zeros(mask.shape, dtype=bool)
    inside = [voxel for voxel in inside if mask[voxel]]
    if not mask[outside] or not inside:
        return none
    depth = edt.edt(mask, black_border=True)

    def joined(level: float) -> NDArray[np.bool_] | None:
        """What hangs together with the wrong click where the mask is deeper than this; None if an inside click does."""
        pieces = cc3d.connected_components((depth > level).view(np.uint8), connectivity=6)
        own = pieces == pieces[outside]
        return None if any(own[voxel] for voxel in inside) else own

    # the neck's half width: the greatest depth at which they are still joined, between two whole voxels
    low, high = 0, int(np.ceil(depth[outside])) - 1
    if high <= 0 or joined(0) is not None:  # on the rim, or in pieces already
        return none
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if joined(middle) is None else (low, middle)
    if high > _NARROW * depth[outside] or (leak := joined(high)) is None:
        return none
    kept = (depth > high) & ~leak
    # a click in what is as thin as the neck still holds what is nearer to it than to the leak
    for voxel in inside:
        kept[voxel] = True
    return _nearer(mask, leak, kept)


def beyond_what_is_possible(
    mask: NDArray[np.bool_], inside: Sequence[tuple[int, int, int]], most_voxels: int
) -> NDArray[np.bool_]:
    """Voxels (z, y, x) to take from a mask that is larger than its structure can be, beyond as wide a neck as must be.

    Args:
        mask: (z, y, x).
        inside: voxels of the structure; those that are not in the mask do not count.
        most_voxels: that the structure can have. Where no neck leaves so few, nothing is taken.
    """
    depth = edt.edt(mask, black_border=True)
    inside = [voxel for voxel in inside if mask[voxel]]
    # worn down further, nothing would be left where the clicks are
    for level in range(int(np.ceil(min((depth[voxel] for voxel in inside), default=0)))):
        deeper = depth > level
        pieces = cc3d.connected_components(deeper.view(np.uint8), connectivity=6)
        own = np.isin(pieces, [pieces[voxel] for voxel in inside])
        if np.count_nonzero(own) > most_voxels:
            continue
        beyond = _nearer(mask, deeper & ~own, own)
        if np.count_nonzero(mask) - np.count_nonzero(beyond) <= most_voxels:
            return beyond
    return np.zeros(mask.shape, dtype=bool)


def _nearer(
    mask: NDArray[np.bool_], these: NDArray[np.bool_], others: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels of a mask that lie nearer to these than to others; none where there are no others."""
    if not these.any() or not others.any():
        return np.zeros(mask.shape, dtype=bool)
    # what was worn away belongs to the nearer of what is left
    nearer: NDArray[np.bool_] = mask & (edt.edt(~these) < edt.edt(~others))
    return nearer
