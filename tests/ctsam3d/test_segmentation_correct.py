"""A cube's answer is corrected where coarse masks are sure that it is wrong, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.segmentation.correct import correcting_clicks
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import Patch, patch_around


def _coarse(probability: float = 0.95) -> dict[str, CoarseStructure]:
    """Liver and stomach side by side, on 20^3 blocks of a grid of 80^3 voxels."""
    found = {}
    for name, columns in (("liver", slice(2, 10)), ("stomach", slice(10, 18))):
        mask = np.zeros((20, 20, 20), dtype=bool)
        mask[4:16, 4:16, columns] = True
        found[name] = CoarseStructure(mask, np.where(mask, probability, 0.02).astype(np.float32), 0.9)
    return found


def _answer(patch: Patch, columns: slice) -> np.ndarray:
    """A cube that says yes to these columns of the grid, where the structures are."""
    grid = np.zeros((80, 80, 80), dtype=np.float32)
    grid[16:64, 16:64, columns] = 1
    cube = np.zeros((64, 64, 64), dtype=np.float32)
    of_volume, of_cube = patch.overlap(grid.shape)
    cube[of_cube] = grid[of_volume]
    return cube


@pytest.mark.parametrize("centre", [(40, 40, 36), (10, 40, 30)])  # the second reaches out of the grid
def test_owners_lie_over_a_cube_as_over_the_volume(centre: tuple[int, int, int]) -> None:
    owners, patch = SureOwners.of(_coarse()), patch_around("liver", centre)
    assert owners is not None
    fine = owners.owner.repeat(COARSE_FACTOR, 0).repeat(COARSE_FACTOR, 1).repeat(COARSE_FACTOR, 2)
    expected = np.zeros((64, 64, 64), dtype=np.uint8)
    of_volume, of_cube = patch.overlap(fine.shape)
    expected[of_cube] = fine[of_volume]
    assert np.array_equal(owners.over(patch), expected) and set(np.unique(expected)) == {0, 1, 2}


def test_a_leak_is_clicked_away_and_a_gap_clicked_on() -> None:
    owners, patch = SureOwners.of(_coarse()), patch_around("liver", (40, 40, 36))
    assert owners is not None
    assert correcting_clicks(owners, patch, _answer(patch, slice(8, 40))) == ()
    (leak,) = correcting_clicks(owners, patch, _answer(patch, slice(8, 60)))
    assert not leak.positive and 43 <= leak.zyx[2] < 57
    (gap,) = correcting_clicks(owners, patch, _answer(patch, slice(24, 40)))
    assert gap.positive and 11 <= gap.zyx[2] < 21
    assert isinstance(gap, VoxelClick)


def test_thin_errors_and_unsure_neighbours_are_left_to_the_network() -> None:
    owners, patch = SureOwners.of(_coarse()), patch_around("liver", (40, 40, 36))
    unsure = SureOwners.of(_coarse(probability=0.7))
    assert owners is not None and unsure is not None
    assert correcting_clicks(owners, patch, _answer(patch, slice(8, 43))) == ()
    assert correcting_clicks(unsure, patch, _answer(patch, slice(8, 60))) == ()
    assert SureOwners.of({}) is None
