"""Two masks that differ by a border agree; HU that a structure never had are none of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.segmentation.agreement import Tissue, agreement


def rod(first: int, last: int, *, shift: int = 0) -> NDArray[np.bool_]:
    """2 x 2 voxels thick, from one slice to another."""
    mask = np.zeros((40, 20, 20), dtype=bool)
    mask[first:last, 8 + shift : 10 + shift, 8:10] = True
    return mask


EVERYWHERE = np.ones((40, 20, 20), dtype=bool)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 1.0), (2, 0.5), (3, 0.0)])
def test_a_voxel_aside_counts_as_shared_and_no_more(shift: int, expected: float) -> None:
    assert agreement(rod(5, 35), rod(5, 35, shift=shift), EVERYWHERE) == pytest.approx(expected)
    assert agreement(rod(5, 35, shift=shift), rod(5, 35), EVERYWHERE) == pytest.approx(expected)


def test_it_is_the_dice_but_for_a_voxel_where_one_goes_on() -> None:
    # of 20 and 30 slices 20 are shared, and one more is within a voxel of them
    assert agreement(rod(5, 25), rod(5, 35), EVERYWHERE) == pytest.approx((20 + 21) / 50)


def test_masks_are_compared_in_the_region_alone() -> None:
    where = np.zeros_like(EVERYWHERE)
    where[:20] = True
    assert agreement(rod(5, 20), rod(5, 40), where) == 1.0
    assert agreement(rod(5, 20), rod(25, 40), where) == 0.0
    assert agreement(rod(25, 30), rod(25, 30), where) == 0.0


def test_what_is_as_dense_as_the_structure_may_be_of_it() -> None:
    noise = np.random.default_rng(0)
    tissue = Tissue()
    assert tissue.may_be(np.full(9000, -800))  # nothing is known yet
    tissue.learn(noise.normal(60, 12, 50_000).astype(np.int16))
    assert tissue.may_be(noise.normal(70, 12, 9000)) and tissue.may_be(noise.normal(45, 12, 9000))
    assert not tissue.may_be(noise.normal(-800, 40, 9000)) and not tissue.may_be(noise.normal(160, 12, 9000))
    assert tissue.may_be(noise.normal(-800, 40, 400))  # too few to tell


def test_each_cube_counts_as_much_however_much_of_the_structure_it_shows() -> None:
    tissue = Tissue()
    tissue.learn(np.full(200_000, 60))
    tissue.learn(np.full(3000, -900))
    tissue.learn(np.array([], dtype=np.int16))
    assert tissue.may_be(np.full(1000, -900)) and tissue.may_be(np.full(1000, 60))
    assert not tissue.may_be(np.full(1000, 300))
