"""Pairs of cubes for cross-patch prompting: one patient seen twice, and a heat map where the structure goes on."""

from __future__ import annotations

import numpy as np
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
        assert heat[peak] == 1  # cubes overlap by half, so that a rod through the first is in the second
        assert window[peak] > window.mean()  # it is brighter than what is around it


def test_a_heat_map_is_highest_at_the_deepest_voxel_and_empty_without_a_structure() -> None:
    truth = np.zeros((64, 64, 64), dtype=bool)
    assert not heat_of(truth).any()
    truth[10:21, 30:41, 40:51] = True
    heat = heat_of(truth)
    assert heat[15, 35, 45] == 1 and heat.max() == 1 and heat[15, 35, 49] < 0.7


def test_the_loss_is_none_for_a_perfect_map_and_its_gradient_reaches_the_predictor() -> None:
    batch = {k: v[None] for k, v in _pairs().draw((0, 1, 0)).items()}
    loss, _ = cross_patch_loss(lambda _: batch["heat"], batch, 0)  # type: ignore[arg-type]
    assert float(loss) == 0
    torch.manual_seed(0)
    predictor = cross_patch.build(SIZES["nano"])
    loss, figures = cross_patch_loss(predictor, batch, 0)
    loss.backward()
    assert set(figures) == {"near"} and float(loss.detach()) > 0
    assert all(p.grad is not None for p in predictor.parameters())
