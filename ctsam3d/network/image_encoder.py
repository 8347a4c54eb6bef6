"""Cubes (B, C, 64, 64, 64) -> four maps of 16, 8, 4 and 2 voxels a side: ResTv2 in three dimensions.

The design and its numbers are those of arXiv 2403.15063 (on ResTv2, arXiv 2204.07366). Attribute names are
the published weights' names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsam3d.network.config import NetworkConfig

_NORM_EPS = 1e-6


def _tokens(volume: Tensor) -> Tensor:
    """(B, C, z, y, x) -> (B, z*y*x, C)."""
    return volume.flatten(2).transpose(1, 2)


def _volume(tokens: Tensor, side: int) -> Tensor:
    """(B, side**3, C) -> (B, C, side, side, side)."""
    return tokens.transpose(1, 2).unflatten(2, (side, side, side))


class PixelAttention(nn.Module):
    """Scale every voxel of (B, C, z, y, x) by a gate computed from its neighbourhood in the same channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv3d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        # In bfloat16 on a CPU, PyTorch 2.13 leaves parts of this convolution's weight gradient uninitialised where
        # the map is smaller than the kernel (2 voxels a side): 32 bits, which cost nothing here
        with torch.autocast(x.device.type, enabled=False):
            gate = torch.sigmoid(self.pa_conv(x.to(self.pa_conv.weight.dtype)))
        return x * gate.to(x.dtype)


class Stem(nn.Module):
    """(B, C, 64, 64, 64) -> tokens (B, 16**3, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.proj = nn.Sequential(
            nn.Conv3d(channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(half),
            nn.ReLU(),
            nn.Conv3d(half, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, width, 1),
        )
        self.pos = PixelAttention(width)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, cubes: Tensor) -> Tensor:
        out: Tensor = self.norm(_tokens(self.pos(self.proj(cubes))))
        return out


class Downsample(nn.Module):
    """(B, C, s, s, s) -> tokens (B, (s/2)**3, width) of the next stage."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(width_in, width, 3, stride=2, padding=1)
        self.pos = PixelAttention(width)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, volume: Tensor) -> Tensor:
        out: Tensor = self.norm(_tokens(self.pos(self.proj(volume))))
        return out


class Attention(nn.Module):
    """Every token (B, side**3, C) attends to keys and values shrunk by `reduction` along each axis."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        if reduction > 1:
            self.sr = nn.Conv3d(
                width, width, reduction + 1, stride=reduction, padding=reduction // 2, groups=width
            )
            self.sr_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.up_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        shrunk = tokens
        if self.reduction > 1:
            shrunk = self.sr_norm(_tokens(self.sr(_volume(tokens, side))))
        key, value = self.kv(shrunk).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.q(tokens)), self._split(key), self._split(value)
        )
        attended = attended.transpose(1, 2).flatten(2)
        out: Tensor = self.proj(attended + self.up_norm(self._enlarge(value, side)))
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C/heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _enlarge(self, value: Tensor, side: int) -> Tensor:
        """The values themselves at full size: what shrinking took from the result is given back."""
        if self.reduction == 1:
            return value
        volume = _volume(value, side // self.reduction)
        return _tokens(F.interpolate(volume, size=(side, side, side), mode="trilinear", align_corners=False))


class Mlp(nn.Module):
    """Tokens (B, N, C) -> tokens (B, N, C) through 4 C hidden channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention, then the MLP, each on normed tokens (B, side**3, C) and added to them."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), side)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ImageEncoder(nn.Module):
    """Cubes (B, C, s, s, s) -> four maps of s/4, s/8, s/16 and s/32 voxels a side (16, 8, 4, 2 for 64)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.stem = Stem(config.channels, widths[0])
        self.patch_2 = Downsample(widths[0], widths[1])
        self.patch_3 = Downsample(widths[1], widths[2])
        self.patch_4 = Downsample(widths[2], widths[3])
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.ModuleList(Block(width, heads, reduction) for _ in range(depth))
            for width, depth, heads, reduction in zip(
                widths, config.depths, config.heads, config.reductions, strict=True
            )
        )
        self.channel_mapper1, self.channel_mapper2, self.channel_mapper3, self.channel_mapper4 = (
            nn.Conv3d(width, mapped, 1) for width, mapped in zip(widths, config.embedding_widths, strict=True)
        )

    def forward(self, cubes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        side = cubes.shape[-1] // 4
        first = self._stage(self.stage1, self.stem(cubes), side)
        second = self._stage(self.stage2, self.patch_2(first), side // 2)
        third = self._stage(self.stage3, self.patch_3(second), side // 4)
        fourth = self._stage(self.stage4, self.patch_4(third), side // 8)
        return (
            self.channel_mapper1(first),
            self.channel_mapper2(second),
            self.channel_mapper3(third),
            self.channel_mapper4(fourth),
        )

    @staticmethod
    def _stage(blocks: nn.ModuleList, tokens: Tensor, side: int) -> Tensor:
        for block in blocks:
            tokens = block(tokens, side)
        return _volume(tokens, side)
