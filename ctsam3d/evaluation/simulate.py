"""Clicks that a person would make: what is found and what is true in, the next click out, until there are enough.

The first click is the deepest point of the structure, each further one the deepest point of what is still wrong: a
positive one where the mask misses, a negative one where it covers what it should not. What lies deepest is what a
person sees first, and the point does not depend on chance, so an evaluation can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.evaluation.metrics import union_box
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.orientation import canonical_geometry, to_canonical
from ctsam3d.imaging.resample import labels_to_source, mask_to_box
from ctsam3d.imaging.volume import Volume
from ctsam3d.prompting.prompt import Prompt
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.segmenter import Segmenter


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A structure after some clicks.

    Attributes:
        clicks: how many by now.
        found: bool (z, y, x) on the source grid.
        cubes: decoded by now.
        bounded: growing met its bound, so that there may be more of it.
    """

    clicks: int
    found: NDArray[np.bool_]
    cubes: int
    bounded: bool


def clicked(
    segmenter: Segmenter,
    name: str,
    grid: Volume,
    source: Geometry,
    truth: NDArray[np.bool_],
    most_clicks: int,
    prompt: Prompt | None = None,
    unknown: NDArray[np.bool_] | None = None,
    owners: SureOwners | None = None,
) -> Iterator[Answer]:
    """Click up to so many times on one structure; fewer where nothing is wrong any more.

    Args:
        segmenter: what answers.
        name: of the structure; nothing but what it is not and a bound of its volume is taken from it.
        grid: the image on the model grid.
        source: the grid of `truth`.
        truth: bool (z, y, x) with at least one voxel.
        most_clicks: at least 1.
        prompt: what is known of the structure without clicks; None for nothing.
        unknown: bool (z, y, x), where nobody can say what is wrong; None for nowhere.
        owners: whose each part of the image surely is, where that is known.
    """
    wanted = on_model_grid(truth, source, grid.geometry)
    known = None if unknown is None else on_model_grid(~unknown, source, grid.geometry)
    structure = segmenter.clicked(name, grid, prompt, owners)
    mask = _shown(structure, grid)
    for count in range(1, most_clicks + 1):
        click = next_click(mask if known is None else mask & known, wanted)
        if click is None:
            return
        structure.click([click])
        mask = _shown(structure, grid)
        found = labels_to_source(mask.view(np.uint8), grid.geometry, source) > 0
        yield Answer(count, found, structure.decoded, structure.bounded)


def _shown(structure: ClickedStructure, grid: Volume) -> NDArray[np.bool_]:
    """The mask (z, y, x) as whoever clicks gets to see it, on the whole model grid."""
    part = structure.canvas.touched()
    clicks = [click.within(part.box) for click in structure.clicks]
    seen = within_intensity(structure.name, part.probability(), grid.hu[part.box], clicks)
    shown = np.zeros(grid.hu.shape, dtype=bool)
    shown[part.box] = seen > 0.5
    return shown


def next_click(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> VoxelClick | None:
    """The deepest wrong voxel (of several the first), or None where all is right; masks are (z, y, x)."""
    deepest: tuple[float, VoxelClick] | None = None
    for positive in (True, False):
        wrong = truth & ~found if positive else found & ~truth
        box = union_box(wrong)
        if box is None:
            continue
        # one voxel all around counts as right, the image's edge included
        depth = ndimage.distance_transform_edt(np.pad(wrong[box], 1))
        z, y, x = (
            int(i) - 1 + s.start
            for i, s in zip(np.unravel_index(int(depth.argmax()), depth.shape), box, strict=True)
        )
        if deepest is None or depth.max() > deepest[0]:
            deepest = float(depth.max()), VoxelClick((z, y, x), positive)
    return deepest[1] if deepest else None


def on_model_grid(truth: NDArray[np.bool_], source: Geometry, grid: Geometry) -> NDArray[np.bool_]:
    """A mask (z, y, x) on another grid, each voxel the nearest one's."""
    box, part = mask_to_box(to_canonical(truth, source), canonical_geometry(source), grid, block=1)
    whole = np.zeros(grid.shape_zyx, dtype=bool)
    whole[box] = part
    return whole
