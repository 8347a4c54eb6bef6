"""Every case is scored once, whole, by a network that never saw it."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.prompting.coarse import CoarseNetwork
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.training.cases import Case, save_case
from ctsam3d.training.cross_validate import fold_of, score_case, score_fold, table
from ctsam3d.training.recipe import BUNDLED, read_recipes


def _case(name: str) -> Case:
    """A liver, and beside it something whose name may mean a lung or another structure, in a block of 3 mm voxels."""
    labels = np.zeros((41, 40, 40), dtype=np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    labels[30:40, 10:20, 10:20] = 2
    hu = np.where(labels == 1, 100, 0).astype(np.int16)
    return Case(name, hu, labels, None, {1: "liver", 2: "lung"}, {}, frozenset(["liver"]), 3.0)


class _Seeing(Localizer):
    """Takes for liver what is brighter than 50 HU, and all of the block's first slices."""

    def probabilities(self, hu: torch.Tensor) -> NDArray[np.float16]:
        found = np.zeros((len(CLASSES), *hu.shape), dtype=np.float16)
        liver = hu.numpy() > 50
        liver[:1] = True
        found[CLASSES.index("liver")], found[0] = liver, ~liver
        return found


def test_a_case_is_scored_where_it_is_known() -> None:
    case = _case("one")
    assert case.hu is not None
    localizer = _Seeing(CoarseNetwork(), CLASSES, torch.device("cpu"), "")
    (score,) = score_case(localizer, case, case.hu, fold=2)  # which lung it is nobody knows
    assert (score.fold, score.case, score.structure, score.truth_ml) == (2, "one", "liver", 27.0)
    wrong = 2 * 40 * 40  # a block is two voxels thick; all of it is known not to be liver
    assert score.dice == pytest.approx(2 * 1000 / (1000 + 1000 + wrong), abs=1e-4)
    assert "| liver | 1 | 0.385 | 0.385 | 0.385 | 0 | | | |" in table([score])


def test_what_was_reviewed_is_apart_from_what_was_drawn(tmp_path: Path) -> None:
    save_case(replace(_case("one"), reviewed=frozenset(["liver"])), tmp_path / "one.npz")
    localizer = _Seeing(CoarseNetwork(), CLASSES, torch.device("cpu"), "")
    (reviewed,) = score_fold(localizer, tmp_path, lambda _: True, fold=0)
    drawn = replace(reviewed, reviewed=False, dice=0.5)
    lines = table([reviewed, drawn]).splitlines()
    assert lines[2] == "| liver | 1 | 0.500 | 0.500 | 0.500 | 1 | 0.385 | 0.385 | 0.385 |"
    assert lines[3] == "| **mean of structures** | 1 | 0.500 | | | 1 | 0.385 | | |"


def test_a_case_is_in_one_fold_at_most() -> None:
    folds = [lambda name: name.startswith("a"), lambda name: name.endswith("z")]
    assert [fold_of(name, folds) for name in ("ab", "bz", "b")] == [0, 1, None]
    with pytest.raises(ValueError, match="'az'.*one fold at most"):
        fold_of("az", folds)


def test_each_fold_is_trained_without_its_cases_and_all_are_scored(tmp_path: Path) -> None:
    cache, recipe = tmp_path / "cache", tmp_path / "recipe.toml"
    (cache / "localizer").mkdir(parents=True)
    for name in ("one", "two"):
        save_case(_case(name), cache / "localizer" / f"{name}.npz")
    folds = re.compile(r"^folds = \[.*?^\]$", re.DOTALL | re.MULTILINE)
    text, found = folds.subn('folds = [["one"], ["two"]]', BUNDLED.read_text())
    assert found == 1 and len(read_recipes().folds) == 3
    recipe.write_text(text.replace("synthetic = 0.5", "synthetic = 0.0"))
    command = [sys.executable, "-m", "ctsam3d.training", "cross_validate", cache, tmp_path / "run"]
    options = ["--steps", "1", "--batch", "1", "--workers", "0", "--recipe", recipe]
    done = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| liver | 2 |" in done.stdout
    with (tmp_path / "run" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["case"], row["structure"]) for row in rows] == [
        ("0", "one", "liver"),
        ("1", "two", "liver"),
    ]
