"""A cord goes on where an image is blanked but for the spinal canal, along the canal's middle, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.imaging.volume import Geometry, Volume
from ctsam3d.prompting.bare_canal import through_bare_canal
from ctsam3d.prompting.coarse import CoarseNetwork
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.prompting.prompt import CoarseStructure

NECK = 20  # the first block of it, from below
BLOCKS = (32, 40, 40)
Blanked = tuple[NDArray[np.int16], NDArray[np.float64]]


def middle_of(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the canal runs, (z, 2) in voxels, by the height in voxels: it leans, as spines do."""
    return np.stack([110 - z / 3, 80 + z / 20], axis=1)


def blanked(radius_mm: float = 12.0) -> NDArray[np.int16]:
    """A neck with all below it blanked but for a tube around the canal, on the model grid."""
    z, y, x = np.ogrid[: BLOCKS[0] * 4, : BLOCKS[1] * 4, : BLOCKS[2] * 4]
    at = middle_of(np.arange(BLOCKS[0] * 4.0))
    far_mm = 1.5 * np.hypot(y - at[:, 0, None, None], x - at[:, 1, None, None])
    shown = far_mm < np.where(z < 4 * NECK, radius_mm, 60.0)
    return np.where(shown, 40, -1000).astype(np.int16)


def cord(below: int = NECK) -> CoarseStructure:
    """As the localizer finds it, from a block upwards."""
    mask = np.zeros(BLOCKS, dtype=bool)
    for z, (y, x) in list(enumerate(blocks_of_middle()))[below:]:
        mask[z, int(y) : int(y) + 2, int(x) : int(x) + 2] = True
    return CoarseStructure(mask, np.where(mask, 0.9, 0.05).astype(np.float32), 0.8)


def blocks_of_middle() -> NDArray[np.float64]:
    return (middle_of(4 * np.arange(BLOCKS[0]) + 2.0) + 0.5) / 4 - 0.5


def assert_along_the_canal(found: CoarseStructure, of: range) -> None:
    for z, middle in list(enumerate(blocks_of_middle()))[of.start : of.stop]:
        inside = np.argwhere(found.mask[z])
        assert 2 <= len(inside) <= 4, z  # 0.7 to 1.4 cm2
        assert np.hypot(*(inside.mean(axis=0) - middle)) < 0.75, z
        assert (found.probability[z][found.mask[z]] > 0.5).all()
        assert (found.probability[z][~found.mask[z]] <= 0.5).all()


@pytest.mark.parametrize("below", [NECK, NECK + 4])
def test_a_cord_goes_on_to_the_end_of_a_bare_canal(below: int) -> None:
    before = cord(below)
    found = through_bare_canal(before, blanked())
    assert_along_the_canal(found, range(NECK))
    assert (found.mask[below:] == before.mask[below:]).all()
    assert found.mask.any(axis=(1, 2)).all()  # on a line where it was not found and there is a neck
    assert found.confidence == before.confidence


def test_it_keeps_to_its_own_tube_and_crosses_short_gaps_alone() -> None:
    hu = blanked()
    hu[: 4 * NECK, 24:40, 60:90] = 40  # what is left around a gullet, say
    hu[44:56] = -1000
    assert_along_the_canal(through_bare_canal(cord(), hu), range(NECK))
    hu[28:56] = -1000
    found = through_bare_canal(cord(), hu)
    assert_along_the_canal(found, range(14, NECK))
    assert not found.mask[:14].any()


@pytest.mark.parametrize("radius_mm", [2.0, 24.0, 60.0])
def test_what_is_no_such_tube_is_left_as_it_was(radius_mm: float) -> None:
    before = cord()
    found = through_bare_canal(before, blanked(radius_mm))
    assert (found.mask == before.mask).all() and (found.probability == before.probability).all()


def test_a_tube_elsewhere_is_none_of_the_cords() -> None:
    before = cord()
    found = through_bare_canal(before, np.roll(blanked(), 40, axis=2))
    assert (found.mask == before.mask).all()


def test_the_localizers_cord_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    localizer = Localizer(CoarseNetwork(), CLASSES, torch.device("cpu"), "0" * 64)
    answers = np.zeros((len(CLASSES), *BLOCKS), dtype=np.float16)
    answers[CLASSES.index("spinal_cord")] = cord().mask
    answers[0] = ~cord().mask
    monkeypatch.setattr(localizer, "probabilities", lambda hu: answers)
    hu = blanked()
    grid = Volume(hu, Geometry.from_spacing(hu.shape, (1.5, 1.5, 1.5)))
    assert_along_the_canal(localizer.locate(grid, ["spinal_cord"])["spinal_cord"], range(NECK))
