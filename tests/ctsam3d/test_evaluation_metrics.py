"""Overlap, surface distances and volumes of boxes whose numbers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.evaluation.metrics import compare, union_box
from ctsam3d.imaging.geometry import Geometry

SHAPE = (40, 50, 60)
GEOMETRY = Geometry.from_spacing(SHAPE, (1.0, 1.5, 4.0))  # x, y, z
VOXEL_ML = 6e-3


def box(
    z: int = 10, y: int = 10, x: int = 10, size: tuple[int, int, int] = (10, 20, 30)
) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[z : z + size[0], y : y + size[1], x : x + size[2]] = True
    return mask


def test_a_mask_that_is_the_truth_is_perfect() -> None:
    found = compare(box(), box(), GEOMETRY)
    assert (found.dice, found.surface_dice, found.hd95_mm) == (1, 1, 0)
    assert found.truth_ml == found.found_ml == pytest.approx(6000 * VOXEL_ML)
    assert found.error_ml == found.error_percent == 0


def test_a_shift_costs_what_the_spacing_along_it_says() -> None:
    along_x = compare(box(x=12), box(), GEOMETRY)  # 2 voxels of 1 mm
    assert along_x.dice == pytest.approx(28 / 30)
    assert along_x.hd95_mm == pytest.approx(2)
    assert along_x.surface_dice == pytest.approx(1)  # nothing lies more than 2 mm off

    along_z = compare(box(z=11), box(), GEOMETRY)  # 1 voxel of 4 mm
    assert along_z.dice == pytest.approx(9 / 10)
    assert along_z.hd95_mm == pytest.approx(4)
    # of each box of 30 x 30 x 40 mm: the end that sticks out, the other but for a rim of 2 mm, and what of the sides
    # sticks out by more than 2 mm
    end, inner, side = 30 * 30, 26 * 26, 4 * 30
    off = end + inner + side * 2
    assert along_z.surface_dice == pytest.approx(1 - off / (2 * end + side * 40), abs=0.02)
    assert along_z.error_ml == 0


def test_too_much_and_too_little_are_told_apart() -> None:
    larger = compare(box(size=(10, 20, 40)), box(), GEOMETRY)
    assert larger.error_ml == pytest.approx(2000 * VOXEL_ML) and larger.error_percent == pytest.approx(
        100 / 3
    )
    smaller = compare(box(size=(5, 20, 30)), box(), GEOMETRY)
    assert smaller.error_percent == pytest.approx(-50) and smaller.dice == pytest.approx(2 / 3)


def test_what_is_missing_has_no_distance_and_nothing_has_no_overlap() -> None:
    nothing = np.zeros(SHAPE, dtype=bool)
    missed = compare(nothing, box(), GEOMETRY)
    assert (missed.dice, missed.surface_dice, missed.hd95_mm, missed.error_percent) == (0, 0, None, -100)
    invented = compare(box(), nothing, GEOMETRY)
    assert (invented.dice, invented.surface_dice, invented.hd95_mm, invented.error_percent) == (
        0,
        0,
        None,
        None,
    )
    neither = compare(nothing, nothing, GEOMETRY)
    assert (neither.dice, neither.surface_dice, neither.hd95_mm, neither.truth_ml) == (None, None, None, 0)


def test_a_structure_cut_by_the_image_is_perfect_where_the_mask_is_cut_as_well() -> None:
    found = compare(box(z=0), box(z=0), GEOMETRY)
    assert (found.dice, found.surface_dice, found.hd95_mm) == (1, 1, 0)


def test_the_box_around_masks_holds_them_all_and_its_margin() -> None:
    around = union_box(box(), box(x=20), np.zeros(SHAPE, dtype=bool), margin=2)
    assert around == (slice(8, 22), slice(8, 32), slice(8, 52))
    assert union_box(np.zeros(SHAPE, dtype=bool)) is None
