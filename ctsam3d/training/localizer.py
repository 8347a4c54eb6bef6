"""Train the localizer: cached cases in, weights of the 6 mm network out.

Half of the patches are real images, half are painted from label maps (`synthesize`). Both are drawn around a voxel of
a structure chosen at random, so that rare structures are seen as often as large ones.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctsam3d.anatomy.localized import BACKGROUND, CLASSES
from ctsam3d.prompting.coarse import PATCH_ZYX, SPACING_MM, windowed
from ctsam3d.training.augment import Pose, change_phase, crop_around, draw_grid, jitter_hu, sample, thicken
from ctsam3d.training.cases import Case, as_often, choose, load_cases
from ctsam3d.training.losses import partial_label_loss
from ctsam3d.training.synthesize import body_of, clothe, paint

CACHE_SPACING_MM = 3.0
_POSE = Pose(rotation_deg=12, scale=(0.8, 1.25), warp_mm=18)
_PAINTED_POSE = Pose(rotation_deg=15, scale=(0.72, 1.3), warp_mm=28)  # few anatomies: change them more
_LEAST_KNOWN = 31  # classes, of a case that is painted
_LEAST_VOXELS = 20  # of a structure in a patch, to be scored
_FINE_ZYX = (2 * PATCH_ZYX[0], 2 * PATCH_ZYX[1], 2 * PATCH_ZYX[2])
_REACH_MM = np.array(PATCH_ZYX) * SPACING_MM / 2 * 1.5 + 20


@dataclass(slots=True, eq=False)
class _Prepared:
    """A case with what drawing from it needs again and again."""

    case: Case
    allowed: NDArray[np.bool_]
    places: dict[str, NDArray[np.int32]]  # class -> some of its voxels (n, 3)
    body_mm: NDArray[np.uint8] | None = field(default=None)


class LocalizerPatches:
    """Draws training samples; a sample is a function of its (seed, step, item) alone."""

    def __init__(
        self, cases: list[Case], synthetic: float = 0.5, often: Callable[[str], float] = as_often
    ) -> None:
        with ThreadPoolExecutor() as pool:
            self.prepared = list(pool.map(_prepare, cases))
        self.synthetic, self.often = synthetic, often

    @classmethod
    def from_cache(
        cls,
        folder: Path,
        wanted: Callable[[str], bool],
        synthetic: float = 0.5,
        often: Callable[[str], float] = as_often,
    ) -> LocalizerPatches:
        """The cached cases of a folder whose name is wanted."""
        return cls(load_cases(folder, wanted), synthetic, often)

    def draw(self, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """One patch: `hu` (1, z, y, x), `labels` (z, y, x), `allowed` (256, classes)."""
        rng = np.random.default_rng(key)
        synthetic = rng.random() < self.synthetic
        pool = [p for p in self.prepared if (p.body_mm is not None if synthetic else p.case.hu is not None)]
        wanted = choose(rng, {c for p in pool for c in p.places}, self.often)
        having = [p for p in pool if wanted in p.places]
        # whole-body labellings teach most: prefer them among those that have the structure, but not so much that
        # one of them becomes all there is
        weights = np.array([len(p.case.known) ** 0.5 for p in having], dtype=float)
        prepared = having[int(rng.choice(len(having), p=weights / weights.sum()))]
        case = prepared.case
        voxel = prepared.places[wanted][rng.integers(len(prepared.places[wanted]))]
        half = np.array(PATCH_ZYX) * SPACING_MM / 2 / case.spacing_mm
        centre = voxel + rng.uniform(-0.6, 0.6, 3) * half
        # most of the patch inside the image, or the image inside the patch
        size = np.array(case.labels.shape)
        margin = np.minimum(0.8 * half, size / 2)
        centre = np.clip(centre, margin, size - margin)
        window = crop_around(case.labels.shape, centre, _REACH_MM / case.spacing_mm)
        local = centre - [s.start for s in window]
        grid = draw_grid(rng, _FINE_ZYX, SPACING_MM / 2, _PAINTED_POSE if synthetic else _POSE)
        where = (local, case.spacing_mm, grid)
        if synthetic:
            patch = _painted(rng, prepared, window, where)
        else:
            assert case.hu is not None
            patch = sample(case.hu[window], *where, linear=True, outside=-1024.0)
            if rng.random() < 0.5:
                ids = sample(case.labels[window], *where, linear=False, outside=0.0).round().astype(np.uint8)
                patch = change_phase(rng, patch, ids, case.names)
        patch = _pooled(patch)
        if rng.random() < 0.4:
            patch = thicken(rng, patch, SPACING_MM)
        patch = jitter_hu(rng, patch)
        labels = case.labels[window]
        grid = _pooled_grid(grid)
        # beyond the image: id 255, which allows nothing and is not scored
        found = sample(labels, local, case.spacing_mm, grid, linear=False, outside=255.0)
        if rng.random() < 0.4:  # a field of view that ends within the patch
            _cut(rng, patch, found)
        return {
            "hu": torch.from_numpy(patch)[None],
            "labels": torch.from_numpy(found.round().astype(np.int64)),
            "allowed": torch.from_numpy(prepared.allowed),
        }


def _prepare(case: Case) -> _Prepared:
    places: dict[str, NDArray[np.int32]] = {}
    for label in case.names:
        for cls in (classes := case.classes(label)):
            if cls == BACKGROUND or len(classes) > 2:
                continue
            found = np.argwhere(case.labels == label)[::7].astype(np.int32)
            if len(found):
                places[cls] = np.concatenate([places[cls], found]) if cls in places else found
    body = body_of(case.labels, case.spacing_mm) if case.is_whole(_LEAST_KNOWN) else None
    return _Prepared(case, case.allowed(), places, body)


def _painted(
    rng: np.random.Generator,
    prepared: _Prepared,
    window: tuple[slice, slice, slice],
    where: tuple[NDArray[np.float64], float, NDArray[np.float32]],
) -> NDArray[np.float32]:
    """A synthetic image on the fine grid: ids are moved first and painted then, half a voxel fine."""
    case = prepared.case
    if case.tissue is not None:
        ids = sample(case.tissue[window], *where, linear=False, outside=0.0).round().astype(np.uint8)
        return paint(rng, ids, case.tissue_names, SPACING_MM / 2)
    assert prepared.body_mm is not None
    ids = sample(case.labels[window], *where, linear=False, outside=0.0).round().astype(np.uint8)
    body_mm = sample(prepared.body_mm[window], *where, linear=True, outside=60.0).astype(np.uint8)
    return paint(rng, clothe(rng, ids, body_mm), case.names, SPACING_MM / 2)


def _pooled(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2^3 voxels, as the localizer's input is a mean over blocks of the model grid."""
    pooled: NDArray[np.float32] = nn.functional.avg_pool3d(torch.from_numpy(fine)[None, None], 2)[
        0, 0
    ].numpy()
    return pooled


def _pooled_grid(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres of the 2^3 blocks of a fine grid (z, y, x, 3)."""
    z, y, x = (n // 2 for n in grid.shape[:3])
    blocks = grid.reshape(z, 2, y, 2, x, 2, 3)
    corners = [blocks[:, k, :, j, :, i] for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    # many times as quick as a mean over axes
    centres: NDArray[np.float32] = np.float32(1 / 8) * sum(corners[1:], corners[0])
    return centres


def _cut(rng: np.random.Generator, hu: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
    axis = int(rng.choice(3, p=[0.7, 0.15, 0.15]))
    at = int(rng.integers(hu.shape[axis] // 8, hu.shape[axis] // 2))
    side = slice(None, at) if rng.random() < 0.5 else slice(hu.shape[axis] - at, None)
    index: list[slice] = [slice(None)] * 3
    index[axis] = side
    hu[tuple(index)] = -1024
    labels[tuple(index)] = 255


def localizer_loss(
    model: nn.Module, batch: dict[str, torch.Tensor], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The partial-label loss of one batch, and nothing more to log."""
    logits = model(windowed(batch["hu"]))
    assert logits.shape[1] == len(CLASSES)
    count = batch["labels"][0].numel()  # a random third of the voxels costs a third
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(step))[: count // 3].to(
        logits.device
    )
    return partial_label_loss(logits, batch["labels"], batch["allowed"], chosen), {}


class LocalizerValidation:
    """Mean Dice over fixed patches of cases that are not trained on, for the log of a training."""

    def __init__(self, patches: LocalizerPatches, count: int = 24, seed: int = 1) -> None:
        self.batches = [
            {k: torch.stack([d[k] for d in pair]) for k in pair[0]}
            for i in range(0, count, 2)
            for pair in [[patches.draw((seed, i, 0)), patches.draw((seed, i, 1))]]
        ]

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`dice`, the mean over patches and classes that are determined in them, and the `loss`."""
        device = next(model.parameters()).device
        scores, losses = [], []
        for held in self.batches:
            batch = {k: v.to(device) for k, v in held.items()}
            logits = model(windowed(batch["hu"])).float()
            losses.append(float(partial_label_loss(logits, batch["labels"], batch["allowed"])))
            scores += determined_dice(logits.argmax(dim=1), batch["labels"], batch["allowed"])
        return {"loss": float(np.mean(losses)), "dice": float(np.mean(scores))}


def determined_dice(found: torch.Tensor, labels: torch.Tensor, allowed: torch.Tensor) -> list[float]:
    """Dice of each class of each patch that is labelled there, over the voxels where it is known.

    Args:
        found: int64 (B, z, y, x), class of each voxel.
        labels: int64 (B, z, y, x), label ids.
        allowed: bool (B, 256, C).
    """
    scores = []
    for classes, ids, table in zip(found, labels, allowed, strict=True):
        may_be = table[ids]  # (z, y, x, C)
        single = may_be.sum(-1) == 1
        for index in range(1, table.shape[1]):
            truth = may_be[..., index] & single
            known = (single | ~may_be[..., index]) & may_be.any(-1)
            mine = (classes == index) & known
            if int(truth.sum()) >= _LEAST_VOXELS:
                scores.append(float(2 * (mine & truth).sum() / (mine.sum() + truth.sum())))
    return scores
