"""A structure that is clicked on: what a further click changes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.decoder import Question, VoxelClick
from ctsam3d.segmentation.grow import Grown, Growth
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.patches import Patch

SHAPE = (60, 60, 240)
INSIDE = np.zeros(SHAPE, dtype=bool)
INSIDE[20:40, 20:40, 10:110] = True
LEAK = np.zeros(SHAPE, dtype=bool)
LEAK[20:40, 20:40, 110:230] = True
APART = np.zeros(SHAPE, dtype=bool)
APART[50:58, 50:58, 10:30] = True
FIRST = VoxelClick((30, 30, 60))


class Leaking:
    """A decoder that takes the leak for a part of the structure, until a negative click in the cube says otherwise.

    It sees what is apart only where it is clicked on. Remembers what it was asked.
    """

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def answer(self, hu: NDArray[np.generic], questions: Sequence[Question]) -> NDArray[np.float32]:
        self.asked.extend(questions)
        return np.stack([self._one(question) for question in questions])

    def _one(self, question: Question) -> NDArray[np.float32]:
        mask = INSIDE.copy()
        if all(click.positive for click in question.clicks):
            mask |= LEAK
        if any(APART[click.zyx] for click in question.clicks):
            mask |= APART
        cube = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        of_volume, of_cube = question.patch.overlap(SHAPE)
        cube[of_cube] = mask[of_volume]
        return cube

    def heat(
        self, hu: object, patch: Patch, mask: object, neighbours: Sequence[Patch]
    ) -> NDArray[np.float32]:
        raise AssertionError("these weights have no trained cross-patch predictor")


@pytest.fixture
def decoder() -> Leaking:
    return Leaking()


@pytest.fixture
def structure(decoder: Leaking) -> ClickedStructure:
    hu = np.zeros(SHAPE, dtype=np.int16)
    return ClickedStructure(
        "part",
        hu,
        decoder,
        Growth(),
        cross_patch=False,
        carry=False,  # type: ignore[arg-type]
    )


def mask_of(grown: Grown) -> NDArray[np.bool_]:
    return grown.canvas.probability() > 0.5


def test_one_negative_click_undoes_a_whole_leak(structure: ClickedStructure) -> None:
    leaked = mask_of(structure.click([FIRST]))
    assert np.array_equal(leaked, INSIDE | LEAK)
    corrected = mask_of(structure.click([VoxelClick((30, 30, 130), positive=False)]))
    assert np.array_equal(corrected & INSIDE, INSIDE)
    # what lies further along the leak than any cube with the click in it is no longer reached from inside
    assert (corrected & LEAK).sum() < 0.1 * LEAK.sum()


def test_a_positive_click_elsewhere_adds_what_is_there(structure: ClickedStructure) -> None:
    structure.click([FIRST])
    both = mask_of(structure.click([VoxelClick((54, 54, 14))]))
    assert np.array_equal(both, INSIDE | LEAK | APART)
    assert structure.clicks == (FIRST, VoxelClick((54, 54, 14)))


def test_a_click_costs_only_the_cubes_that_hold_it(structure: ClickedStructure, decoder: Leaking) -> None:
    structure.click([FIRST])
    before = structure.decoded
    click = VoxelClick((25, 25, 225))
    structure.click([click])
    new = decoder.asked[before:]
    assert new and structure.decoded == len(decoder.asked)
    assert all(question.inside() and click in question.clicks for question in new)


def test_a_further_click_corrects_the_last_answer_of_its_cube(
    structure: ClickedStructure, decoder: Leaking
) -> None:
    structure.click([FIRST])
    assert decoder.asked[0].previous is None
    before = len(decoder.asked)
    structure.click([VoxelClick((30, 30, 70))])
    again = [q for q in decoder.asked[before:] if q.patch.click_zyx == FIRST.zyx]
    assert [len(q.clicks) for q in again] == [2]
    assert again[0].previous is not None and again[0].previous.max() == 1


def test_clicks_together_are_given_one_after_another_in_a_new_cube(
    structure: ClickedStructure, decoder: Leaking
) -> None:
    structure.click([FIRST, VoxelClick((30, 30, 70), positive=False)])
    assert [(len(q.clicks), q.previous is None) for q in decoder.asked[:2]] == [(1, True), (2, False)]


def test_weights_that_were_trained_to_go_on_from_a_neighbour_are_told_what_it_found(decoder: Leaking) -> None:
    hu = np.zeros(SHAPE, dtype=np.int16)
    structure = ClickedStructure("part", hu, decoder, Growth(), cross_patch=False, carry=True)  # type: ignore[arg-type]
    structure.click([FIRST])
    first, *others = decoder.asked
    assert first.previous is None and others
    assert all(q.previous is not None and 0 < (q.previous > 0.5).mean() < 0.5 for q in others)
