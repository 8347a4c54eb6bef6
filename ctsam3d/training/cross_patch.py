"""Train cross-patch prompting: cached cases in, weights that say where to click in a cube beside a segmented one.

A sample is a pair of overlapping cubes around one structure, the mask in the first, and a heat map in the second: a
Gaussian at the structure's deepest point there, or nothing where the structure does not go on. The published recipe
compares the maps by their mean squared error; so does this one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from ctsam3d.network import cross_patch, windows
from ctsam3d.network.config import CUBE_VOXELS, SPACING_MM
from ctsam3d.training.augment import Pose, draw_grid, jitter_hu
from ctsam3d.training.cubes import CubeSamples, degrade

_SHAPE = (CUBE_VOXELS, CUBE_VOXELS, CUBE_VOXELS)
_POSE = Pose(rotation_deg=12, scale=(0.8, 1.25), warp_mm=0, flip_probability=0.5)
_NEAREST, _FARTHEST = 20, 34  # voxels between the centres along an axis on which they differ
_LEAST_VOXELS = 60  # of a structure in the second cube, for a click there
SIGMA_VOXELS = 4.0  # wider than a click, so that a small error of the place is a small error of the map


class CrossPatchPairs:
    """Draws training samples; a sample is a function of its (seed, step, item) alone."""

    def __init__(self, samples: CubeSamples) -> None:
        self.samples = samples

    def draw(self, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """`cube` and `neighbour` (C, z, y, x), `mask` and `heat` (1, z, y, x)."""
        rng = np.random.default_rng(key)
        place = self.samples.choose(rng)
        grid = draw_grid(rng, _SHAPE, SPACING_MM, _POSE)
        tones = int(rng.integers(1 << 32))  # the same patient and scanner for both
        first = place.view(np.random.default_rng(tones), grid)
        offset = np.zeros(3, dtype=np.int64)
        while not offset.any():
            offset = rng.integers(-1, 2, 3) * rng.integers(_NEAREST, _FARTHEST + 1, 3)
        # without a warp the grid is affine: moving along it by so many voxels is a shift in mm
        steps = np.stack([grid[1, 0, 0], grid[0, 1, 0], grid[0, 0, 1]]) - grid[0, 0, 0]
        second = place.view(np.random.default_rng(tones), grid + (offset @ steps).astype(np.float32))
        hu = jitter_hu(rng, np.stack([first.hu, second.hu]), strength=0.7)
        mask = degrade(rng, first.truth) > 0.5 if rng.random() < 0.5 else first.truth
        return {
            "cube": torch.from_numpy(windows.apply(hu[0], self.samples.windows_hu)),
            "neighbour": torch.from_numpy(windows.apply(hu[1], self.samples.windows_hu)),
            "mask": torch.from_numpy(mask.astype(np.float32))[None],
            "heat": torch.from_numpy(heat_of(second.truth))[None],
        }


def heat_of(truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A Gaussian of height 1 at the deepest voxel of a structure (z, y, x); 0 where there is too little of it."""
    if int(truth.sum()) < _LEAST_VOXELS:
        return np.zeros(truth.shape, dtype=np.float32)
    depth = ndimage.distance_transform_edt(truth)
    peak = np.unravel_index(int(depth.argmax()), depth.shape)
    axes = [
        np.exp(-((np.arange(n) - p) ** 2) / (2 * SIGMA_VOXELS**2))
        for n, p in zip(truth.shape, peak, strict=True)
    ]
    z, y, x = (axis.astype(np.float32) for axis in axes)
    heat: NDArray[np.float32] = z[:, None, None] * y[None, :, None] * x[None, None, :]
    return heat


def cross_patch_loss(
    predictor: nn.Module, batch: dict[str, torch.Tensor], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean squared error of the heat maps; logs how near the peaks are.

    `near` is the share of the structures that go on whose peak lies within 8 voxels (12 mm) of the wanted one.
    """
    heat = predictor(cross_patch.stack(batch["cube"], batch["mask"], batch["neighbour"])).float()
    wanted = batch["heat"]
    goes_on = wanted.flatten(1).amax(1) > 0.5
    near = [
        float(np.linalg.norm(_peak(h) - _peak(w)) <= 8)
        for h, w, on in zip(heat.detach(), wanted, goes_on, strict=True)
        if on
    ]
    return (heat - wanted).square().mean(), {"near": float(np.mean(near)) if near else float("nan")}


def _peak(heat: torch.Tensor) -> NDArray[np.int64]:
    return np.array(np.unravel_index(int(heat.argmax()), heat.shape[-3:]))


class CrossPatchValidation:
    """The loss and `near` over fixed pairs of cases that are not trained on."""

    def __init__(self, pairs: CrossPatchPairs, count: int = 48, seed: int = 1) -> None:
        self.batches = [
            {k: torch.stack([d[k] for d in four]) for k in four[0]}
            for i in range(0, count, 4)
            for four in [[pairs.draw((seed, i, item)) for item in range(4)]]
        ]

    @torch.inference_mode()
    def __call__(self, predictor: nn.Module) -> dict[str, float]:
        """Means over the batches."""
        device = next(predictor.parameters()).device
        found = [
            cross_patch_loss(predictor, {k: v.to(device) for k, v in batch.items()}, 0)
            for batch in self.batches
        ]
        near = [figures["near"] for _, figures in found]
        return {"loss": float(np.mean([float(loss) for loss, _ in found])), "near": float(np.nanmean(near))}
