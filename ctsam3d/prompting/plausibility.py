"""Rules that a localization must obey: what is air around the body, and what may lie at which height.

A coarse network on few labels takes foam in a table for lungs and an arm bone for a thigh's. Where the body ends and in
which order its parts follow each other is known better than any network can say.
"""

from __future__ import annotations

from collections.abc import Mapping

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SOFT_TISSUE_HU = -300.0
_BRIDGE_BLOCKS = 4  # gaps of a thin chest wall that are closed, 24 mm
_LEAST_PART = 0.02  # of the trunk, that an arm or a leg beside it has at least
_THIN_WALL_HU = -500.0  # of a block that a wall of less than its 6 mm shares with air, and that no lung has
_WALL_BLOCKS = 3  # thickness that an opening takes for a table's shell
_LEAST_ENCLOSED = 20  # blocks, 4 ml
_OF_THE_BODY = 0.2  # of what encloses a lung: heart, spine, diaphragm, however thin the wall; of a table none

# Heights of the body, from the feet up; a structure that is in none may lie anywhere.
_HEIGHTS: tuple[tuple[str, ...], ...] = (
    (
        "urinary_bladder",
        "prostate",
        "sacrum",
        "hip_left",
        "hip_right",
        "femur_left",
        "femur_right",
        "gluteus_maximus_left",
        "gluteus_maximus_right",
        "gluteus_medius_left",
        "gluteus_medius_right",
        "gluteus_minimus_left",
        "gluteus_minimus_right",
        "iliac_artery_left",
        "iliac_artery_right",
        "iliac_vena_left",
        "iliac_vena_right",
    ),
    (
        "liver",
        "spleen",
        "kidney_left",
        "kidney_right",
        "adrenal_gland_left",
        "adrenal_gland_right",
        "stomach",
        "pancreas",
        "gallbladder",
        "portal_vein_and_splenic_vein",
    ),
    (
        "lung_left",
        "lung_right",
        "heart",
        "sternum",
        "scapula_left",
        "scapula_right",
        "clavicula_left",
        "clavicula_right",
    ),
    ("brain", "brainstem", "skull", "mandible", "parotid_gland_left", "parotid_gland_right"),
)
_HEIGHT_OF = {name: height for height, names in enumerate(_HEIGHTS) for name in names}
# Least distance of two centres, by how many heights lie between them. Neighbours may both be cut by the field of view.
_APART_MM = {1: 10.0, 2: 60.0, 3: 150.0}

_BOWEL = ("colon", "small_bowel")
_BOWEL_ABOVE_HEART_MM = 60.0  # of a piece's centre: a hernia may reach the heart, and the shoulders never


def body_mask(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The body with all it encloses, bool (z, y, x), from HU on coarse blocks; tables and clothes are left out."""
    # a wall that the image's edge cuts along is as thick as it looks, not as thin as what is left of it
    padded = np.pad(hu > _SOFT_TISSUE_HU, ((0, 0), (2, 2), (2, 2)), mode="edge")
    solid = ndimage.binary_opening(padded, np.ones((1, 3, 3)))[:, 2:-2, 2:-2]
    parts, count = ndimage.label(solid)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())[1:]
    body = np.isin(parts, 1 + np.flatnonzero(sizes >= _LEAST_PART * sizes.max()))
    margin = _BRIDGE_BLOCKS
    disc = np.hypot(*np.mgrid[-margin : margin + 1, -margin : margin + 1]) <= margin
    for z in range(len(body)):
        closed = ndimage.binary_closing(np.pad(body[z], margin), disc)[margin:-margin, margin:-margin]
        body[z] = _filled(closed)
    body |= _behind_thin_walls(hu, body)
    # slices in which a lung ran out through a hole in a thin wall, between slices in which it did not
    tall = np.pad(body, ((margin, margin), (0, 0), (0, 0)), mode="edge")
    return ndimage.binary_closing(tall, np.ones((2 * margin + 1, 1, 1)))[margin:-margin]


def _filled(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A slice (y, x) with all that its solid parts enclose, in the image or together with its edges."""
    shut = solid.copy()
    for border in (shut[0], shut[-1], shut[:, 0], shut[:, -1]):
        cut = np.flatnonzero(border)
        if cut.size:  # a lung that the image cuts through is open to its edge: shut it there
            border[cut[0] : cut[-1] + 1] = True
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(shut)
    return filled


def _behind_thin_walls(hu: NDArray[np.float32], body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is enclosed by the body and by walls too thin to be told from a table's shell, with these walls.

    Of a thin chest wall an opening leaves nothing along whole slices, and the lungs behind it lie open.
    """
    solid = hu > _THIN_WALL_HU
    enclosed = np.stack([_filled(of_slice) for of_slice in solid]) & ~solid & ~body
    pieces, _ = ndimage.label(enclosed)
    found = np.zeros_like(body)
    for piece, tight in enumerate(ndimage.find_objects(pieces), 1):
        box = tuple(slice(max(0, side.start - _WALL_BLOCKS), side.stop + _WALL_BLOCKS) for side in tight)
        inside = pieces[box] == piece
        if np.count_nonzero(inside) < _LEAST_ENCLOSED:
            continue
        around = ndimage.binary_dilation(inside) & solid[box]
        if around.any() and body[box][around].mean() >= _OF_THE_BODY:
            found[box] |= inside
            found[box] |= ndimage.binary_dilation(inside, iterations=_WALL_BLOCKS) & solid[box]
    return found


def implausible(centres_z_mm: Mapping[str, float], weights: Mapping[str, float]) -> set[str]:
    """Structures that lie where they cannot, given heavier ones that lie elsewhere.

    Args:
        centres_z_mm: height of each structure's centre, growing towards the head.
        weights: how much speaks for each (probability times volume, say); of two that exclude each other the lighter
            goes. The heaviest is taken to be right.
    """
    trusted: list[str] = []
    gone = set()
    for name in sorted(_HEIGHT_OF.keys() & centres_z_mm.keys(), key=lambda n: (-weights[n], n)):
        if all(_in_order(name, other, centres_z_mm) for other in trusted):
            trusted.append(name)
        else:
            gone.add(name)
    return gone


def _in_order(name: str, other: str, centres_z_mm: Mapping[str, float]) -> bool:
    levels = _HEIGHT_OF[name] - _HEIGHT_OF[other]
    if levels == 0:
        return True
    above_mm = centres_z_mm[name] - centres_z_mm[other]
    return (above_mm if levels > 0 else -above_mm) >= _APART_MM[abs(levels)]


def out_of_place(
    name: str, mask: NDArray[np.bool_], heart_z_mm: float | None, spacing_mm: float
) -> NDArray[np.bool_]:
    """Pieces of a mask (z, y, x) that cannot be of the structure, whatever the others are.

    Args:
        name: of the structure, which may be in pieces.
        mask: of it.
        heart_z_mm: height of the heart's centre, growing towards the head from the first slice on; None if unknown.
        spacing_mm: of the slices.
    """
    none = np.zeros_like(mask)
    if name not in _BOWEL or heart_z_mm is None or not mask.any():
        return none
    pieces = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    centres_z_mm = cc3d.statistics(pieces)["centroids"][1:, 0] * spacing_mm
    high = np.flatnonzero(centres_z_mm > heart_z_mm + _BOWEL_ABOVE_HEART_MM) + 1
    found: NDArray[np.bool_] = np.isin(pieces, high)
    return found
