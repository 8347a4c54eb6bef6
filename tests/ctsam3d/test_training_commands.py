"""The training's command line from case folders to weights that the segmenter takes, a step of each network."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ctsam3d.network import checkpoint
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.segmentation.segmenter import Segmenter
from ctsam3d.training import __main__ as commands
from ctsam3d.training import cross_patch, cubes, localizer
from ctsam3d.training.commands import data as data_commands
from ctsam3d.training.recipe import BUNDLED

_STEP = ["--steps", "1", "--batch", "1", "--workers", "0", "--precision", "float32"]


def _case(folder: Path, seed: int) -> None:
    """A block of liver and one of spleen, 3 mm."""
    folder.mkdir(parents=True)
    labels = np.zeros((44, 40, 48), dtype=np.uint8)
    labels[8:24, 8:30, 8:40], labels[28:40, 10:30, 10:38] = 1, 2
    hu = 60 + 40 * labels.astype(np.int16) + np.random.default_rng(seed).integers(-20, 20, labels.shape)
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    names = {"labels": {"1": "liver", "2": "spleen"}, "annotated": ["liver", "spleen"]}
    (folder / "labels.json").write_text(json.dumps(names))


def _run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["training", *map(str, words)])
    commands.main()


def test_case_folders_become_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache, runs = tmp_path / "data", tmp_path / "cache", tmp_path / "runs"
    for seed, name in enumerate(("taught", "nsclc_lung1-001")):  # the second is one the recipe leaves out
        _case(data / "set" / name, seed)
    monkeypatch.setattr(data_commands, "_PHANTOMS", 0)
    for module, name in (
        (localizer, "LocalizerValidation"), (cubes, "CubeValidation"), (cross_patch, "CrossPatchValidation"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, partial(getattr(module, name), count=4))
    _run(monkeypatch, "prepare", data, cache, "--hu-error", "5")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        BUNDLED.read_text()
        .replace("synthetic = 0.35", "synthetic = 0.0")
        .replace("synthetic = 0.5 ", "synthetic = 0.0 ")
    )

    _run(monkeypatch, "localizer", cache, runs / "localizer", "--recipe", recipe, *_STEP)
    _run(monkeypatch, "export", runs / "localizer", "localizer", tmp_path / "localizer.safetensors")
    again = ["--start", tmp_path / "localizer.safetensors"]
    _run(monkeypatch, "localizer", cache, runs / "again", "--recipe", recipe, *_STEP, *again)
    before = Localizer.load(tmp_path / "localizer.safetensors", torch.device("cpu")).network.state_dict()
    after = torch.load(runs / "again" / "state.pt", weights_only=True)["model"]
    # one step of the warm-up from where the first training ended, not from anywhere else
    assert max(float((after[k] - before[k]).abs().max()) for k in before) < 1e-3

    _run(monkeypatch, "cubes", cache, runs / "cubes", "--recipe", recipe, *_STEP)
    plain, whole = tmp_path / "plain.safetensors", tmp_path / "whole.safetensors"
    _run(monkeypatch, "export", runs / "cubes", "nano", plain, "--facts", '{"seed": 7}')
    _run(
        monkeypatch, "cross_patch", cache, runs / "cpp", "--recipe", recipe, *_STEP, "--answers-of", plain,
    )  # fmt: skip
    _run(monkeypatch, "export", plain, "nano", whole, "--cross-patch", runs / "cpp")

    (first, facts), (second, told) = checkpoint.load(plain), checkpoint.load(whole)
    assert facts.facts.training["cross_patch"] is False and facts.facts.training["seed"] == 7
    assert told.facts.training == {
        **facts.facts.training, "cross_patch": "aligned", "cross_patch_steps": 1,
    }  # fmt: skip
    same = {k: torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items()}
    assert all(same[k] for k in same if not k.startswith("cpp_predictor"))
    assert not all(same[k] for k in same if k.startswith("cpp_predictor"))
    segmenter = Segmenter.load(whole, localizer_file=tmp_path / "localizer.safetensors")
    assert segmenter.cross_patch and "liver" in segmenter.structures
