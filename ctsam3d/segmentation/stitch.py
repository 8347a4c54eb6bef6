"""Merge overlapping cubes of one structure, and structures into one label map, by probability."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.patches import Patch

Box = tuple[slice, slice, slice]
_COARSE_WEIGHT = 1e-5  # holds where no cube reaches, vanishes where one does


def centre_weight() -> NDArray[np.float32]:
    """How far a cube is to be believed, (64, 64, 64): most at its centre, little at its faces."""
    ramp = 1 - np.abs(np.arange(CUBE_VOXELS) - (CUBE_VOXELS - 1) / 2) / (CUBE_VOXELS / 2)
    ramp = np.clip(ramp, 0.05, 0.5).astype(np.float32)
    weight: NDArray[np.float32] = ramp[:, None, None] * ramp[None, :, None] * ramp[None, None, :]
    return weight / np.float32(weight.max())


class Merger:
    """The weighted mean of one structure's cubes over the box that they and its coarse mask span."""

    def __init__(
        self, coarse: NDArray[np.float32], patches: list[Patch], shape: tuple[int, int, int], factor: int
    ):
        self.box = _spanned(coarse, patches, shape, factor)
        size = tuple(s.stop - s.start for s in self.box)
        self.weights: NDArray[np.float32] = np.full(size, _COARSE_WEIGHT, dtype=np.float32)
        self.coarse = _upsampled(coarse, self.box, factor)
        self.sums: NDArray[np.float32] = np.multiply(self.coarse, _COARSE_WEIGHT, dtype=np.float32)
        self.shape, self.left = shape, len(patches)

    def add(self, patch: Patch, probability: NDArray[np.float32], weight: NDArray[np.float32]) -> bool:
        """Take one cube in; True once it was the last."""
        of_volume, of_cube = patch.overlap(self.shape)
        here = tuple(
            slice(v.start - b.start, v.stop - b.start) for v, b in zip(of_volume, self.box, strict=True)
        )
        self.sums[here] += probability[of_cube] * weight[of_cube]
        self.weights[here] += weight[of_cube]
        self.left -= 1
        return self.left == 0

    def probability(self) -> NDArray[np.float32]:
        """The merged probability over `box`."""
        merged: NDArray[np.float32] = self.sums / self.weights
        return merged


class LabelMap:
    """Labels of all structures on the model grid; where two claim a voxel, the more probable one has it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.labels = np.zeros(shape, dtype=np.uint8)
        self._best = np.zeros(
            shape, dtype=np.uint8
        )  # probability in 1/255ths: one byte, however many structures

    def claim(self, label: int, box: Box, probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Enter a structure's mask over a box. Of equal claims the lower label has the voxel, whatever the order."""
        level = np.round(probability * 255).astype(np.uint8)
        best, labels = self._best[box], self.labels[box]
        wins = mask & ((level > best) | ((level == best) & ((label < labels) | (labels == 0))))
        labels[wins] = label
        best[wins] = level[wins]


def _spanned(
    coarse: NDArray[np.float32], patches: list[Patch], shape: tuple[int, int, int], factor: int
) -> Box:
    where = np.argwhere(coarse > 0.5)
    low = [where.min(axis=0) * factor] + [np.array(p.origin_zyx) for p in patches]
    high = [(where.max(axis=0) + 1) * factor] + [np.array(p.origin_zyx) + CUBE_VOXELS for p in patches]
    start = np.clip(np.min(low, axis=0), 0, None)
    stop = np.minimum(np.max(high, axis=0), shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return z, y, x


def _upsampled(coarse: NDArray[np.float32], box: Box, factor: int) -> NDArray[np.float32]:
    """Trilinear coarse probability on the model voxels of a box."""
    low = [s.start // factor for s in box]
    high = [-(-s.stop // factor) for s in box]
    # one more block all around, so that the part is interpolated as the whole would be
    around = [max(0, a - 1) for a in low]
    part = coarse[tuple(slice(a, b + 1) for a, b in zip(around, high, strict=True))]
    fine = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(part))[None, None], scale_factor=factor, mode="trilinear"
    )[0, 0].numpy()
    here = tuple(slice(s.start - a * factor, s.stop - a * factor) for s, a in zip(box, around, strict=True))
    values: NDArray[np.float32] = fine[here]
    return values
