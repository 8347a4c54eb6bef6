"""How sure the network must be of a voxel is fitted on labelled cases, kept by the weights, and heeded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.nifti import write_labels
from ctsam3d.network import checkpoint
from ctsam3d.segmentation.accept import OTHERS, settled, thresholds
from ctsam3d.segmentation.segmenter import Segmenter, weights_path
from ctsam3d.training.__main__ import main
from ctsam3d.training.thresholds import LEVELS, Curve, fit_thresholds, gain_left_out

ABDOMEN = Path(__file__).parents[2] / "demo" / "studies" / "totalseg_abdomen"


def _curve(structure: str, best: float, case: str = "one", slope: float = 0.1) -> Curve:
    """Falls off on both sides of one level."""
    at = LEVELS.index(best)
    return Curve(case, structure, tuple(0.8 - slope * abs(i - at) for i in range(len(LEVELS))))


def test_odds_are_divided_by_those_of_the_threshold() -> None:
    probability = np.array([0, 0.5, 0.8, 0.9, 0.95, 1], dtype=np.float32)
    found = settled(probability, 0.9)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0, 0.1, 4 / 13, 0.5, 19 / 28, 1], abs=1e-6)
    assert (np.diff(found) > 0).all()
    assert settled(probability, 0.5) is probability


def test_a_structure_of_many_cases_has_its_own_threshold_and_one_of_few_is_drawn_to_the_others() -> None:
    many = [_curve("liver", 0.6, case=str(i)) for i in range(9)]
    others = [_curve(name, 0.95) for name in ("spleen", "kidney_left", "sacrum", "stomach")]
    few = _curve("pancreas", 0.5, slope=0.01)
    found = fit_thresholds([*many, *others, few])
    assert found["liver"] == 0.6
    assert found["spleen"] == found["pancreas"] == found[OTHERS] == 0.95


def test_lungs_stay_at_one_half_and_say_nothing_of_others() -> None:
    found = fit_thresholds(
        [*[_curve("lung_left", 0.6, case=str(i)) for i in range(9)], _curve("liver", 0.95)]
    )
    assert found == {OTHERS: 0.95, "liver": 0.95, "lung_left": 0.5, "lung_right": 0.5}


def test_what_a_left_one_shows_goes_for_the_right_one() -> None:
    lefts = [_curve("hip_left", 0.6, case=str(i)) for i in range(9)]
    found = fit_thresholds([*lefts, _curve("hip_right", 0.95), _curve("liver", 0.95)])
    assert found["hip_left"] == found["hip_right"] == 0.6


def test_of_thresholds_that_are_as_good_the_one_nearest_to_a_half_is_taken() -> None:
    flat = Curve("one", "liver", (0.8, 0.85, 0.8995, 0.9, 0.9005, 0.9, 0.89, 0.88))
    found = fit_thresholds([flat])
    assert found[OTHERS] == found["liver"] == 0.7
    assert fit_thresholds([]) == {}


def test_gain_is_told_of_cases_that_nothing_was_fitted_on() -> None:
    of_all, of_others = gain_left_out([_curve("liver", 0.9, "one"), _curve("liver", 0.9, "two")])
    assert of_all == of_others == pytest.approx(0.4)
    of_all, of_others = gain_left_out([_curve("liver", 0.95, "one"), _curve("liver", 0.5, "two")])
    assert of_others < of_all


@pytest.mark.parametrize(
    "found", [["liver"], {"liver": "high"}, {"liver": 1}, {"liver": 0}, {"liver": float("nan")}]
)
def test_facts_that_are_no_thresholds_are_refused(found: object) -> None:
    with pytest.raises(ValueError, match=r"expected thresholds to hold numbers in \(0, 1\) by structure"):
        thresholds({"thresholds": found})
    assert thresholds({}) == {}


def test_cases_whose_truth_is_tighter_are_fitted_into_the_facts_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = read_folder(ABDOMEN).volume
    found = Segmenter.load().segment(volume, ("spleen",))
    tighter = ndimage.binary_erosion(found.labels > 0, np.ones((1, 3, 3)))
    case = tmp_path / "abdomen"
    case.mkdir()
    write_labels(case / "labels.nii.gz", tighter.astype(np.uint8), volume.geometry)
    (case / "labels.json").write_text(json.dumps({"labels": {"1": "spleen"}, "annotated": ["spleen"]}))
    (case / "ct").symlink_to(ABDOMEN)
    weights = tmp_path / "nano.safetensors"
    shutil.copy(weights_path("nano"), weights)
    monkeypatch.setattr(sys, "argv", ["training", "thresholds", str(weights), str(case)])
    main()
    before, _ = checkpoint.load(weights_path("nano"))
    model, info = checkpoint.load(weights)
    fitted = thresholds(info.facts.training)
    assert set(fitted) == {OTHERS, "spleen", "lung_left", "lung_right"} and fitted["spleen"] > 0.5
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))
    (case / "labels.json").write_text(json.dumps({"labels": {"1": "tumour"}, "annotated": ["tumour"]}))
    with pytest.raises(SystemExit, match="expected a structure that is labelled"):
        main()
    assert thresholds(checkpoint.info(weights).facts.training) == fitted
    (case / "labels.json").unlink()
    with pytest.raises(SystemExit, match=r"labels.json: missing"):
        main()
