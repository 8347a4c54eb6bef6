"""Merge overlapping cubes of one structure, and structures into one label map, by probability."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.patches import Box, Patch, shifted

_COARSE_WEIGHT = 1e-5  # holds where no cube reaches, vanishes where one does


def centre_weight() -> NDArray[np.float32]:
    """How far a cube is to be believed, (64, 64, 64): most at its centre, little at its faces."""
    weight = _along_each_axis(np.clip(_depth(), 0.05, 0.5))
    return weight / np.float32(weight.max())


def fading_weight() -> NDArray[np.float32]:
    """How far a correction counts, (64, 64, 64): wholly but for the eight voxels next to each face, there ever less."""
    return _along_each_axis(np.clip(_depth() / 0.25, 0, 1))


def _depth() -> NDArray[np.float64]:
    """Of each voxel along an axis of a cube: about 1 in the middle, 0 at a face."""
    depth: NDArray[np.float64] = 1 - np.abs(np.arange(CUBE_VOXELS) - (CUBE_VOXELS - 1) / 2) / (
        CUBE_VOXELS / 2
    )
    return depth


def _along_each_axis(ramp: NDArray[np.float64]) -> NDArray[np.float32]:
    single = ramp.astype(np.float32)
    return single[:, None, None] * single[None, :, None] * single[None, None, :]


class Canvas:
    """The weighted mean of one structure's cubes over a box of the model grid.

    Attributes:
        box: the part of the grid that it spans.
        sums: float32 (z, y, x) over the box, weighted probabilities.
        weights: likewise, of all cubes so far. Pages of an array that no cube touches take no memory.
        coarse: float32 likewise, the coarse probability that holds where no cube reaches, or None.
        own_weight: (64, 64, 64), how far each voxel of a cube is believed.
        mask_voxels: above one half by now, where cubes reach.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        box: Box | None = None,
        coarse: NDArray[np.float32] | None = None,
    ) -> None:
        whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        self.shape, self.box, self.coarse = shape, box or whole, coarse
        size = tuple(s.stop - s.start for s in self.box)
        self.sums: NDArray[np.float32] = np.zeros(size, dtype=np.float32)
        self.weights: NDArray[np.float32] = np.zeros(size, dtype=np.float32)
        if coarse is not None:
            self.weights += _COARSE_WEIGHT
            np.multiply(coarse, _COARSE_WEIGHT, out=self.sums, dtype=np.float32)
        self.own_weight = centre_weight()
        self.mask_voxels = 0

    @classmethod
    def around(
        cls, coarse: NDArray[np.float32], patches: list[Patch], shape: tuple[int, int, int], factor: int
    ) -> Canvas:
        """Over the box that a coarse probability, on blocks of `factor`^3 voxels, and the patches on it span."""
        box = _spanned(coarse, patches, shape, factor)
        return cls(shape, box, _upsampled(coarse, box, factor))

    def add(self, patch: Patch, probability: NDArray[np.float32]) -> Box:
        """Take one cube in; the part of the canvas that it touches."""
        of_volume, of_cube = patch.overlap(self.shape)
        here = self._within(of_volume)
        before = np.count_nonzero(self.mask(of_volume))
        self.sums[here] += probability[of_cube] * self.own_weight[of_cube]
        self.weights[here] += self.own_weight[of_cube]
        self.mask_voxels += int(np.count_nonzero(self.mask(of_volume)) - before)
        return here

    def lay(self, box: Box, probability: NDArray[np.float32]) -> None:
        """A probability over a box of the grid, in place of what was there."""
        here = self._within(box)
        self.sums[here], self.weights[here] = probability, 1

    def join(self, box: Box, probability: NDArray[np.float32]) -> None:
        """A probability over a box of the grid, where it is higher than what was there."""
        here = self._within(box)
        self.lay(box, np.maximum(self._merged(here), probability))

    def overrule(self, patch: Patch, probability: NDArray[np.float32]) -> None:
        """One cube's answer in place of what was there, fading out over the quarter next to its faces."""
        of_volume, of_cube = patch.overlap(self.shape)
        before, share = self._merged(self._within(of_volume)), fading_weight()[of_cube]
        self.lay(of_volume, before + share * (probability[of_cube] - before))

    def clear(self, box: Box, where: NDArray[np.bool_]) -> None:
        """No probability at some voxels of a box."""
        self.mask_voxels -= int(np.count_nonzero(self.mask(box) & where))
        self.sums[self._within(box)][where] = 0

    def over(self, patch: Patch) -> NDArray[np.float32]:
        """The merged probability in a cube, 0 where nothing is known: (64, 64, 64)."""
        of_volume, of_cube = patch.overlap(self.shape)
        cube = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        cube[of_cube] = self._merged(self._within(of_volume))
        return cube

    def is_empty(self, patch: Patch) -> bool:
        """Whether no voxel of a cube is in the mask."""
        of_volume, _ = patch.overlap(self.shape)
        return not self.mask(of_volume).any()

    def mask(self, box: Box) -> NDArray[np.bool_]:
        """Where the merged probability is above one half, over a box of the grid."""
        here = self._within(box)
        found: NDArray[np.bool_] = self.sums[here] > 0.5 * self.weights[here]
        return found

    def _within(self, box: Box) -> Box:
        z, y, x = (part.start for part in self.box)
        return shifted(box, (z, y, x))

    def _merged(self, here: Box) -> NDArray[np.float32]:
        sums, weights = self.sums[here], self.weights[here]
        merged: NDArray[np.float32] = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
        return merged

    def probability(self) -> NDArray[np.float32]:
        """The merged probability over `box`; 0 where neither a cube nor a coarse mask reaches."""
        return self._merged(self._within(self.box))

    def touched(self) -> Canvas:
        """The same over the part of the box that cubes reach; a canvas of nothing stays as it is."""
        reached = self.weights > 0
        spans = []
        for axis in range(3):
            found = np.flatnonzero(reached.any(axis=tuple(a for a in range(3) if a != axis)))
            if not len(found):
                return self
            spans.append(slice(int(found[0]), int(found[-1]) + 1))
        inner = tuple(spans)
        z, y, x = (slice(b.start + s.start, b.start + s.stop) for b, s in zip(self.box, spans, strict=True))
        part = Canvas(self.shape, (z, y, x))
        part.sums, part.weights = self.sums[inner], self.weights[inner]
        part.mask_voxels = self.mask_voxels
        part.coarse = None if self.coarse is None else self.coarse[inner]
        return part


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
