"""A training that is stopped and resumed takes the same steps as one that is not; its samples repeat exactly."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ctsam3d.anatomy.localized import UNKNOWN
from ctsam3d.network.config import SIZES
from ctsam3d.training.cases import Case, load_case, save_case
from ctsam3d.training.cubes import CubeSamples, Mixture, error_clicks
from ctsam3d.training.localizer import LocalizerPatches
from ctsam3d.training.loop import Schedule, train


def _draw(key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(key)
    x = torch.from_numpy(rng.standard_normal(3).astype(np.float32))
    return {"x": x, "y": x.sum()[None]}


def _loss(
    model: nn.Module, batch: dict[str, torch.Tensor], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    return (model(batch["x"]) - batch["y"]).square().mean(), {}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def _schedule(**changes: float) -> Schedule:
    settings = {"steps": 40, "batch": 2, "learning_rate": 0.05, "warm_up_steps": 5, "workers": 0} | changes
    return Schedule(**settings)  # type: ignore[arg-type]


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    whole = train(_model(), _draw, _loss, _schedule(), tmp_path / "whole", cpu)
    model = _model()
    stopped = train(model, _draw, _loss, _schedule(save_every_s=0), tmp_path / "parts", cpu, time_limit_s=0)
    assert not torch.equal(stopped["0.weight"], whole["0.weight"])  # it did stop early
    resumed = train(_model(), _draw, _loss, _schedule(), tmp_path / "parts", cpu)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    with (tmp_path / "parts" / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 41))


def test_training_learns(tmp_path: Path) -> None:
    train(_model(), _draw, _loss, _schedule(steps=150), tmp_path, torch.device("cpu"))
    with (tmp_path / "log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-20:]) < 0.2 * np.mean(losses[:20])


def test_a_step_with_an_infinite_gradient_changes_nothing(tmp_path: Path) -> None:
    def broken(
        model: nn.Module, batch: dict[str, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        loss, figures = _loss(model, batch, step)
        return loss * (float("inf") if step == 3 else 1.0), figures

    averages = train(_model(), _draw, broken, _schedule(steps=10), tmp_path, torch.device("cpu"))
    assert all(torch.isfinite(value).all() for value in averages.values())


def _phantom() -> Case:
    labels = np.zeros((70, 60, 66), dtype=np.uint8)
    labels[20:50, 15:45, 10:30] = 1
    labels[20:50, 15:45, 36:56] = 2
    hu = np.where(labels > 0, 60 + 40 * labels.astype(np.int16), -100).astype(np.int16)
    known = frozenset(["liver", "spleen"])
    return Case("phantom", hu, labels, None, {1: "liver", 2: "spleen"}, {}, known, 1.5)


def test_samples_are_a_function_of_their_key() -> None:
    cubes = CubeSamples([_phantom()], SIZES["nano"].windows_hu, Mixture(synthetic=0.0))
    patches = LocalizerPatches([_phantom()], synthetic=0.0)
    for draws in (cubes.draw, patches.draw):
        first, again, other = draws((0, 5, 1)), draws((0, 5, 1)), draws((0, 6, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_cube_is_clicked_inside_its_structure() -> None:
    cubes = CubeSamples([_phantom()], SIZES["nano"].windows_hu, Mixture(synthetic=0.0, coarse_prompt=0.0))
    inside = 0
    for step in range(20):
        sample = cubes.draw((0, step, 0))
        x, y, z = sample["click_xyz"][0].int().tolist()
        inside += int(sample["truth"][0, z, y, x])
        assert sample["cube"].shape == (2, 64, 64, 64) and 0 <= float(sample["cube"].min()) <= 1
        # brighter inside than out: the image moved with its labels
        hu = sample["cube"][0]
        assert float(hu[sample["truth"][0] > 0].mean()) > float(hu[sample["truth"][0] == 0].mean())
    assert inside >= 18  # interpolated labels may lose a voxel at the border


def test_what_the_localizer_does_not_have_is_clicked_too() -> None:
    phantom = replace(_phantom(), names={1: "larynx", 2: "spleen"}, known=frozenset(["spleen"]))
    phantom.labels[:, 46:] = UNKNOWN  # what a review of the spleen left open
    mixture = Mixture(synthetic=0.0, coarse_prompt=0.0)
    drawn = CubeSamples([phantom], SIZES["nano"].windows_hu, mixture)
    reviewed = CubeSamples(
        [replace(phantom, reviewed=frozenset(["larynx"]))], SIZES["nano"].windows_hu, mixture
    )
    larynxes = 0
    for step in range(20):
        name = drawn.choose(np.random.default_rng((0, step, 0))).structure
        sample, doubted = drawn.draw((0, step, 0)), reviewed.draw((0, step, 0))
        assert torch.equal(sample["cube"], doubted["cube"])
        bright = sample["cube"][0] > 0.7  # the spleen is, the larynx is not
        truth, known = sample["truth"][0] > 0, sample["known"][0] > 0
        if name == "larynx":
            larynxes += 1
            assert truth.any() and float(bright[truth].float().mean()) < 0.3
            assert known.all() and not (doubted["known"][0] > 0).all()
        else:
            assert float(bright[truth].float().mean()) > 0.7
            assert not known.all()
    assert 4 <= larynxes <= 16


def test_a_cached_case_reads_back(tmp_path: Path) -> None:
    case = _phantom()
    save_case(case, tmp_path / "phantom.npz")
    read = load_case(tmp_path / "phantom.npz")
    assert np.array_equal(read.hu, case.hu) and np.array_equal(read.labels, case.labels)  # type: ignore[arg-type]
    assert (read.names, read.known, read.spacing_mm) == (case.names, case.known, case.spacing_mm)


def test_a_small_cache_is_off_by_no_more_than_was_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 30, _phantom().labels.shape)
    case = replace(_phantom(), hu=(_phantom().hu + noise).round().astype(np.int16))
    assert case.hu is not None
    exact, small = tmp_path / "exact.npz", tmp_path / "small.npz"
    save_case(case, exact)
    save_case(case, small, hu_error=6)
    read = load_case(small)
    assert read.hu is not None and read.hu.dtype == np.int16
    assert 0.5 < np.sqrt(np.mean((read.hu.astype(float) - case.hu) ** 2)) < 6.6
    assert np.array_equal(read.labels, case.labels)
    assert small.stat().st_size < 0.6 * exact.stat().st_size


def test_a_correcting_click_lies_where_the_mask_is_wrong() -> None:
    truth = torch.zeros(4, 1, 16, 16, 16)
    truth[:, :, 4:12, 4:12, 4:12] = 1
    answers, known = truth.clone(), torch.ones_like(truth)
    answers[0, :, 8:] = 0  # misses a half
    answers[1, :, :, :, 12:15] = 1  # leaks
    answers[3] = 1 - truth[3]
    known[3, :, :8] = 0  # wrong everywhere, known in a half
    for seed in range(5):
        clicks, labels = error_clicks(answers, truth, known, seed)
        assert clicks.shape == (4, 1, 3) and labels.tolist()[:3] == [[1], [0], [-1]]
        for n in (0, 1, 3):
            x, y, z = clicks[n, 0].long().tolist()
            assert answers[n, 0, z, y, x] != truth[n, 0, z, y, x] and known[n, 0, z, y, x]
            assert labels[n] == truth[n, 0, z, y, x]
