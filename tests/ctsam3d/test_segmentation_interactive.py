"""A structure that is clicked on: what a further click changes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.segmentation.decoder import Question, VoxelClick
from ctsam3d.segmentation.grow import Growth
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import Box, Patch
from ctsam3d.segmentation.stitch import Canvas

SHAPE = (60, 60, 240)
EVERYWHERE = (slice(0, 60), slice(0, 60), slice(0, 240))
INSIDE = np.zeros(SHAPE, dtype=bool)
INSIDE[20:40, 20:40, 10:110] = True
LEAK = np.zeros(SHAPE, dtype=bool)
LEAK[20:40, 20:40, 110:230] = True
NECKED = np.zeros(SHAPE, dtype=bool)  # a leak through a narrow neck
NECKED[28:32, 28:32, 110:140] = True
NECKED[20:40, 20:40, 140:230] = True
APART = np.zeros(SHAPE, dtype=bool)
APART[50:58, 50:58, 200:220] = True
FIRST = VoxelClick((30, 30, 60))
IN_LEAK = VoxelClick((30, 30, 130), positive=False)


class Leaking:
    """A decoder that takes the leak for a part of the structure, until a negative click in the cube says otherwise.

    It sees what is apart only where it is clicked on. Remembers what it was asked.
    """

    def __init__(self, leak: NDArray[np.bool_] = LEAK) -> None:
        self.asked: list[Question] = []
        self.leak = leak

    def answer(self, hu: NDArray[np.generic], questions: Sequence[Question]) -> NDArray[np.float32]:
        self.asked.extend(questions)
        return np.stack([self._one(question) for question in questions])

    def _one(self, question: Question) -> NDArray[np.float32]:
        mask = INSIDE.copy()
        if all(click.positive for click in question.clicks):
            mask |= self.leak
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


def clickable(
    decoder: Leaking,
    begun: tuple[Box, NDArray[np.float32]] | None = None,
    others: SureOwners | None = None,
) -> ClickedStructure:
    hu = np.zeros(SHAPE, dtype=np.int16)
    return ClickedStructure(
        "part", hu, decoder, Growth(), cross_patch=False, begun=begun, others=others  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def structure(decoder: Leaking) -> ClickedStructure:
    return clickable(decoder)


class Hesitant(Leaking):
    """Sees the leak as part of the structure as well, but nothing around x = 120 without a click there."""

    def _one(self, question: Question) -> NDArray[np.float32]:
        if 90 < question.patch.click_zyx[2] < 150 and IN_GAP not in question.clicks:
            return np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        return super()._one(question)


IN_GAP = VoxelClick((30, 30, 125))


def mask_of(canvas: Canvas) -> NDArray[np.bool_]:
    return canvas.mask(EVERYWHERE)


def test_one_negative_click_undoes_a_whole_leak(structure: ClickedStructure) -> None:
    leaked = mask_of(structure.click([FIRST])).copy()
    assert np.array_equal(leaked, INSIDE | LEAK)
    corrected = mask_of(structure.click([IN_LEAK]))
    assert np.array_equal(corrected & INSIDE, INSIDE)
    # what lies further along the leak than the cube with the click in it hangs on nothing any more
    assert (corrected & LEAK).sum() < 0.1 * LEAK.sum()


def beside(probability: float = 0.95) -> SureOwners | None:
    """What lies from x = 120 on is surely of a neighbour."""
    mask = np.zeros([n // COARSE_FACTOR for n in SHAPE], dtype=bool)
    mask[:, :, 120 // COARSE_FACTOR :] = True
    return SureOwners.of(
        {"neighbour": CoarseStructure(mask, np.where(mask, np.float32(probability), np.float32(0)), 0.9)}
    )


def test_nothing_grows_into_what_surely_is_another_structure() -> None:
    decoder, free = Leaking(), Leaking()
    grown = mask_of(clickable(decoder, others=beside()).click([FIRST]))
    assert np.array_equal(grown, (INSIDE | LEAK) & (np.arange(SHAPE[2]) < 120))
    assert np.array_equal(mask_of(clickable(free).click([FIRST])), INSIDE | LEAK)
    assert len(decoder.asked) < len(free.asked)
    unsure = mask_of(clickable(Leaking(), others=beside(0.8)).click([FIRST]))
    assert np.array_equal(unsure, INSIDE | LEAK)


def test_a_click_says_that_what_seemed_to_be_another_structure_is_this_one() -> None:
    structure = clickable(Leaking(), others=beside())
    structure.click([FIRST])
    both = mask_of(structure.click([VoxelClick((30, 30, 150))]))
    assert not (both & ~(INSIDE | LEAK)).any() and (both & LEAK).sum() > 0.9 * LEAK.sum()


def test_a_negative_click_far_from_the_neck_of_a_leak_undoes_all_of_it() -> None:
    decoder = Leaking(NECKED)
    structure = clickable(decoder)
    assert mask_of(structure.click([FIRST]))[NECKED].all()
    asked = len(decoder.asked)
    cut = mask_of(structure.click([VoxelClick((30, 30, 200), positive=False)]))
    assert len(decoder.asked) == asked + 1  # of a cube that does not reach the neck
    assert not cut[20:40, 20:40, 130:].any() and cut[INSIDE].all()


def test_a_positive_click_elsewhere_adds_what_is_there(decoder: Leaking) -> None:
    box = (slice(20, 40), slice(20, 40), slice(10, 110))
    structure = clickable(decoder, (box, np.ones((20, 20, 100), dtype=np.float32)))
    both = mask_of(structure.click([VoxelClick((54, 54, 210))]))
    assert both[INSIDE | APART].all() and structure.clicks == (VoxelClick((54, 54, 210)),)


def test_a_correction_costs_one_cube_and_changes_nothing_outside_of_it(
    structure: ClickedStructure, decoder: Leaking
) -> None:
    before = mask_of(structure.click([FIRST])).copy()
    asked = len(decoder.asked)
    structure.click([VoxelClick((25, 25, 225))])
    (new,) = decoder.asked[asked:]
    assert structure.decoded == len(decoder.asked) and new.inside()
    changed = mask_of(structure.canvas) != before
    of_volume, _ = new.patch.overlap(SHAPE)
    changed[of_volume] = False
    assert not changed.any()


def test_a_correction_is_told_the_mask_and_all_clicks_of_its_cube(
    structure: ClickedStructure, decoder: Leaking
) -> None:
    structure.click([FIRST])
    assert decoder.asked[0].previous is None
    structure.click([VoxelClick((30, 30, 70)), VoxelClick((45, 45, 60), positive=False)])
    second, third = decoder.asked[-2:]
    # near the first click: they are put to its cube, as in training
    assert second.patch.click_zyx == third.patch.click_zyx == FIRST.zyx
    assert [len(q.clicks) for q in (second, third)] == [2, 3] and third.clicks[0] == FIRST
    assert second.previous is not None and second.previous.max() == 1


def test_of_clicks_made_together_the_positive_ones_count_first(structure: ClickedStructure) -> None:
    together = mask_of(structure.click([IN_LEAK, FIRST]))
    assert np.array_equal(together & INSIDE, INSIDE) and structure.clicks == (FIRST, IN_LEAK)


def test_a_mask_that_is_there_is_corrected_where_it_is_clicked_on_and_stays_elsewhere(
    decoder: Leaking,
) -> None:
    structure = clickable(decoder, (EVERYWHERE, (INSIDE | LEAK).astype(np.float32)))
    assert np.array_equal(mask_of(structure.canvas), INSIDE | LEAK) and not decoder.asked
    click = VoxelClick((30, 30, 170), positive=False)
    corrected = mask_of(structure.click([click]))
    assert not corrected[30, 30, 150:174].any()
    # no negative click is asked alone: the mask's deepest voxel beside it is the cube's centre
    (asked,) = decoder.asked
    beside, second = asked.clicks
    assert second == click and beside.positive and beside.zyx == asked.patch.click_zyx
    assert 10 < abs(beside.zyx[2] - 170) <= 24 and structure.clicks == (click,)
    # it did not grow from clicks, so that nothing has to hang together with one
    assert corrected[30, 30, 20:114].all() and corrected[30, 30, 178:228].all()  # outside of that cube


def test_of_a_mask_that_is_there_no_part_is_cut_off_at_a_neck() -> None:
    structure = clickable(Leaking(NECKED), (EVERYWHERE, (INSIDE | NECKED).astype(np.float32)))
    corrected = mask_of(structure.click([FIRST, VoxelClick((30, 30, 220), positive=False)]))
    assert corrected[30, 30, 145:160].all() and not corrected[30, 30, 190:215].any()


def test_a_negative_click_on_a_thin_mask_is_asked_alone(decoder: Leaking) -> None:
    thin = np.zeros(SHAPE, dtype=np.float32)
    thin[30, 30, 10:230] = 1
    structure = clickable(decoder, (EVERYWHERE, thin))
    click = VoxelClick((30, 30, 170), positive=False)
    structure.click([click])
    (asked,) = decoder.asked
    assert asked.clicks == (click,) and asked.patch.click_zyx == click.zyx


def test_a_click_where_growth_was_given_up_makes_it_go_on() -> None:
    structure = clickable(Hesitant())
    stopped = mask_of(structure.click([FIRST]))
    assert not stopped[..., 122:].any()
    before = structure.decoded
    whole = mask_of(structure.click([IN_GAP]))
    assert (whole == (INSIDE | LEAK)).mean() > 0.999 and whole[30, 30, 10:230].all()
    # the new click's cube and a few beyond it: what was grown is not grown again
    assert structure.decoded - before <= 1 + 5


def test_a_click_within_what_cubes_have_seen_corrects_one_cube(decoder: Leaking) -> None:
    structure = clickable(decoder)
    structure.click([FIRST])
    before = structure.decoded
    structure.click([VoxelClick((30, 30, 70))])
    assert structure.decoded == before + 1
