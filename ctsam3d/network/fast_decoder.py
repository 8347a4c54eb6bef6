"""Embeddings and prompts -> probabilities, as the published decoder computes them but several times faster.

`MaskDecoder` says what is computed and is what training and the tests compare with; this is how it is computed where
nothing needs a gradient:

* what prompts contribute comes from `modulation`, mostly kept;
* channels are last in memory throughout, which convolutions, layer norms and matrix products all take as it is;
* a transposed convolution of stride 2 is a matrix product; it, its norm and its GELU run over slabs small enough for
  the cache and write straight into the next block's input, beside the skip;
* of the head, only the mask's channel is computed, as a product from the 8 children of a voxel to the 64 voxels that
  they reach, which are then added where they overlap, so that the features of 64^3 voxels never exist;
* convolutions may run in bfloat16 (`Precision`). What runs between blocks is always float32: rounded there, a mask
  moves three times as far as by all convolutions together. So is the head, which costs next to nothing and rounded
  would move as many voxels over a mask's border as all convolutions.
"""

from __future__ import annotations

import itertools

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
from ctsam3d.network.modulation import LevelMaps, Modulator, NormMaps
from ctsam3d.network.precision import Precision

_SLAB_ROWS = 1024  # voxels upsampled at a time: with their 8 children they stay in the cache of a core
_ROWS_APART = 4  # of voxels, of which statistics are taken apart: more are slower, fewer lose digits
_REACHED = 4  # output voxels a side that the children of one voxel reach through the head


class FastDecoder:
    """The decoder of one checkpoint, on its device; for inference alone.

    Args:
        decoder: whose weights are copied as they are now.
        precision: of the convolutions.
    """

    def __init__(self, decoder: MaskDecoder, precision: Precision = Precision.FLOAT32) -> None:
        self.precision = precision
        blocks = [decoder.spade1, decoder.spade2, decoder.spade3, decoder.spade4, decoder.spade5]
        upsamplers = [decoder.upscale1, decoder.upscale2, decoder.upscale3, decoder.upscale4]
        self.modulator = Modulator(blocks, precision.dtype)
        self._blocks = [_Block(block, precision.dtype) for block in blocks]
        self._upsamplers = [_Upsampler(upsampler) for upsampler in upsamplers]
        self._head = _Head(_Upsampler(decoder.upscale5), decoder.mask_prediction_head[0])

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
        if len(clicks_xyz) != len(embeddings.stage4):
            raise ValueError(
                f"clicks for {len(clicks_xyz)} cubes with embeddings of {len(embeddings.stage4)}"
            )
        modulation = self.modulator.of(clicks_xyz, labels, previous_mask)
        first, second, third, fourth = embeddings
        x = laid_out(fourth, torch.float32)
        for n, skip in enumerate((third, second, first, None)):
            x = self._upsamplers[n].forward(self._blocks[n].forward(x, modulation.levels[n]), skip)
        return self._head.forward(self._blocks[4].forward(x, modulation.levels[4])).sigmoid_()


class _Block:
    """Norm, LeakyReLU, convolution, twice, added to the input: float32 (B, C, s, s, s) in and out."""

    def __init__(self, block: SpadeBlock, dtype: torch.dtype) -> None:
        self.dtype = dtype
        convs = (block.conv_0, block.conv_1)
        parts = [weight_and_bias(conv) for conv in convs]
        self.convolutions = [(laid_out(weight, dtype), bias) for weight, bias in parts]

    def forward(self, x: Tensor, maps: LevelMaps) -> Tensor:
        inner = self._half(self._half(x, maps.norms[0], 0), maps.norms[1], 1)
        return torch.add(x, inner)

    def _half(self, x: Tensor, maps: NormMaps, n: int) -> Tensor:
        return convolve(_modulated(x.float(), maps), *self.convolutions[n], padding=1)


class _Upsampler:
    """Transposed convolution of stride 2, norm over channels, GELU: a voxel's channels to those of its 8 children."""

    def __init__(self, upsampler: Upsampler) -> None:
        weight, bias = weight_and_bias(upsampler.cna[0])  # (C, width, 2, 2, 2)
        self.width = len(bias)
        rows = weight.permute(2, 3, 4, 1, 0).reshape(8 * self.width, -1)  # ordered (z, y, x, width)
        self.weight, self.bias = rows.contiguous(), bias.repeat(8)
        self.norm_weight, self.norm_bias = weight_and_bias(upsampler.cna[1])

    def children(self, rows: Tensor) -> Tensor:
        """(..., C) -> (..., 8, width): the children in order z, y, x."""
        grown = F.linear(rows, self.weight, self.bias).unflatten(-1, (8, self.width))
        normed = F.layer_norm(grown, (self.width,), self.norm_weight, self.norm_bias, CHANNEL_NORM_EPS)
        return F.gelu(normed)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, C, s, s, s) -> float32 (B, width + the skip's channels, 2s, 2s, 2s)."""
        batch, _, side = x.shape[:3]
        width = self.width + (0 if skip is None else skip.shape[1])
        out = x.new_empty((batch, 2 * side, 2 * side, 2 * side, width))
        if skip is not None:
            out[..., self.width :] = skip.permute(0, 2, 3, 4, 1)
        planes = x.permute(0, 2, 3, 4, 1).flatten(0, 1)  # (B*s, s, s, C)
        shuffled = out.view(batch * side, 2, side, 2, side, 2, width)[..., : self.width]
        for slab in _slabs(planes):
            grown = self.children(planes[slab]).unflatten(3, (2, 2, 2))  # (n, y, x, 2, 2, 2, width)
            shuffled[slab] = grown.permute(0, 3, 1, 4, 2, 5, 6)
        return out.permute(0, 4, 1, 2, 3)


class _Head:
    """The last upsampler and the 3^3 convolution to the mask's logits, without the features between them."""

    def __init__(self, upsampler: _Upsampler, convolution: nn.Module) -> None:
        self.upsampler = upsampler
        weight, bias = weight_and_bias(convolution)
        self.shares, self.bias = _shares(weight[0]), bias[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, s, s, s) -> float32 logits (B, 1, 2s, 2s, 2s); one sample at a time, for the cache's sake."""
        return torch.stack([self._one(sample) for sample in x.permute(0, 2, 3, 4, 1)])[:, None]

    def _one(self, voxels: Tensor) -> Tensor:
        """(s, s, s, C) -> (2s, 2s, 2s)."""
        side = len(voxels)
        found = voxels.new_empty((_REACHED**3, side, side, side))
        for slab in _slabs(voxels):
            features = self.upsampler.children(voxels[slab]).flatten(3).flatten(0, 2)
            found[:, slab] = torch.matmul(self.shares, features.T).unflatten(1, (-1, side, side))
        fine = found.view(*(_REACHED,) * 3, side, side, side)
        for axis in range(3):
            fine = _overlapped(fine, axis)
        return fine.permute(3, 0, 4, 1, 5, 2).reshape(2 * side, 2 * side, 2 * side) + self.bias


def _shares(weight: Tensor) -> Tensor:
    """Weights (C, 3, 3, 3) of a convolution -> (64, 8 C): what a voxel's 8 children add to the 4^3 voxels around.

    Along each axis the children are the voxels 0 and 1, and reach the voxels -1 to 2.
    """
    shares = weight.new_zeros((*(_REACHED,) * 3, 2, 2, 2, len(weight)))
    for z, y, x in itertools.product(range(2), repeat=3):
        # the weight at k belongs to the output voxel 1 - k further, and the voxel -1 has index 0
        shares[z : z + 3, y : y + 3, x : x + 3, z, y, x] = weight.flip(1, 2, 3).movedim(0, -1)
    return shares.view(_REACHED**3, -1)


def _overlapped(found: Tensor, axis: int) -> Tensor:
    """Along one axis, shares of the voxels -1 to 2 around each voxel -> sums for its children 0 and 1."""
    before, first, second, after = found.unbind(axis)
    sums = torch.stack([first, second], axis)
    even, odd = sums.unbind(axis)
    along, steps = axis + 2, found.shape[axis + 3] - 1  # the voxels' own axis, once `axis` is gone
    even.narrow(along, 1, steps).add_(after.narrow(along, 0, steps))
    odd.narrow(along, 0, steps).add_(before.narrow(along, 1, steps))
    return sums


def _modulated(x: Tensor, maps: NormMaps) -> Tensor:
    """LeakyReLU of the instance norm of x (B, C, s, s, s) times scale plus shift: float32, then in the maps' type."""
    scale, shift = maps.scale, maps.shift
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x, (2, 3, 4), correction=0, keepdim=True)
        normed = (x - mean).mul_((variance + INSTANCE_NORM_EPS).rsqrt())
        return F.leaky_relu_(torch.addcmul(shift, normed, scale), SLOPE).to(scale.dtype)
    out = torch.empty_like(x, dtype=scale.dtype)
    for n in range(len(x)):
        of = 0 if len(scale) == 1 else n
        voxels, scales, shifts, into = (t.permute(1, 2, 3, 0) for t in (x[n], scale[of], shift[of], out[n]))
        mean, variance = _statistics(voxels)
        factor = (variance + INSTANCE_NORM_EPS).rsqrt()
        for slab in _slabs(voxels):
            normed = (voxels[slab] - mean).mul_(factor)
            changed = torch.addcmul(shifts[slab].float(), normed, scales[slab].float())
            into[slab] = F.leaky_relu_(changed, SLOPE)
    return out


def _statistics(voxels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of each channel of voxels (s, s, s, C), in float32 on a CPU.

    A batch norm's statistics are quick with channels last, but a thread adds its voxels one after the other, and 32^3
    of them one after the other lose three digits. So they are taken of each place along x, in each of a few rows,
    apart, as if these were further channels, and then of those: no sum is then of more than 256 voxels.
    """
    side = voxels.shape[2]
    places = min(side, _ROWS_APART) * side
    means, variances = torch.batch_norm_update_stats(
        voxels.reshape(side**3 // places, -1, 1, 1), None, None, 0.0
    )
    of_places, mean = torch.var_mean(means.view(places, -1), 0, correction=0)
    return mean, variances.view(places, -1).mean(0) + of_places


def _slabs(planes: Tensor) -> list[slice]:
    """Parts of planes (n, s, s, C) that a core's cache holds; on a device that is no CPU all of them at once."""
    count, side = planes.shape[:2]
    step = max(1, _SLAB_ROWS // side**2) if planes.device.type == "cpu" else count
    return [slice(start, start + step) for start in range(0, count, step)]
