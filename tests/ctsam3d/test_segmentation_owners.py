"""Whose a place surely is bounds what grows: for organs of the catalogue, and only where clicks ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import Volume
from ctsam3d.prompting.prompt import COARSE_FACTOR, Click, CoarseStructure, Prompt, PromptKind
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import patch_around
from ctsam3d.segmentation.prompts import gather, is_apart

SHAPE = (40, 40, 42)  # the last block is cut
BLOCKS = (10, 10, 11)


def block(columns: slice) -> CoarseStructure:
    mask = np.zeros(BLOCKS, dtype=bool)
    mask[:, :, columns] = True
    return CoarseStructure(mask, np.where(mask, np.float32(0.95), np.float32(0)), 0.9)


@dataclass
class Known:
    """A prompter that says what it is told to, and remembers of what it was asked."""

    said: dict[str, Prompt]
    kind: PromptKind
    asked: tuple[str, ...] = ()

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(self.said)

    def prompts(self, volume: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        self.asked = tuple(structures)
        return {name: self.said[name] for name in structures if name in self.said}


@pytest.fixture
def localizer() -> Known:
    return Known(
        {"liver": Prompt(block(slice(2, 5))), "stomach": Prompt(block(slice(5, 11)))}, PromptKind.LOCALIZER
    )


@pytest.fixture
def volume() -> Volume:
    return Volume(np.zeros(SHAPE, dtype=np.int16), Geometry(SHAPE, np.diag([1.5, 1.5, 1.5, 1.0])))


def test_a_place_is_elsewhere_unless_somebody_clicked_on_its_owner() -> None:
    owners = SureOwners.of({"liver": block(slice(2, 5)), "stomach": block(slice(5, 11))})
    assert owners is not None
    patch = patch_around("spleen", (20, 20, 20))
    of_volume, of_cube = patch.overlap(SHAPE)

    def columns(owners: SureOwners, *clicked: tuple[int, int, int]) -> list[int]:
        there = np.zeros(SHAPE, dtype=bool)
        there[of_volume] = owners.elsewhere(patch, clicked)[of_cube]
        assert (there == there[:1, :1]).all()
        return np.flatnonzero(there[0, 0]).tolist()

    assert columns(owners) == list(range(2 * COARSE_FACTOR, SHAPE[2]))
    assert columns(owners, (20, 20, 2)) == columns(owners)  # in nobody's
    assert columns(owners, (20, 20, 9)) == list(range(5 * COARSE_FACTOR, SHAPE[2]))
    assert columns(owners, (20, 20, 9), (20, 20, 41)) == []
    assert columns(owners.without({"stomach"})) == list(range(2 * COARSE_FACTOR, 5 * COARSE_FACTOR))


def test_clicks_on_an_organ_ask_what_is_around_it(localizer: Known, volume: Volume) -> None:
    place = tuple(float(v) for v in volume.geometry.to_world_xyz_mm(np.array([20, 20, 3])))
    click = Known({"spleen": Prompt(clicks=(Click(place),))}, PromptKind.CLICKS)  # type: ignore[arg-type]
    gathered = gather(volume, ["spleen"], click, localizer)
    assert list(gathered.prompts) == ["spleen"] and gathered.owners is not None
    assert set(gathered.owners.names) == {"liver", "stomach"}

    lesion = Known({"lesion": click.said["spleen"]}, PromptKind.CLICKS)
    localizer.asked = ()
    gathered = gather(volume, ["lesion"], lesion, localizer)
    assert gathered.owners is None and localizer.asked == ()  # no use, no time spent
    assert gather(volume, ["liver"], None, localizer).owners is None


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("liver", True),
        ("larynx", True),
        ("kidney_cyst_left", False),
        ("visceral_fat", False),
        ("tumour", False),
    ],
)
def test_what_may_be_anywhere_is_not_kept_out(name: str, apart: bool) -> None:
    assert is_apart(name) is apart
