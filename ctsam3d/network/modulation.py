"""Prompt maps -> what scales and shifts the decoder's norms, computed no more often than prompts change it.

In every block of the decoder gamma and beta are convolutions of the prompt maps alone: 60 % of the arithmetic of a
prompt, and none of it sees the image.

1. Where the maps are those of one click at the cube's centre and nothing else, gamma and beta are the same for every
   cube. They are computed once per set of weights and kept; likewise those of empty maps.
2. Elsewhere they differ from a kept result only where the maps do. The block's grid is divided into tiles of 4^3
   voxels; those that a change can reach through two 3^3 convolutions are computed, the others are copied.

All four convolutions of a block that see the same input are one: the shared ones of both norms, and gamma and beta of
each. In 16 bits the maps go in as two halves, at no cost: three channels fill a multiplier as badly as nine.
Tensors have their channels last in memory (PyTorch's channels_last_3d), as everything in the fast decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsam3d.network import click_maps
from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.network.layout import convolve, laid_out, weight_and_bias
from ctsam3d.network.mask_decoder import PROMPT_MAPS, SpadeBlock, SpadeNorm

SIDES = (2, 4, 8, 16, 32)  # voxels a side of the decoder's blocks, deepest first
CENTRE = CUBE_VOXELS // 2
_TILE = 4
_REACH = 2  # voxels by which two 3^3 convolutions carry a change
_SMALLEST_TILED = 16  # voxels a side; smaller maps are computed whole
_WHOLE_ABOVE = 0.5  # of the tiles changed: computing all of them at once is then quicker
# A change of the maps that is no change: its effect stays below the rounding of the arithmetic that follows.
_NO_CHANGE = {torch.float32: 1e-6, torch.bfloat16: 1e-4}


@dataclass(frozen=True, slots=True, eq=False)
class NormMaps:
    """What one norm of a block multiplies its normed input with and then adds: (B or 1, C, s, s, s) each."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LevelMaps:
    """The prompts as one block sees them, (B or 1, 3, s, s, s), and what becomes of them for its two norms."""

    prompts: Tensor
    norms: tuple[NormMaps, NormMaps]


@dataclass(frozen=True, slots=True, eq=False)
class Modulation:
    """All blocks' maps, deepest first, of B samples, or of one that stands for any number.

    Attributes:
        levels: of each block.
        computed: of all tiles of the tiled blocks, the share that was computed for this modulation.
    """

    levels: tuple[LevelMaps, ...]
    computed: float = 1.0


class Modulator:
    """The prompt half of a decoder's blocks, with the weights of one checkpoint, on their device.

    Args:
        blocks: of the decoder, deepest first; their weights are copied.
        dtype: of the convolutions and of the maps of the larger blocks.
    """

    def __init__(self, blocks: Sequence[SpadeBlock], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._levels = [
            _Level(block, side, dtype, tiled=side >= _SMALLEST_TILED)
            for block, side in zip(blocks, SIDES, strict=True)
        ]
        self._device = next(blocks[0].parameters()).device
        self._kept: dict[str, Modulation] = {}

    def empty(self) -> Modulation:
        """Of no prompt at all; computed when first asked for."""
        if "empty" not in self._kept:
            self._kept["empty"] = self._whole(self._blank())
        return self._kept["empty"]

    def centred(self) -> Modulation:
        """Of one positive click at the centre and no previous mask; computed when first asked for."""
        if "centred" not in self._kept:
            centre = torch.full((1, 1, 3), float(CENTRE), device=self._device)
            label = torch.full((1, 1), click_maps.POSITIVE, device=self._device)
            prompts = self._blank()
            prompts[:, 1:] = click_maps.draw(centre, label, CUBE_VOXELS)
            self._kept["centred"] = self._whole(prompts)
        return self._kept["centred"]

    def of(self, clicks_xyz: Tensor, labels: Tensor, previous_mask: Tensor | None = None) -> Modulation:
        """Of any prompts.

        Args:
            clicks_xyz: (B, N, 3), as for `CtSam3d.decode`; best on the CPU, which looks at each of them.
            labels: (B, N), likewise.
            previous_mask: (B, 1, 64, 64, 64) probabilities.

        Raises:
            ValueError: as `CtSam3d.decode`.
        """
        if previous_mask is None and all(is_centred(clicks_xyz, labels)):
            return self.centred()
        clicks = click_maps.draw(clicks_xyz, labels, CUBE_VOXELS, self._device)
        samples = len(clicks)
        if previous_mask is None:
            previous_mask = torch.zeros_like(clicks[:, :1])
        if previous_mask.shape != (samples, 1, *(CUBE_VOXELS,) * 3):
            raise ValueError(
                f"expected a previous mask of each of {samples} samples, found {tuple(previous_mask.shape)}"
            )
        prompts = torch.cat([previous_mask.to(clicks), clicks], 1)
        levels, shares = [], []
        for level, known in zip(self._levels, self.empty().levels, strict=True):
            resized = _resized(prompts, level.side)
            maps, share = level.changed(resized, known) if level.tiled else (level.whole(resized), None)
            levels.append(maps)
            shares += [] if share is None else [share]
        return Modulation(tuple(levels), sum(shares) / len(shares))

    def _whole(self, prompts: Tensor) -> Modulation:
        return Modulation(tuple(level.whole(_resized(prompts, level.side)) for level in self._levels))

    def _blank(self) -> Tensor:
        return torch.zeros((1, PROMPT_MAPS, *(CUBE_VOXELS,) * 3), device=self._device)


def is_centred(clicks_xyz: Tensor, labels: Tensor) -> list[bool]:
    """For each sample, whether its one click, apart from padding, is a positive one on the centre voxel."""
    at_centre = ((clicks_xyz >= CENTRE) & (clicks_xyz < CENTRE + 1)).all(-1)
    wanted = (labels == click_maps.POSITIVE) & at_centre
    others = labels != click_maps.PADDING
    only: list[bool] = ((wanted.sum(1) == 1) & (others.sum(1) == 1)).tolist()
    return only


class _Level:
    """The prompt half of one block: its convolutions, fused and laid out with channels last."""

    def __init__(self, block: SpadeBlock, side: int, dtype: torch.dtype, *, tiled: bool) -> None:
        self.side, self.tiled, self.dtype = side, tiled, dtype
        norms = (block.norm_0, block.norm_1)
        weights, biases = zip(*(weight_and_bias(norm.mlp_shared[0]) for norm in norms), strict=True)
        self.width = len(biases[0])
        shared = torch.cat(weights)
        if dtype != torch.float32:  # of the products of both halves of prompts and weights, all but the least
            high, low = _split(shared, dtype)
            shared = torch.cat([high, high, low], 1)
        self.shared, self.shared_bias = laid_out(shared, dtype), torch.cat(biases)
        self.affine = [_affine(norm, dtype) for norm in norms]

    def whole(self, prompts: Tensor) -> LevelMaps:
        """Everything, from prompts (B, 3, s, s, s)."""
        hidden = self._hidden(prompts, padding=1)
        return LevelMaps(prompts, self._norms([self._affine(hidden, n, padding=1) for n in (0, 1)]))

    def changed(self, prompts: Tensor, base: LevelMaps) -> tuple[LevelMaps, float]:
        """What differs from the base, a level of one sample for all; and the share that was computed."""
        side, tile = self.side, _TILE
        tiles = side // tile
        differs = ((prompts - base.prompts).abs().amax(1, keepdim=True) > _NO_CHANGE[self.dtype]).float()
        reached = F.max_pool3d(F.pad(differs, (_REACH,) * 6), tile + 2 * _REACH, tile)[:, 0] > 0
        b, k, j, i = reached.nonzero(as_tuple=True)
        share = len(b) / reached.numel()
        if share > _WHOLE_ABOVE:
            return self.whole(prompts), 1.0
        spread = [_spread(norm, len(prompts)) for norm in base.norms]
        if len(b):
            around = _windows(F.pad(prompts, (_REACH,) * 6), tile + 2 * _REACH, tile)[b, :, k, j, i]
            hidden = self._hidden(around, padding=0)
            # what lies outside the block's grid is zero for the second convolution, not a hidden value
            inside = F.pad(torch.ones((1, 1, side, side, side), device=prompts.device), (1,) * 6)
            inside = _windows(inside, tile + 2, tile)[0, :, k, j, i].transpose(0, 1)
            hidden *= inside.to(hidden.dtype)
            for n, maps in enumerate(spread):
                found = self._affine(hidden, n, padding=0).permute(0, 2, 3, 4, 1)
                grid = maps.permute(0, 2, 3, 4, 1).view(
                    -1, tiles, tile, tiles, tile, tiles, tile, maps.shape[1]
                )
                grid.permute(0, 1, 3, 5, 2, 4, 6, 7)[b, k, j, i] = found
        return LevelMaps(prompts, self._norms(spread)), share

    def _hidden(self, prompts: Tensor, padding: int) -> Tensor:
        if self.dtype != torch.float32:
            high, low = _split(prompts, self.dtype)
            prompts = torch.cat([high, low, high], 1)
        return convolve(laid_out(prompts, self.dtype), self.shared, self.shared_bias, padding=padding).relu_()

    def _affine(self, hidden: Tensor, norm: int, padding: int) -> Tensor:
        mine = hidden[:, norm * self.width : (norm + 1) * self.width]
        return convolve(mine, *self.affine[norm], padding=padding)

    @staticmethod
    def _norms(affine: Sequence[Tensor]) -> tuple[NormMaps, NormMaps]:
        first, second = (NormMaps(*maps.chunk(2, dim=1)) for maps in affine)
        return first, second


def _affine(norm: SpadeNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of gamma and beta as one convolution; gamma is only ever used as 1 + gamma."""
    gamma, gamma_bias = weight_and_bias(norm.mlp_gamma)
    beta, beta_bias = weight_and_bias(norm.mlp_beta)
    bias = torch.cat([gamma_bias + 1, beta_bias])
    return laid_out(torch.cat([gamma, beta]), dtype), bias


def _split(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two halves that add up to x. Rounding a previous mask itself to 8 bits would shift large parts of a result."""
    high = x.to(dtype)
    return high, (x - high.to(x.dtype)).to(dtype)


def _resized(prompts: Tensor, side: int) -> Tensor:
    return F.interpolate(prompts, size=(side, side, side), mode="trilinear", align_corners=False)


def _spread(norm: NormMaps, batch: int) -> Tensor:
    """A copy of scale and shift (B, 2C, s, s, s) to write into."""
    both = torch.cat([norm.scale, norm.shift], 1)
    return both.expand(batch, -1, -1, -1, -1).contiguous(memory_format=torch.channels_last_3d)


def _windows(volume: Tensor, size: int, step: int) -> Tensor:
    """(B, C, z, y, x) -> (B, C, n, n, n, size, size, size), a view."""
    return volume.unfold(2, size, step).unfold(3, size, step).unfold(4, size, step)
