"""Embeddings and prompts -> probabilities, as the published decoder computes them but several times faster.

`MaskDecoder` says what is computed and is what training and the tests compare with; this is how it is computed where
nothing needs a gradient:

* what prompts contribute comes from `modulation`, mostly kept;
* channels are last in memory throughout, which convolutions, layer norms and matrix products all take as it is;
* a transposed convolution of stride 2 is a matrix product; it, its norm and its GELU run over slabs small enough for
  the cache and write straight into the next block's input, beside the skip;
* of the head, only the mask's channel is computed, as a product to 27 taps per voxel that are added with shifts, so
  that the features of 64^3 voxels never exist;
* convolutions and elementwise work run in float32 or bfloat16; statistics of norms, and the sums and norms of the two
  deepest blocks, over 8 and 64 voxels whose variance may be tiny, are always float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsam3d.network.layout import convolve, laid_out, weight_and_bias
from ctsam3d.network.mask_decoder import (
    CHANNEL_NORM_EPS,
    INSTANCE_NORM_EPS,
    SLOPE,
    MaskDecoder,
    SpadeBlock,
    Upsampler,
)
from ctsam3d.network.model import Embeddings
from ctsam3d.network.modulation import SIDES, LevelMaps, Modulation, Modulator, NormMaps

_SLAB_ROWS = 1024  # voxels upsampled at a time: with their 8 children they stay in the cache of a core
_WIDE_BELOW = 8  # voxels a side of maps whose sums and norms are always float32


class FastDecoder:
    """The decoder of one checkpoint, on its device; for inference alone.

    Args:
        decoder: whose weights are copied as they are now.
        dtype: of the convolutions, float32 or bfloat16.
    """

    def __init__(self, decoder: MaskDecoder, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        blocks = [decoder.spade1, decoder.spade2, decoder.spade3, decoder.spade4, decoder.spade5]
        upsamplers = [
            decoder.upscale1,
            decoder.upscale2,
            decoder.upscale3,
            decoder.upscale4,
            decoder.upscale5,
        ]
        self.modulator = Modulator(blocks, dtype)
        self._blocks = [_Block(block, side, dtype) for block, side in zip(blocks, SIDES, strict=True)]
        self._upsamplers = [_Upsampler(upsampler, dtype) for upsampler in upsamplers]
        self._head = _Head(decoder.mask_prediction_head[0], dtype)

    @torch.inference_mode()
    def decode(
        self,
        embeddings: Embeddings,
        clicks_xyz: Tensor,
        labels: Tensor,
        previous_mask: Tensor | None = None,
    ) -> Tensor:
        """As `CtSam3d.decode`: float32 probabilities (B, 1, 64, 64, 64).

        Raises:
            ValueError: as there.
        """
        device = embeddings.stage4.device
        if len(clicks_xyz) != len(embeddings.stage4):
            raise ValueError(
                f"clicks for {len(clicks_xyz)} cubes with embeddings of {len(embeddings.stage4)}"
            )
        return self.apply(
            embeddings, self.modulator.of(clicks_xyz.to(device), labels.to(device), previous_mask)
        )

    @torch.inference_mode()
    def apply(self, embeddings: Embeddings, modulation: Modulation) -> Tensor:
        """Probabilities (B, 1, 64, 64, 64) for prompts whose modulation is known."""
        first, second, third, fourth = embeddings
        x = laid_out(fourth, torch.float32)
        for n, skip in enumerate((third, second, first, None)):
            x = self._blocks[n].forward(x, modulation.levels[n])
            wide = 2 * x.shape[-1] < _WIDE_BELOW
            x = self._upsamplers[n].forward(x, skip, torch.float32 if wide else self.dtype)
        x = self._blocks[4].forward(x, modulation.levels[4])
        return self._head.forward(x, self._upsamplers[4]).sigmoid_()


class _Block:
    """Norm, LeakyReLU, convolution, twice, added to the input: (B, C, s, s, s) in and out."""

    def __init__(self, block: SpadeBlock, side: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        convs = (block.conv_0, block.conv_1)
        parts = [weight_and_bias(conv) for conv in convs]
        self.convolutions = [(laid_out(weight, dtype), bias.to(dtype)) for weight, bias in parts]

    def forward(self, x: Tensor, maps: LevelMaps) -> Tensor:
        inner = self._half(x, maps.norms[0], 0)
        inner = self._half(inner.to(x.dtype), maps.norms[1], 1)
        return inner.to(x.dtype).add_(x)

    def _half(self, x: Tensor, maps: NormMaps, n: int) -> Tensor:
        active = F.leaky_relu(_modulated(x, maps), SLOPE, inplace=True)
        return convolve(active.to(self.dtype), *self.convolutions[n], padding=1)


class _Upsampler:
    """Transposed convolution of stride 2, norm over channels, GELU: a voxel's channels to those of its 8 children."""

    def __init__(self, upsampler: Upsampler, dtype: torch.dtype) -> None:
        self.dtype = dtype
        weight, bias = weight_and_bias(upsampler.cna[0])  # (C, width, 2, 2, 2)
        self.width = len(bias)
        rows = weight.permute(2, 3, 4, 1, 0).reshape(8 * self.width, -1)  # ordered (z, y, x, width)
        self.weight, self.bias = rows.to(dtype).contiguous(), bias.repeat(8).to(dtype)
        self.norm_weight, self.norm_bias = (t.to(dtype) for t in weight_and_bias(upsampler.cna[1]))

    def children(self, rows: Tensor) -> Tensor:
        """(..., C) -> (..., 8, width): the children in order z, y, x."""
        grown = F.linear(rows.to(self.dtype), self.weight, self.bias).unflatten(-1, (8, self.width))
        normed = F.layer_norm(grown, (self.width,), self.norm_weight, self.norm_bias, CHANNEL_NORM_EPS)
        return F.gelu(normed)

    def forward(self, x: Tensor, skip: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B, C, s, s, s) -> (B, width + the skip's channels, 2s, 2s, 2s)."""
        batch, _, side = x.shape[:3]
        width = self.width + (0 if skip is None else skip.shape[1])
        out = x.new_empty((batch, 2 * side, 2 * side, 2 * side, width), dtype=dtype)
        if skip is not None:
            out[..., self.width :] = skip.permute(0, 2, 3, 4, 1)
        planes = x.permute(0, 2, 3, 4, 1).flatten(0, 1)  # (B*s, s, s, C)
        shuffled = out.view(batch * side, 2, side, 2, side, 2, width)[..., : self.width]
        for slab in _slabs(len(planes), side):
            grown = self.children(planes[slab]).unflatten(3, (2, 2, 2))  # (n, y, x, 2, 2, 2, width)
            shuffled[slab] = grown.permute(0, 3, 1, 4, 2, 5, 6)
        return out.permute(0, 4, 1, 2, 3)


class _Head:
    """The last upsampler and the 3^3 convolution to the mask's logits, without the features between them."""

    def __init__(self, convolution: nn.Module, dtype: torch.dtype) -> None:
        weight, bias = weight_and_bias(convolution)
        self.taps, self.bias = weight[0].flatten(1).to(dtype), bias[0]  # (C, 27)

    def forward(self, x: Tensor, upsampler: _Upsampler) -> Tensor:
        """(B, C, 32, 32, 32) -> float32 logits (B, 1, 64, 64, 64)."""
        batch, _, side = x.shape[:3]
        planes = x.permute(0, 2, 3, 4, 1).flatten(0, 1)
        # a border of one voxel all around, so that every shift of the taps falls inside
        framed = x.new_zeros((batch, *(2 * side + 2,) * 3), dtype=torch.float32)
        taps = x.new_empty((27, batch * side, 2, side, 2, side, 2), dtype=self.taps.dtype)
        for slab in _slabs(len(planes), side):
            features = upsampler.children(planes[slab])
            found = torch.matmul(self.taps.T, features.flatten(0, 3).T).view(27, -1, side, side, 2, 2, 2)
            taps[:, slab] = found.permute(0, 1, 4, 2, 5, 3, 6)
        fine = taps.view(27, batch, *(2 * side,) * 3)
        for n in range(27):
            z, y, x_ = n // 9, n // 3 % 3, n % 3
            # tap (z, y, x) of a voxel's features belongs to the output voxel 1 - (z, y, x) further
            framed[:, 2 - z : 2 - z + 2 * side, 2 - y : 2 - y + 2 * side, 2 - x_ : 2 - x_ + 2 * side] += fine[
                n
            ]
        return framed[:, None, 1:-1, 1:-1, 1:-1] + self.bias


def _modulated(x: Tensor, maps: NormMaps) -> Tensor:
    """Instance norm of x (B, C, s, s, s), times scale, plus shift; statistics in float32."""
    scale, shift = maps.scale, maps.shift
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.float(), (2, 3, 4), correction=0, keepdim=True)
        normed = ((x - mean) * (variance + INSTANCE_NORM_EPS).rsqrt()).to(x.dtype)
        return torch.addcmul(shift.to(x.dtype), normed, scale.to(x.dtype))
    out = torch.empty_like(x)
    one = len(scale) == 1
    for n in range(len(x)):
        # the batch norm of one sample is its instance norm, and takes channels last as they are
        normed = torch.native_batch_norm(x[n : n + 1], None, None, None, None, True, 0.0, INSTANCE_NORM_EPS)[
            0
        ]
        here = slice(0, 1) if one else slice(n, n + 1)
        torch.addcmul(shift[here].to(x.dtype), normed, scale[here].to(x.dtype), out=out[n : n + 1])
    return out


def _slabs(planes: int, side: int) -> list[slice]:
    step = max(1, _SLAB_ROWS // side**2)
    return [slice(start, start + step) for start in range(0, planes, step)]
