"""Things without a name: found in an image by what they are made of, or made up; a click on one is answered by it."""

from __future__ import annotations

import numpy as np

from ctsam3d.network.config import SIZES
from ctsam3d.training.cases import Case
from ctsam3d.training.cubes import OBJECT, CubeSamples, Mixture
from ctsam3d.training.objects import objects_in, procedural


def _ct() -> np.ndarray:
    """A body of fat in a room of air with a muscle, a bone, a cavity and a thin sheet in it."""
    hu = np.full((60, 80, 80), -1000, dtype=np.int16)
    hu[:, 10:70, 10:70] = -90
    hu[10:50, 20:40, 20:40] = 55
    hu[10:50, 46:62, 46:62] = 700
    hu[10:50, 46:62, 18:34] = -1000
    hu[:, 12:14, 10:70] = 55
    return hu


def test_what_differs_from_its_surroundings_is_an_object_and_the_room_is_none() -> None:
    case = objects_in("body", _ct(), 1.5)
    at = {name: int(case.labels[30, y, x]) for name, y, x in (
        ("muscle", 30, 30), ("bone", 54, 54), ("cavity", 54, 26), ("room", 4, 4), ("sheet", 12, 40),
    )}  # fmt: skip
    assert len({at["muscle"], at["bone"], at["cavity"], 0}) == 4
    assert at["room"] == at["sheet"] == 0
    assert set(case.names) == set(np.unique(case.labels)) - {0}
    assert all(name.startswith(OBJECT) for name in case.names.values()) and not case.known


def test_air_alone_has_no_objects() -> None:
    assert objects_in("air", np.full((20, 20, 20), -1000, dtype=np.int16), 1.5).names == {}


def test_a_phantom_is_a_function_of_its_seed() -> None:
    one, again, other = (procedural("p", seed, count=8, side=48) for seed in (1, 1, 2))
    assert np.array_equal(one.hu, again.hu) and np.array_equal(one.labels, again.labels)  # type: ignore[arg-type]
    assert not np.array_equal(one.labels, other.labels)
    assert len(np.unique(one.labels)) > 5


def test_objects_are_drawn_as_often_as_the_mixture_says_and_apart_from_organs() -> None:
    labels = np.zeros((70, 70, 70), dtype=np.uint8)
    labels[20:50, 20:50, 20:50] = 1
    organ = Case(
        "organ", np.zeros_like(labels, dtype=np.int16), labels, None, {1: "liver"}, {}, frozenset(), 1.5
    )
    things = objects_in("body", _ct(), 1.5)
    for share, expected in ((0.0, {"liver"}), (1.0, set(things.names.values()))):
        samples = CubeSamples([organ, things], SIZES["nano"].windows_hu, Mixture(0, 0, 0, objects=share))
        chosen = {samples.choose(np.random.default_rng(seed)).structure for seed in range(30)}
        assert chosen <= expected and chosen
    sample = samples.draw((0, 0, 0))
    x, y, z = sample["click_xyz"][0].int().tolist()
    assert sample["truth"][0, z, y, x] == 1 and sample["known"].mean() > 0.5
