"""The localizer's answers, with an untrained network: their form, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.prompting.coarse import PATCH_ZYX, CoarseNetwork
from ctsam3d.prompting.localizer import Localizer, _largest_possible


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    torch.manual_seed(0)
    return Localizer(CoarseNetwork(), CLASSES, torch.device("cpu"), "0" * 64)


@pytest.mark.parametrize("shape", [(1, 7, 20), (33, 40, 65)])
def test_each_voxel_has_probabilities_that_sum_to_one(
    localizer: Localizer, shape: tuple[int, int, int]
) -> None:
    hu = torch.randn(shape) * 200
    found = localizer.probabilities(hu)
    assert found.shape == (len(CLASSES), *shape) and found.dtype == np.float16
    assert np.allclose(found.sum(axis=0, dtype=np.float32), 1, atol=0.01)


def test_windows_laid_elsewhere_are_averaged(localizer: Localizer) -> None:
    hu = torch.randn(PATCH_ZYX) * 200
    once, mean = localizer._answered(hu).astype(np.float32), localizer.probabilities(hu).astype(np.float32)
    other = 2 * mean - once
    assert np.abs(other - once).max() > 0.01  # the second answer is another one
    assert other.min() > -0.01 and np.allclose(other.sum(axis=0), 1, atol=0.02)  # and one of probabilities


def test_a_brainstem_is_no_larger_than_one_can_be_and_a_liver_may_be() -> None:
    probability = np.linspace(0.4, 1, 40 * 40, dtype=np.float32).reshape(40, 40, 1)
    everything = np.ones(probability.shape, dtype=bool)  # 346 ml
    kept = _largest_possible("brainstem", everything, probability)
    assert 55 < kept.sum() * 0.216 <= 60
    assert probability[kept].min() > probability[~kept].max()
    assert _largest_possible("gallbladder", everything, probability).all()  # may be enlarged
    assert _largest_possible("brain", everything, probability).all()
