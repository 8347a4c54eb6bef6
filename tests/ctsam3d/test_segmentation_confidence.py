"""Confidence estimates Dice: it follows the evidence, and its coefficients are fitted, stored and read strictly."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ctsam3d.network import checkpoint
from ctsam3d.segmentation.accept import least_agreements
from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, sharpness
from ctsam3d.segmentation.segmenter import weights_path
from ctsam3d.training.__main__ import main
from ctsam3d.training.calibrate import (
    Refinement,
    fit,
    fit_acceptance,
    gain_left_out,
    leave_one_out_error,
)


def _masks(count: int = 60) -> tuple[list[Evidence], list[float]]:
    """Masks whose Dice is their agreement with noise; the localizer's word is worth nothing."""
    rng = np.random.default_rng(0)
    agreement = rng.uniform(0.1, 0.97, count)
    dice = np.clip(agreement + rng.normal(0, 0.03, count), 0, 1)
    evidence = [
        Evidence(float(rng.uniform(0.7, 0.95)), float(a), float(rng.uniform(0.4, 1))) for a in agreement
    ]
    return evidence, [float(d) for d in dice]


def test_a_certain_probability_is_sharp_and_an_uncertain_one_is_not() -> None:
    certain, unsure = np.zeros((8, 8, 8), np.float32), np.full((8, 8, 8), 0.3, np.float32)
    certain[2:6], unsure[2:6] = 1.0, 0.6
    assert sharpness(certain) == 1
    assert 0.3 < sharpness(unsure) < 0.7
    assert sharpness(np.zeros((4, 4, 4), np.float32)) == 0


def test_a_fitted_confidence_is_a_dice() -> None:
    evidence, dice = _masks()
    coefficients = fit(evidence, dice)
    assert coefficients.agreement > 4 * coefficients.localized
    errors = [abs(estimate(e, coefficients) - d) for e, d in zip(evidence, dice, strict=True)]
    assert np.mean(errors) < 0.06
    plain = [abs(estimate(e, None) - d) for e, d in zip(evidence, dice, strict=True)]
    assert np.mean(errors) < 0.5 * np.mean(plain)
    cases = [str(i % 6) for i in range(len(dice))]
    assert leave_one_out_error(evidence, dice, cases) < 0.08


def test_without_coefficients_or_a_coarse_mask_it_is_the_mean_of_what_is_known() -> None:
    assert estimate(Evidence(0.8), Coefficients(0, 1, 1, 1)) == 0.8
    assert estimate(Evidence(0.8, 0.6, 0.7), None) == pytest.approx(0.7)


def test_too_few_masks_are_refused() -> None:
    evidence, dice = _masks(9)
    with pytest.raises(ValueError, match="ten masks or more to calibrate with, found 9"):
        fit(evidence, dice)


@pytest.mark.parametrize(
    "found", [[1, 2], {"bias": 0.0}, {"bias": 0, "sharpness": 1, "agreement": "x", "localized": 1},
              {"bias": float("nan"), "sharpness": 1, "agreement": 1, "localized": 1}],
)  # fmt: skip
def test_facts_that_are_no_coefficients_are_refused(found: object) -> None:
    with pytest.raises(ValueError, match="expected confidence to hold finite numbers"):
        Coefficients.of_facts({"confidence": found})


def test_coefficients_are_read_from_facts() -> None:
    assert Coefficients.of_facts({}) is None
    facts = {"confidence": {"bias": 0.1, "sharpness": 1, "agreement": 2, "localized": 0.5}}
    assert Coefficients.of_facts(facts) == Coefficients(0.1, 1.0, 2.0, 0.5)


def test_scores_are_fitted_into_the_facts_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, dice = _masks(30)
    rows = [
        {"case": f"case{i}", "dice": d, "evidence_sharpness": e.sharpness,
         "evidence_agreement": e.agreement, "evidence_localized": e.localized,
         "structure": "liver", "method": "automatic", "status": "ok"}
        for i, (e, d) in enumerate(zip(evidence, dice, strict=True))
    ]  # fmt: skip
    rows.append(rows[0] | {"evidence_agreement": None, "method": "clicks"})
    # refining costs a tenth wherever it agrees with the coarse mask less than 0.6
    for row in rows[:30]:
        before = row["dice"] + (0.1 if row["evidence_agreement"] < 0.6 else -0.1)
        rows.append(row | {"method": "localizer", "dice": before, "evidence_agreement": None})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    weights = tmp_path / "nano.safetensors"
    shutil.copy(weights_path("nano"), weights)
    # in cases that were trained on, which tell nothing of confidence, every spleen is better left alone
    spleens = [row | {"structure": "spleen"} for row in rows[:8]]
    spleens += [
        row | {"method": "localizer", "dice": row["dice"] + 0.2, "evidence_agreement": None}
        for row in spleens
    ]
    pq.write_table(pa.Table.from_pylist(spleens), tmp_path / "seen.parquet")
    arguments = ["training", "calibrate", str(weights), str(tmp_path / "scores.parquet")]
    arguments += ["--trained-on", str(tmp_path / "seen.parquet")]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    model, info = checkpoint.load(weights)
    assert Coefficients.of_facts(info.facts.training) == fit(evidence, dice)
    assert info.facts.training["confidence"]["masks"] == 30
    assert 0.5 < least_agreements(info.facts.training)["liver"] <= 0.61
    assert least_agreements(info.facts.training)["spleen"] >= max(e.agreement or 0 for e in evidence[:8])
    before, _ = checkpoint.load(weights_path("nano"))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def _refined(structure: str, *agreements_and_gains: tuple[float, float]) -> list[Refinement]:
    return [Refinement(str(i), structure, a, g) for i, (a, g) in enumerate(agreements_and_gains)]


def test_a_structure_that_refining_harms_is_not_refined_and_one_bad_mask_condemns_none() -> None:
    good = _refined(
        "liver", (0.9, 0.03), (0.92, 0.04), (0.8, 0.05), (0.95, 0.02), (0.9, 0.06), *[(0.9, 0.1)] * 9
    )
    harmed = _refined("esophagus", (0.7, -0.1), (0.9, -0.15), (0.8, -0.2), (0.75, -0.15))
    unlucky = _refined("spleen", (0.85, -0.01))
    far = _refined("stomach", (0.65, -0.4), (0.9, 0.05), (0.92, 0.05))
    found = fit_acceptance([*good, *harmed, *unlucky, *far])
    assert set(found) == {"esophagus", "stomach"}
    assert found["esophagus"] > 0.9 and 0.65 < found["stomach"] < 0.9
    assert fit_acceptance([]) == {}


def test_what_acceptance_gains_is_told_of_cases_that_it_was_not_fitted_on() -> None:
    always, by_others = gain_left_out(
        _refined("liver", (0.9, 0.1)) + _refined("cord", (0.8, -0.1), (0.8, -0.3))
    )
    assert always == pytest.approx(-0.1)
    # without the case at hand the other cord says not to, but for case 0, where there is a liver too
    assert by_others > always


@pytest.mark.parametrize("found", [["liver"], {"liver": "high"}, {"liver": 1.5}, {"liver": float("nan")}])
def test_facts_that_are_no_agreements_are_refused(found: object) -> None:
    with pytest.raises(ValueError, match="expected acceptance to hold numbers in"):
        least_agreements({"acceptance": found})
