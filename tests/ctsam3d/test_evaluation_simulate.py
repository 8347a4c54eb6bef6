"""Simulated clicks: where the next one goes, and that clicking on what the network gets right ends at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctsam3d.evaluation.simulate import next_click
from ctsam3d.segmentation.decoder import VoxelClick

SHAPE = (30, 40, 50)


def box(z: int, y: int, x: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[z : z + side, y : y + side, x : x + side] = True
    return mask


NOTHING = np.zeros(SHAPE, dtype=bool)


def test_the_first_click_is_the_deepest_point_of_the_structure() -> None:
    assert next_click(NOTHING, box(10, 12, 14, 9)) == VoxelClick((14, 16, 18))
    # not that of all of it: what is thick counts
    assert next_click(NOTHING, box(10, 12, 14, 9) | box(2, 30, 40, 5)) == VoxelClick((14, 16, 18))
    # the image's edge is an edge
    assert next_click(NOTHING, box(0, 0, 0, 5)) == VoxelClick((2, 2, 2))


def test_a_further_click_goes_to_what_is_most_wrong_and_says_which_way() -> None:
    truth = box(5, 5, 5, 15)
    missed, invented = box(8, 8, 8, 7), box(20, 25, 30, 9)
    assert next_click(truth & ~missed, truth) == VoxelClick((11, 11, 11))
    assert next_click(truth & ~missed | invented, truth) == VoxelClick((24, 29, 34), positive=False)


def test_nothing_wrong_is_not_clicked_on() -> None:
    assert next_click(box(5, 5, 5, 9), box(5, 5, 5, 9)) is None
