"""`ctsam3d evaluate` as a person meets it; the network is untrained: scores are not the point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.network import build, checkpoint
from tests.ctsam3d.labelled_case import write_case
from tests.phantom import SHAPE_ZYX, SPACING_XYZ_MM, phantom_hu
from tests.pipelines.test_cli import Done


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of the smallest size that finds nothing, so that no click grows over the whole image."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    network = build("nano")
    torch.nn.init.constant_(network.get_parameter("mask_decoder.mask_prediction_head.0.bias"), -20)
    checkpoint.save(file, network, {"note": "untrained"})
    return file


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """Two lungs, one of them annotated."""
    hu = phantom_hu(1)
    labels = (hu == -850) * np.where(np.arange(SHAPE_ZYX[2]) < SHAPE_ZYX[2] // 2, 1, 2)
    names = {1: "lung_right", 2: "lung_left"}
    geometry = Geometry.from_spacing(SHAPE_ZYX, SPACING_XYZ_MM, (-160, -120, 0))
    return write_case(tmp_path / "chest", hu, labels, geometry, names, ["lung_right"])


@pytest.fixture
def evaluate(ctsam3d_here: Callable[..., Done]) -> Callable[..., Done]:
    return partial(ctsam3d_here, "evaluate")


def test_a_bad_case_is_named_and_costs_none_of_the_others(
    tmp_path: Path, case: Path, weights: Path, evaluate: Callable[..., Done]
) -> None:
    out, damaged = tmp_path / "out", tmp_path / "damaged"
    damaged.mkdir()
    done = evaluate(damaged, case, "--out", out, "--weights", weights, "--clicks", "2", "--worst", "2")
    assert done.code == 2, done.err
    said = done.err.splitlines()
    assert len(said) == 2 and "labels.json: missing" in said[0] and said[1].startswith("chest: 1 structures")
    table = dict(line.rsplit(maxsplit=1) for line in done.out.splitlines())
    assert (table["cases"], table["not scored"]) == ("2", "1")
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert [(s["case"], s["structure"], s["method"], s["clicks"]) for s in scores] == [
        ("chest", "lung_right", "localizer", None),
        ("chest", "lung_right", "automatic", None),
        ("chest", "lung_right", "clicks", 1),
        ("chest", "lung_right", "clicks", 2),
        ("chest", "lung_right", "corrected", 1),
        ("chest", "lung_right", "corrected", 2),
    ]
    assert (
        scores[2]["cubes"] == scores[3]["cubes"] == 1
    )  # nothing was found, and the same click again asks nothing new
    cases = pq.read_table(out / "cases.parquet").to_pylist()
    assert [c["case"] for c in cases] == ["damaged", "chest"]
    assert "labels.json" in cases[0]["fault"] and cases[1]["fault"] is None
    report = (out / "report.md").read_text()
    assert "## chest" in report and "| 2 clicks |" in report
    for picture in ("clicks.png", "worst.png"):
        assert picture in report and (out / picture).read_bytes().startswith(b"\x89PNG")


def test_what_is_unknown_is_neither_scored_nor_clicked_on(
    tmp_path: Path, weights: Path, evaluate: Callable[..., Done]
) -> None:
    network, _ = checkpoint.load(weights)
    torch.nn.init.constant_(network.get_parameter("mask_decoder.mask_prediction_head.0.bias"), 20)
    everywhere = tmp_path / "everywhere.safetensors"
    checkpoint.save(everywhere, network, {"note": "finds a structure in every voxel"})
    labels = np.full((24, 24, 24), 255)
    labels[8:16, 8:16, 8:16] = 1
    geometry = Geometry.from_spacing(labels.shape, (2.5, 2.5, 2.5), (0, 0, 0))
    case = write_case(tmp_path / "box", np.where(labels == 1, 50, -100), labels, geometry, {1: "liver"})
    done = evaluate(case, "--out", tmp_path / "out", "--weights", everywhere, "--clicks", "2")
    assert done.code == 0, done.err
    scores = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert all(score["found_ml"] <= score["truth_ml"] for score in scores)
    # all that is known is right, so that there is no second click
    assert [(s["clicks"], s["dice"]) for s in scores if s["method"] == "clicks"] == [(1, 1.0)]


def test_mistakes_are_named_before_anything_is_scored(
    tmp_path: Path, case: Path, weights: Path, evaluate: Callable[..., Done]
) -> None:
    out = tmp_path / "out"
    unknown = evaluate(case, "--out", out, "--weights", weights, "--structures", "livr")
    assert unknown.code == 1 and "'livr'" in unknown.line and "liver" in unknown.line
    twice = evaluate(case, case, "--out", out, "--weights", weights)
    assert twice.code == 1 and "'chest'" in twice.line
    missing = evaluate(case, "--out", out, "--weights", "gigantic")
    assert missing.code == 1 and "gigantic" in missing.line
    assert not out.exists()
