"""Hold a structure to what HU say for certain: a probability and the image in, the probability within the rule out.

The lungs' border is plain in the image, and a network at 1.5 mm still rounds it off by a voxel, which over so large a
surface is a tenth of their volume. Vessels and airways inside are thin and stay; the chest wall, the diaphragm and
solid tumours are thick and go. Air that joins a lung within a short way belongs to it, and so does the rim in which
lung and wall share a voxel: the network leaves it out, people who draw lungs do not. Gas in a bowel or stomach under a
thin diaphragm does not: it is a piece of its own, and emptier than the lung. The rule for bones is in `bones`.

A person's click outranks all of it: where the network heard one, the rule does not take its answer back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.segmentation import bones
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.patches import within
from ctsam3d.segmentation.thickness import thick_parts

AERATED = frozenset({"lung_left", "lung_right"})
_SOLID_HU = -300.0
_THIN_VOXELS = 2  # solid parts that an erosion of so many model voxels removes are vessels
_AIR_HU = -600.0
_GAS_HU = -940.0
_EMPTIER_HU = 100.0  # than the lung at least: in emphysema it cannot be told
_LEAST_GAS_VOXELS = 300  # 1 ml; smaller ones are bronchi
_GROWTH_VOXELS = (
    12  # how far a lung may reach into air the network missed: 18 mm, short of a windpipe's length
)
_RIM_VOXELS = 2  # how far a lung may reach on into voxels that it shares with what is solid
_GROWN_PROBABILITY = 0.6  # so that the other lung, where the network sees it, has it
_HEARD_DEPTHS = 3  # times a click's depth in what the rule changed: around it the network is believed


def within_intensity(
    name: str,
    probability: NDArray[np.float32],
    hu: NDArray[Any],
    clicks: Sequence[VoxelClick] = (),
) -> NDArray[np.float32]:
    """The probability, 0 where the structure cannot be and above a half where it must go on.

    Structures without a rule come back unchanged.

    Args:
        name: of the structure.
        probability: float32 (z, y, x) over a box of the model grid.
        hu: the image over the same box.
        clicks: that somebody made, as voxels of the box; those outside it count for nothing.
    """
    if name in bones.THIN or name in bones.SOLID:
        return _with_clicks_heard(probability, bones.as_dense(name, probability, hu), clicks)
    if name in AERATED:
        return _with_clicks_heard(probability, _aerated(probability, hu), clicks)
    return probability


def _with_clicks_heard(
    seen: NDArray[np.float32],
    ruled: NDArray[np.float32],
    clicks: Sequence[VoxelClick],
) -> NDArray[np.float32]:
    """What the rule makes of the network's answer, but for the pieces of it that go against a click."""
    mask, after = seen > 0.5, ruled > 0.5
    inside = [c for c in clicks if all(0 <= i < n for i, n in zip(c.zyx, seen.shape, strict=True))]
    undone = [c.zyx for c in inside if mask[c.zyx] == c.positive and after[c.zyx] != c.positive]
    if not undone:
        return ruled
    changes = mask.astype(np.uint8) - after  # taken away, or added
    depth, heard = edt.edt(changes, black_border=True), ruled.copy()
    for voxel in undone:
        reach = int(_HEARD_DEPTHS * depth[voxel])
        z, y, x = (slice(max(0, i - reach), i + reach + 1) for i in voxel)
        pieces = cc3d.connected_components(changes[z, y, x], connectivity=6)
        piece = np.equal(pieces, pieces[within((z, y, x), voxel)])
        heard[z, y, x][piece] = seen[z, y, x][piece]
    return heard


def _aerated(probability: NDArray[np.float32], hu: NDArray[Any]) -> NDArray[np.float32]:
    """A lung without what is solid, and with the air that joins it."""
    thick = thick_parts(hu > _SOLID_HU, _THIN_VOXELS)
    kept: NDArray[np.float32] = np.where(thick, np.float32(0), probability)
    mask = kept > 0.5
    gas = _gas_beside(mask, hu)
    kept[gas] = 0
    mask &= ~gas
    if mask.any():
        grown = ndimage.binary_dilation(mask, iterations=_GROWTH_VOXELS, mask=mask | (hu < _AIR_HU))
        grown = ndimage.binary_dilation(grown, iterations=_RIM_VOXELS, mask=grown | (hu < _SOLID_HU))
        kept[grown & ~mask] = _GROWN_PROBABILITY
    return kept


def _gas_beside(mask: NDArray[np.bool_], hu: NDArray[Any]) -> NDArray[np.bool_]:
    """Pieces of a lung's air (z, y, x) that do not hang together with most of it and are empty, with their rims."""
    pieces = cc3d.connected_components((mask & (hu < _AIR_HU)).view(np.uint8), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    main, wanted = int(sizes.argmax()), np.flatnonzero(sizes >= _LEAST_GAS_VOXELS)
    if len(wanted) < 2:
        return np.zeros_like(mask)
    medians = dict(zip(wanted.tolist(), ndimage.median(hu, pieces, wanted), strict=True))
    emptiest = min(_GAS_HU, medians[main] - _EMPTIER_HU)
    gas = np.isin(pieces, [piece for piece, median in medians.items() if piece != main and median < emptiest])
    with_rims: NDArray[np.bool_] = ndimage.binary_dilation(
        gas, iterations=_RIM_VOXELS + 1, mask=mask & (pieces != main)
    )
    return with_rims
