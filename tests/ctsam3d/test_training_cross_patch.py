"""Pairs of cubes for cross-patch prompting: one patient seen twice, and a heat map where the structure goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctsam3d.network import cross_patch
from ctsam3d.network.config import SIZES
from ctsam3d.training.cases import Case
from ctsam3d.training.cross_patch import CrossPatchPairs, cross_patch_loss, heat_of
from ctsam3d.training.cubes import CubeSamples, Mixture


def _rod() -> Case:
    """A rod along z, bright, in a darker block."""
    labels = np.zeros((140, 80, 80), dtype=np.uint8)
    labels[:, 36:44, 36:44] = 1
    hu = np.where(labels > 0, 150, 0).astype(np.int16)
    return Case("rod", hu, labels, None, {1: "aorta"}, {}, frozenset(["aorta"]), 1.5)


def _pairs() -> CrossPatchPairs:
    return CrossPatchPairs(CubeSamples([_rod()], SIZES["nano"].windows_hu, Mixture(0, 0, 0)))


def test_a_pair_is_a_function_of_its_key_and_its_peak_lies_in_the_structure() -> None:
    pairs = _pairs()
    for step in range(6):
        pair, again = pairs.draw((0, step, 0)), pairs.draw((0, step, 0))
        assert all(torch.equal(pair[name], again[name]) for name in pair)
        heat, window = pair["heat"][0].numpy(), pair["neighbour"][1].numpy()
        peak = np.unravel_index(int(heat.argmax()), heat.shape)
        assert heat[peak] > 0.15  # cubes overlap by half, so that a rod through the first is in the second
        assert window[peak] > window.mean()  # it is brighter than what is around it


def test_half_of_the_masks_are_the_networks_own_and_neighbours_lie_where_they_leak() -> None:
    leaked = np.zeros((64, 64, 64), dtype=bool)
    leaked[28:36, 28:36, 58:] = True  # at the right face alone, far from the rod
    samples = CubeSamples([_rod()], SIZES["nano"].windows_hu, Mixture(0, 0, 0))
    batch = [CrossPatchPairs(samples, lambda _: leaked).draw((0, step, 0)) for step in range(30)]
    # in the neighbour's frame, centred on a voxel of the leak, the leak is in the middle
    centred = [bool(pair["mask"][0, 32, 32, 32] > 0 and pair["mask"].sum() <= leaked.sum()) for pair in batch]
    assert 6 <= sum(centred) <= 24


@pytest.mark.parametrize("offset", [(5, -20, 0), (-32, 0, 31), (0, 64, 0), (0, 0, -70)])
def test_a_cube_is_seen_in_the_frame_of_its_neighbour(offset: tuple[int, int, int]) -> None:
    volume = torch.rand(2, 260, 260, 260)
    part = [slice(98, 162)] * 3
    neighbour = [slice(98 + o, 162 + o) for o in offset]
    known = torch.zeros_like(volume)
    known[(slice(None), *part)] = volume[(slice(None), *part)]
    seen = cross_patch.aligned(volume[(slice(None), *part)], offset)
    assert torch.equal(seen, known[(slice(None), *neighbour)])


def test_a_neighbour_is_most_often_centred_on_the_rim_of_the_mask() -> None:
    batch = [_pairs().draw((0, step, 0)) for step in range(20)]
    centred = [pair["heat"][0, 32, 32, 32] > 0 for pair in batch]
    assert sum(centred) >= 8  # a mask that was degraded goes on beside the rod


def test_a_heat_map_is_highest_deep_in_a_structure_near_the_centre_and_empty_without_one() -> None:
    truth = np.zeros((64, 64, 64), dtype=bool)
    assert not heat_of(truth).any()
    truth[10:21, 26:37, 24:] = True  # runs along x, beyond the cube's face
    heat = heat_of(truth)
    assert np.unravel_index(int(heat.argmax()), heat.shape) == (17, 32, 32)
    assert heat[10, 32, 32] < heat[17, 32, 32] and heat[17, 32, 60] < heat[17, 32, 32]
    assert not heat[~truth].any() and 0 < heat.max() <= 1


def test_the_loss_is_none_for_a_perfect_map_and_its_gradient_reaches_the_predictor() -> None:
    batch = {k: v[None] for k, v in _pairs().draw((0, 1, 0)).items()}
    loss, _ = cross_patch_loss(lambda _: batch["heat"], batch, 0)  # type: ignore[arg-type]
    assert float(loss) == 0
    torch.manual_seed(0)
    predictor = cross_patch.build(SIZES["nano"])
    loss, figures = cross_patch_loss(predictor, batch, 0)
    loss.backward()
    assert set(figures) == {"hits", "ends"} and float(loss.detach()) > 0
    assert all(p.grad is not None for p in predictor.parameters())
