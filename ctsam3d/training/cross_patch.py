"""Train cross-patch prompting: cached cases in, weights that say where to click in a cube beside a segmented one.

A sample is a pair of overlapping cubes around one structure, the mask in the first, and a heat map in the second: how
good a place for a click each voxel is. The second cube is centred as a growing structure's next one is, on a voxel at
the rim of what the first knows, which is in the mask but, where the mask is wrong, not in the structure. The published
recipe compares heat maps by their mean squared error; so does this one. Its Gaussian at one voxel gives a network that
learns from few labels next to nothing to learn from (387 steps: 2 % of the peaks within 12 mm), so ours is wide; and
as it could not find out in 440 steps how the two cubes lie, it is told (`cross_patch.aligned`). Half of the masks are
what the cube network itself answers to a click on the first cube's centre, leaks and all, for those it will be shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from ctsam3d.network import cross_patch, windows
from ctsam3d.network.click_maps import POSITIVE
from ctsam3d.network.config import CUBE_VOXELS, SPACING_MM
from ctsam3d.network.model import CtSam3d
from ctsam3d.training.augment import Pose, draw_grid, jitter_hu
from ctsam3d.training.cubes import CubeSamples, Place, degrade

_SHAPE = (CUBE_VOXELS, CUBE_VOXELS, CUBE_VOXELS)
_POSE = Pose(rotation_deg=12, scale=(0.8, 1.25), warp_mm=0, flip_probability=0.5)
_NEAREST, _FARTHEST = 20, 32  # voxels between the centres along the axis on which they differ most
_ANSWERED = (
    0.5  # share of the masks that the network answers, where there is one; of the others half are degraded
)
_ON_THE_RIM = 0.7  # share of the second cubes that are centred in the mask, where it goes that far
_DEEP_VOXELS = 4.0  # a voxel so deep inside is as good a place as any deeper one
_NEAR_VOXELS = 16.0  # standard deviation of how far from the second cube's centre a good place is
_LEAST_HEAT = 0.15  # of a peak, for the structure to go on


Answer = Callable[[torch.Tensor], NDArray[np.bool_]]
"""Cube (C, z, y, x) -> mask (z, y, x) of what is clicked on in its centre."""


def answers_of(model: CtSam3d, *, half_precision: bool) -> Answer:
    """What a network answers on the CPU, in bfloat16 where that is said to be quicker."""
    centre = torch.full((1, 1, 3), CUBE_VOXELS // 2.0)

    @torch.inference_mode()
    def answer(cube: torch.Tensor) -> NDArray[np.bool_]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half_precision):
            found = model.decode(model.embed(cube[None]), centre, torch.full((1, 1), POSITIVE))
        mask: NDArray[np.bool_] = (found[0, 0] > 0.5).numpy()
        return mask

    return answer


class CrossPatchPairs:
    """Draws training samples; a sample is a function of its (seed, step, item) and the network's weights alone."""

    def __init__(self, samples: CubeSamples, answer: Answer | None = None) -> None:
        self.samples, self.answer = samples, answer

    def draw(self, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """`cube` and `neighbour` (C, z, y, x), `mask` and `heat` (1, z, y, x), all in the neighbour's frame."""
        rng = np.random.default_rng(key)
        place = self.samples.choose(rng)
        grid = draw_grid(rng, _SHAPE, SPACING_MM, _POSE)
        tones = int(rng.integers(1 << 32))  # the same patient and scanner for both
        truth, seen = self._look(place, tones, grid)
        if self.answer is not None and rng.random() < _ANSWERED:
            mask = self.answer(seen)
        else:
            mask = degrade(rng, truth) > 0.5 if rng.random() < 0.5 else truth
        offset = _offset(rng, mask)
        # without a warp the grid is affine: moving along it by so many voxels is a shift in mm
        steps = np.stack([grid[1, 0, 0], grid[0, 1, 0], grid[0, 0, 1]]) - grid[0, 0, 0]
        there, neighbour = self._look(place, tones, grid + (offset @ steps).astype(np.float32))
        moved = (int(offset[0]), int(offset[1]), int(offset[2]))
        return {
            "cube": cross_patch.aligned(seen, moved),
            "neighbour": neighbour,
            "mask": cross_patch.aligned(torch.from_numpy(mask.astype(np.float32))[None], moved),
            "heat": torch.from_numpy(heat_of(there))[None],
        }

    def _look(
        self, place: Place, tones: int, grid: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], torch.Tensor]:
        """Where the structure is (z, y, x), and the cube's windows (C, z, y, x)."""
        rng = np.random.default_rng(tones)
        view = place.view(rng, grid)
        return view.truth, torch.from_numpy(
            windows.apply(jitter_hu(rng, view.hu, strength=0.7), self.samples.windows_hu)
        )


def _offset(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From the first cube's centre to the second's, in voxels (z, y, x): to a voxel of the mask near a face, or any."""
    if rng.random() < _ON_THE_RIM:
        rim = mask.copy()
        inner = slice(CUBE_VOXELS // 2 - _NEAREST, CUBE_VOXELS // 2 + _NEAREST)
        rim[inner, inner, inner] = False
        voxels = np.flatnonzero(rim)
        if len(voxels):
            at = np.unravel_index(int(voxels[rng.integers(len(voxels))]), mask.shape)
            return np.array(at, dtype=np.int64) - CUBE_VOXELS // 2
    offset = rng.integers(-_FARTHEST, _FARTHEST + 1, 3)
    offset[rng.integers(3)] = rng.choice([-1, 1]) * rng.integers(_NEAREST, _FARTHEST + 1)
    return offset


def heat_of(truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How good a place for a click each voxel (z, y, x) is: deep inside, near the cube's centre; 0 outside."""
    if not truth.any():
        return np.zeros(truth.shape, dtype=np.float32)
    depth = np.minimum(ndimage.distance_transform_edt(truth) / _DEEP_VOXELS, 1)
    z, y, x = (np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * _NEAR_VOXELS**2)) for n in truth.shape)
    heat: NDArray[np.float32] = depth.astype(np.float32)
    heat *= (z[:, None, None] * y[None, :, None] * x[None, None, :]).astype(np.float32)
    return heat


def cross_patch_loss(
    predictor: nn.Module, batch: dict[str, torch.Tensor], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean squared error of the heat maps; logs what would become of the clicks at their peaks.

    Of structures that go on, `hits` is the share whose peak lies in them; of those that do not, `ends` is the share
    with no peak worth a click.
    """
    heat = predictor(cross_patch.stack(batch["cube"], batch["mask"], batch["neighbour"])).float()
    wanted = batch["heat"]
    goes_on = wanted.flatten(1).amax(1) > _LEAST_HEAT
    found = heat.detach().flatten(1)
    hit = wanted.flatten(1).gather(1, found.argmax(1, keepdim=True))[:, 0] > 0
    return (heat - wanted).square().mean(), {
        "hits": _share(hit & (found.amax(1) > _LEAST_HEAT), goes_on),
        "ends": _share(found.amax(1) <= _LEAST_HEAT, ~goes_on),
    }


def _share(of: torch.Tensor, among: torch.Tensor) -> float:
    return float(of[among].float().mean()) if among.any() else float("nan")


class CrossPatchValidation:
    """The loss, `hits` and `ends` over fixed pairs of cases that are not trained on."""

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
        shares = {n: float(np.nanmean([figures[n] for _, figures in found])) for n in ("hits", "ends")}
        return {"loss": float(np.mean([float(loss) for loss, _ in found])), **shares}
