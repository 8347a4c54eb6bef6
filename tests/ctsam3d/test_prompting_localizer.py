"""The localizer's answers, with an untrained network: their form, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.imaging.volume import AIR_HU, Geometry, Volume
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


def test_a_cord_may_lie_where_an_image_shows_nothing_else_and_no_other_structure_may(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu = np.full((16, 12, 12), AIR_HU, dtype=np.float32)  # blocks of 6 mm
    hu[8:, 1:-1, 1:-1] = 40  # a neck
    hu[:8, 5:7, 5:7] = 200  # and below it a canal
    answers = np.zeros((len(CLASSES), *hu.shape), dtype=np.float16)
    answers[0] = 1
    for name, where in (("spinal_cord", np.s_[:, 5:7, 5]), ("esophagus", np.s_[:, 5:7, 6])):
        answers[(slice(None), *where)] = 0
        answers[(CLASSES.index(name), *where)] = 1
    monkeypatch.setattr(localizer, "probabilities", lambda hu: answers)
    fine = hu.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.int16)
    found = localizer.locate(Volume(fine, Geometry.from_spacing(fine.shape, (1.5, 1.5, 1.5))), CLASSES[1:])
    assert found["spinal_cord"].mask.sum() == 16 * 2
    assert not found["esophagus"].mask[:8].any() and found["esophagus"].mask[8:].sum() == 8 * 2


def test_a_brainstem_is_no_larger_than_one_can_be_and_a_liver_may_be() -> None:
    probability = np.linspace(0.4, 1, 40 * 40, dtype=np.float32).reshape(40, 40, 1)
    everything = np.ones(probability.shape, dtype=bool)  # 346 ml
    kept = _largest_possible("brainstem", everything, probability)
    assert 55 < kept.sum() * 0.216 <= 60
    assert probability[kept].min() > probability[~kept].max()
    assert _largest_possible("gallbladder", everything, probability).all()  # may be enlarged
    assert _largest_possible("brain", everything, probability).all()
