"""Train the cube network: cached cases at 1.5 mm in, weights that answer clicks and refine coarse masks out.

A sample is a cube of 64^3 voxels, one structure in it, and a prompt. The prompt is what the network meets in use: one
click alone, or together with the coarse mask a localizer would have drawn, imitated by degrading the truth. Further
rounds correct the answer with clicks drawn from its errors, as in the published recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from ctsam3d.anatomy.localized import BACKGROUND, LOCALIZED, UNKNOWN
from ctsam3d.network import windows
from ctsam3d.network.click_maps import PADDING
from ctsam3d.network.config import CUBE_VOXELS, SPACING_MM
from ctsam3d.network.model import CtSam3d
from ctsam3d.training.augment import Pose, change_phase, crop_around, draw_grid, jitter_hu, sample, thicken
from ctsam3d.training.cases import Case, as_often, choose, decided, load_cases
from ctsam3d.training.losses import mask_loss
from ctsam3d.training.synthesize import body_of, clothe, paint, smooth_noise

_SHAPE = (CUBE_VOXELS, CUBE_VOXELS, CUBE_VOXELS)
_POSE = Pose(rotation_deg=12, scale=(0.8, 1.25), warp_mm=6, flip_probability=0.5)
_REACH_MM = np.full(3, CUBE_VOXELS * SPACING_MM / 2 * 1.9 + 10)
OBJECT = "object_"  # what the names of things without a name begin with
_COARSE_FACTOR = 4  # the localizer's voxels are 6 mm


@dataclass(frozen=True, slots=True)
class Mixture:
    """What share of the samples is what."""

    synthetic: float = 0.35
    coarse_prompt: float = 0.65
    off_target: float = 0.12  # of the coarse prompts, centred where the coarse mask is wrong
    rounds: tuple[float, ...] = (
        0.55,
        0.25,
        0.12,
        0.08,
    )  # of the steps: how often one, two, ... rounds of clicks
    objects: float = 0.0  # share of objects without a name, where there are cases of such
    often: Callable[[str], float] = as_often


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    case: Case
    truth_of: dict[str, NDArray[np.bool_]]  # structure -> (256,), label ids that are it
    known_of: dict[
        str, NDArray[np.bool_]
    ]  # structure -> (256,), label ids of which it is known whether they are it
    places: dict[str, NDArray[np.int32]]  # structure -> voxels inside it (n, 3)
    body_mm: NDArray[np.uint8] | None


class CubeSamples:
    """Draws training samples; a sample is a function of its (seed, step, item) alone."""

    def __init__(self, cases: list[Case], windows_hu: windows.Windows, mixture: Mixture) -> None:
        with ThreadPoolExecutor() as pool:
            prepared = list(pool.map(_prepare, cases))
        # what has no name in the catalogue is drawn apart from what has one
        self.objects = [p for p in prepared if any(n.startswith(OBJECT) for n in p.places)]
        self.prepared = [p for p in prepared if p not in self.objects]
        self.windows_hu, self.mixture = windows_hu, mixture

    @classmethod
    def from_cache(
        cls,
        folder: Path,
        wanted: Callable[[str], bool],
        windows_hu: windows.Windows,
        mixture: Mixture | None = None,
    ) -> CubeSamples:
        """The cached cases of a folder whose name is wanted."""
        return cls(load_cases(folder, wanted), windows_hu, mixture or Mixture())

    def choose(self, rng: np.random.Generator) -> Place:
        """A voxel of a structure, each structure as likely as any other, in a real or a painted case."""
        if self.objects and rng.random() < self.mixture.objects:
            prepared = self.objects[int(rng.integers(len(self.objects)))]
            return _place(rng, prepared, str(rng.choice(sorted(prepared.places))), synthetic=False)
        synthetic = rng.random() < self.mixture.synthetic
        pool = [p for p in self.prepared if (p.body_mm is not None if synthetic else p.case.hu is not None)]
        wanted = choose(rng, {c for p in pool for c in p.places}, self.mixture.often)
        having = [p for p in pool if wanted in p.places]
        prepared = having[int(rng.integers(len(having)))]
        return _place(rng, prepared, wanted, synthetic=synthetic)

    def draw(self, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """`cube` (C, z, y, x), `truth`, `known` and `previous` (1, z, y, x), `click_xyz` (1, 3)."""
        rng = np.random.default_rng(key)
        place = self.choose(rng)
        coarse = rng.random() < self.mixture.coarse_prompt
        if coarse and rng.random() < self.mixture.off_target:
            off = rng.normal(0, 14 / place.prepared.case.spacing_mm, 3)
            place = replace(place, centre_zyx=place.centre_zyx + off)
        # the click is the cube's centre, or off it
        shift = rng.integers(-20, 21, 3) if rng.random() < 0.3 else np.zeros(3, dtype=int)
        grid = draw_grid(rng, _SHAPE, SPACING_MM, _POSE)
        view = place.view(rng, grid - grid[tuple(32 + shift)])
        hu = jitter_hu(rng, view.hu, strength=0.7)
        previous = degrade(rng, view.truth) if coarse else np.zeros(_SHAPE, dtype=np.float32)
        click_zyx = 32 + shift
        return {
            "cube": torch.from_numpy(windows.apply(hu, self.windows_hu)),
            "truth": torch.from_numpy(view.truth.astype(np.float32))[None],
            "known": torch.from_numpy(view.known.astype(np.float32))[None],
            "previous": torch.from_numpy(previous)[None],
            "click_xyz": torch.from_numpy(click_zyx[::-1].astype(np.float32).copy())[None],
        }


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one cube shows: HU, where the structure is, and where that is known. Arrays are (z, y, x)."""

    hu: NDArray[np.float32]
    truth: NDArray[np.bool_]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A voxel (z, y, x) of a structure in a case, to be looked at as a real or as a painted image."""

    prepared: _Prepared
    structure: str
    synthetic: bool
    centre_zyx: NDArray[np.float64]

    def view(self, rng: np.random.Generator, grid: NDArray[np.float32]) -> View:
        """The cube whose voxels lie at the place + `grid` (z, y, x, 3) mm.

        Two views drawn from generators in the same state have the same tissues and the same contrast phase.
        """
        case = self.prepared.case
        window = crop_around(case.labels.shape, self.centre_zyx, _REACH_MM / case.spacing_mm)
        where = (self.centre_zyx - [s.start for s in window], case.spacing_mm, grid)
        ids = sample(case.labels[window], *where, linear=False, outside=255.0).round().astype(np.uint8)
        inside = np.where(ids == 255, np.uint8(0), ids)
        if self.synthetic:
            hu = self._painted(rng, window, inside, where)
        else:
            assert case.hu is not None
            hu = sample(case.hu[window], *where, linear=True, outside=-1024.0)
            if rng.random() < 0.3:
                hu = change_phase(rng, hu, inside, case.names)
            if rng.random() < 0.3:
                hu = thicken(rng, hu, SPACING_MM)
        return View(
            hu, self.prepared.truth_of[self.structure][ids], self.prepared.known_of[self.structure][ids]
        )

    def _painted(
        self,
        rng: np.random.Generator,
        window: tuple[slice, slice, slice],
        inside: NDArray[np.uint8],
        where: tuple[NDArray[np.float64], float, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        case = self.prepared.case
        if case.tissue is not None:
            tissue = sample(case.tissue[window], *where, linear=False, outside=0.0).round().astype(np.uint8)
            return paint(rng, tissue, case.tissue_names, SPACING_MM)
        assert self.prepared.body_mm is not None
        body_mm = sample(self.prepared.body_mm[window], *where, linear=True, outside=60.0).astype(np.uint8)
        return paint(rng, clothe(rng, inside, body_mm), case.names, SPACING_MM)


def _place(rng: np.random.Generator, prepared: _Prepared, wanted: str, *, synthetic: bool) -> Place:
    voxels = prepared.places[wanted]
    return Place(prepared, wanted, synthetic, voxels[rng.integers(len(voxels))].astype(float))


def degrade(rng: np.random.Generator, truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What a 6 mm localizer might have said of a structure: moved, blurred, too large or small, cut or with a blob."""
    moved = torch.from_numpy(truth.astype(np.float32))[None, None]
    identity = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *truth.shape], align_corners=False)
    amount = rng.uniform(0, 10) / (truth.shape[0] / 2)
    knots = torch.from_numpy(rng.standard_normal((1, 3, 4, 4, 4)).astype(np.float32)) * (amount / 2)
    warp = F.interpolate(knots, size=truth.shape, mode="trilinear", align_corners=True)
    moved = F.grid_sample(
        moved, identity + warp.permute(0, 2, 3, 4, 1), padding_mode="border", align_corners=False
    )
    small = F.avg_pool3d(moved, _COARSE_FACTOR)[0, 0].numpy()
    logits = (small - 0.5) * rng.uniform(6, 16) + rng.uniform(-2.5, 2.5)
    logits += rng.uniform(0, 2.5) * smooth_noise(rng, small.shape, 4)
    if rng.random() < 0.3:  # a part never found
        direction = rng.standard_normal(3)
        axes = np.meshgrid(*[np.arange(n) - n / 2 for n in small.shape], indexing="ij")
        logits[sum(d * a for d, a in zip(direction, axes, strict=True)) > rng.uniform(2, 8) * 1.5] -= 6
    if rng.random() < 0.25:  # something else taken for it
        blob = rng.integers(0, small.shape[0], 3)
        radius = int(rng.integers(1, 4))
        logits[tuple(slice(max(0, b - radius), b + radius) for b in blob)] += 6
    small_p = torch.from_numpy(1 / (1 + np.exp(-logits.astype(np.float32))))[None, None]
    up: NDArray[np.float32] = F.interpolate(small_p, size=truth.shape, mode="trilinear")[0, 0].numpy()
    return up


def _prepare(case: Case) -> _Prepared:
    if all(name.startswith(OBJECT) for name in case.names.values()):
        return _prepare_objects(case)
    allowed = case.allowed()
    found_boxes = ndimage.find_objects(case.labels, 255)
    truth_of, known_of, places = {}, {}, {}
    for label, name in case.names.items():
        classes = case.classes(label)
        if BACKGROUND in classes:  # the localizer does not have it: clicks alone can ask for it
            structure, is_it, known = name, np.arange(256) == label, np.ones(256, dtype=bool)
            # what a review of other structures left open is none of what somebody drew
            known[UNKNOWN] = name not in case.reviewed
        elif len(classes) == 1:
            structure = classes[0]
            # an id that is in no table (255, beyond the image) is unknown
            is_it, known = decided(allowed, structure)
        else:
            continue
        if structure in places:
            continue
        boxes = [box for i, box in enumerate(found_boxes, 1) if box is not None and is_it[i]]
        corner = np.min([[s.start for s in box] for box in boxes], axis=0)
        end = np.max([[s.stop for s in box] for box in boxes], axis=0)
        inside = is_it[case.labels[tuple(slice(a, b) for a, b in zip(corner, end, strict=True))]]
        deep = ndimage.binary_erosion(inside)
        found = np.argwhere(deep if deep.any() else inside) + corner
        if len(found) < 30:
            continue
        truth_of[structure], known_of[structure] = is_it, known
        places[structure] = found[:: max(1, len(found) // 20000)].astype(np.int32)
    body = body_of(case.labels, case.spacing_mm) if case.is_whole(len(LOCALIZED) - 10) else None
    return _Prepared(case, truth_of, known_of, places, body)


def _prepare_objects(case: Case) -> _Prepared:
    """Every label is a thing of its own, and of every voxel in the image it is known whether it is that."""
    known = np.arange(256) < 255  # 255 is beyond the image
    truth_of, known_of, places = {}, {}, {}
    for label, box in enumerate(ndimage.find_objects(case.labels), 1):
        if box is None:
            continue
        inside = case.labels[box] == label
        deep = ndimage.binary_erosion(inside)
        found = np.argwhere(deep if deep.any() else inside) + [s.start for s in box]
        name = case.names[label]
        truth_of[name], known_of[name] = np.arange(256) == label, known
        places[name] = found[:: max(1, len(found) // 2000)].astype(np.int32)
    return _Prepared(case, truth_of, known_of, places, None)


def error_clicks(
    probabilities: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One click (B, 1, 3) xyz a sample, drawn from its wrong voxels, and its label (B, 1): 1 where the mask misses.

    Thick errors are clicked more often than thin rims, as a person would.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = ((probabilities > 0.5) != (truth > 0.5)) & (known > 0.5)
    thick = wrong * F.avg_pool3d(wrong.float(), 5, stride=1, padding=2).pow(3)
    running = thick.flatten(1).double().cumsum(1)
    drawn = torch.rand(len(running), generator=generator, dtype=torch.float64).to(running.device)
    at = torch.searchsorted(running, (drawn * running[:, -1])[:, None], right=True)
    at = at.clamp(max=running.shape[1] - 1)
    labels = torch.where(running[:, -1:] > 0, (truth.flatten(1).gather(1, at) > 0.5).long(), PADDING)
    z, y, x = torch.unravel_index(at, truth.shape[2:])
    return torch.stack([x, y, z], dim=2).float(), labels


def cube_loss(
    model: CtSam3d,
    batch: dict[str, torch.Tensor],
    step: int,
    rounds: tuple[float, ...] = (1.0,),
) -> tuple[torch.Tensor, dict[str, float]]:
    """The published mask loss after one or more rounds of clicks; logs the Dice of the first and the last round.

    `rounds` says how often there are one, two, ... of them.
    Only the last round is learned from: earlier ones are there to make the errors that it corrects.
    """
    count = 1 + int(np.random.default_rng((step, 7)).choice(len(rounds), p=np.array(rounds) / sum(rounds)))
    truth, known, clicks = batch["truth"], batch["known"], batch["click_xyz"]
    # a click off its structure is a negative one
    x, y, z = clicks[:, 0].long().unbind(-1)
    labels = (truth[torch.arange(len(truth)), 0, z, y, x] > 0.5).long()[:, None]
    embeddings, previous = model.embed(batch["cube"]), batch["previous"]
    dices = []
    for done in range(1, count + 1):
        last = done == count
        with torch.set_grad_enabled(last and torch.is_grad_enabled()):
            p = model.decode(embeddings, clicks, labels, previous)
        mask = (p > 0.5) * known
        dices.append(2 * (mask * truth).sum() / ((mask + truth) * known).sum().clamp(min=1))
        if not last:
            extra, kinds = error_clicks(p.detach(), truth, known, step * len(rounds) + done)
            clicks = torch.cat([clicks, extra.to(clicks)], 1)
            labels = torch.cat([labels, kinds.to(labels)], 1)
            previous = p.detach()
    figures = {"rounds": count, "dice": round(float(dices[0]), 4), "dice_last": round(float(dices[-1]), 4)}
    return mask_loss(p, truth, known), figures


class CubeValidation:
    """Dice after each round of clicks over fixed cubes of cases that are not trained on, for the log of a training."""

    def __init__(self, samples: CubeSamples, count: int = 32, seed: int = 1, clicks: int = 5) -> None:
        self.batches = [
            {k: torch.stack([d[k] for d in four]) for k in four[0]}
            for i in range(0, count, 4)
            for four in [[samples.draw((seed, i, item)) for item in range(4)]]
        ]
        self.rounds = (0.0,) * (clicks - 1) + (1.0,)

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`dice` with one click and `dice_last` with five, means over the batches."""
        assert isinstance(model, CtSam3d)
        device = next(model.parameters()).device
        found = [
            cube_loss(model, {k: v.to(device) for k, v in batch.items()}, 0, self.rounds)[1]
            for batch in self.batches
        ]
        return {name: float(np.mean([f[name] for f in found])) for name in ("dice", "dice_last")}
