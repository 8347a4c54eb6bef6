"""Seeds cover a mask, lie inside it, are few, and are the same every time."""

import numpy as np
import pytest

from ctsam3d.prompting.seeds import covering_seeds


def _ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2


def _tube() -> np.ndarray:
    mask = np.zeros((60, 30, 30), dtype=bool)
    for z in range(60):
        y, x = 15 + 8 * np.sin(z / 9), 15 + 8 * np.cos(z / 9)
        mask[z, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = True
    return mask


MASKS = {
    "ball": _ball((50, 50, 50), (25, 25, 25), 20),
    "two lobes": _ball((40, 40, 90), (20, 20, 20), 14) | _ball((40, 40, 90), (20, 20, 66), 14),
    "tube": _tube(),
    "one voxel": _ball((9, 9, 9), (4, 4, 4), 0),
    "plate": np.pad(np.ones((1, 40, 40), dtype=bool), 3),
    "corner": np.pad(np.ones((20, 3, 3), dtype=bool), ((0, 5), (0, 5), (0, 5))),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("reach", [6, 40])
def test_every_voxel_lies_within_reach_of_a_seed_inside_the_mask(name: str, reach: int) -> None:
    mask = MASKS[name]
    seeds = covering_seeds(mask, reach)
    assert mask[tuple(seeds.T)].all()
    voxels = np.argwhere(mask)
    distance = np.abs(voxels[:, None] - seeds[None]).max(axis=2).min(axis=1)
    assert distance.max() <= reach


def test_the_seeds_are_few() -> None:
    mask = MASKS["ball"]  # 41 voxels wide: cubes of 13 a side need 4 along an axis, 64 in all at the most
    assert len(covering_seeds(mask, 6)) <= 1.4 * 64
    assert len(covering_seeds(mask, 40)) == 1


def test_a_single_seed_is_the_deepest_voxel() -> None:
    assert covering_seeds(MASKS["ball"], 40).tolist() == [[25, 25, 25]]


def test_the_same_mask_gives_the_same_seeds_wherever_it_lies() -> None:
    mask = MASKS["two lobes"]
    moved = np.pad(mask, ((3, 0), (0, 4), (7, 1)))
    assert np.array_equal(covering_seeds(mask, 6) + [3, 0, 7], covering_seeds(moved, 6))


def test_an_empty_mask_has_none() -> None:
    assert covering_seeds(np.zeros((4, 4, 4), dtype=bool), 3).shape == (0, 3)
