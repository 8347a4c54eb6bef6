"""Embeddings and prompt maps -> mask logits and a quality: progressively and spatially aligned prompts.

Design and numbers of arXiv 2403.15063; attribute names are the published weights' names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsam3d.network.config import NetworkConfig

PROMPT_MAPS = 3  # previous mask, positive clicks, negative clicks
CHANNEL_NORM_EPS = 1e-6
INSTANCE_NORM_EPS = 1e-5
SLOPE = 0.2


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, z, y, x), voxel by voxel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, CHANNEL_NORM_EPS)
        return normed.movedim(-1, 1)


class Upsampler(nn.Module):
    """(B, C, s, s, s) -> (B, width, 2s, 2s, 2s)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.cna = nn.Sequential(
            nn.ConvTranspose3d(width_in, width, 2, stride=2), ChannelNorm(width), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cna(x)
        return out


class SpadeNorm(nn.Module):
    """Instance norm of x (B, C, s, s, s), then scaled and shifted voxel by voxel as the prompt maps say."""

    def __init__(self, width: int, prompt_width: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv3d(PROMPT_MAPS, prompt_width, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv3d(prompt_width, width, 3, padding=1)
        self.mlp_beta = nn.Conv3d(prompt_width, width, 3, padding=1)

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        """`prompts` (B, 3, s, s, s): the prompt maps, resized to x."""
        # Over the deepest map's 8 voxels the variance can be tiny: in 16 bits it would be noise.
        normed = F.instance_norm(x.float(), eps=INSTANCE_NORM_EPS).to(x.dtype)
        hidden = self.mlp_shared(prompts)
        out: Tensor = normed * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)
        return out


class SpadeBlock(nn.Module):
    """Residual block on (B, C, s, s, s): norm, LeakyReLU, convolution, twice."""

    def __init__(self, width: int, prompt_width: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv3d(width, width, 3, padding=1)
        self.conv_1 = nn.Conv3d(width, width, 3, padding=1)
        self.norm_0 = SpadeNorm(width, prompt_width)
        self.norm_1 = SpadeNorm(width, prompt_width)

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        """`prompts` (B, 3, side, side, side): the prompt maps at any size."""
        resized = F.interpolate(prompts, size=x.shape[2:], mode="trilinear", align_corners=False)
        inner = self.conv_0(F.leaky_relu(self.norm_0(x, resized), SLOPE))
        inner = self.conv_1(F.leaky_relu(self.norm_1(inner, resized), SLOPE))
        out: Tensor = x + inner
        return out


class QualityHead(nn.Module):
    """Features averaged over the cube (B, C) -> (B, 2). The published loss never trained it: no QC score."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width_in, width), nn.Linear(width, width), nn.Linear(width, 2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        out: Tensor = last(F.relu(second(F.relu(first(x)))))
        return out


class MaskDecoder(nn.Module):
    """Four embeddings (16, 8, 4 and 2 voxels a side) and prompt maps (B, 3, 64, 64, 64) -> mask logits."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, prompt = config.block_widths, config.prompt_width
        self.upscale1, self.upscale2, self.upscale3, self.upscale4, self.upscale5 = (
            Upsampler(width, up) for width, up in zip(widths, config.upsampled_widths, strict=True)
        )
        self.spade1, self.spade2, self.spade3, self.spade4, self.spade5 = (
            SpadeBlock(width, prompt) for width in widths
        )
        last = config.upsampled_widths[-1]
        self.mask_prediction_head = nn.Sequential(nn.Conv3d(last, 2, 3, padding=1))
        self.iou_prediction_head = QualityHead(last, config.quality_width)

    def features(self, embeddings: tuple[Tensor, Tensor, Tensor, Tensor], prompts: Tensor) -> Tensor:
        """The last features, (B, C, 64, 64, 64), from which both heads read."""
        first, second, third, fourth = embeddings
        x = self.upscale1(self.spade1(fourth, prompts))
        x = self.upscale2(self.spade2(torch.cat([x, third], 1), prompts))
        x = self.upscale3(self.spade3(torch.cat([x, second], 1), prompts))
        x = self.upscale4(self.spade4(torch.cat([x, first], 1), prompts))
        out: Tensor = self.upscale5(self.spade5(x, prompts))
        return out

    def mask_logits(self, features: Tensor) -> Tensor:
        """(B, C, 64, 64, 64) -> (B, 1, 64, 64, 64): the first of two channels is the mask."""
        logits: Tensor = self.mask_prediction_head(features)
        return logits[:, :1]

    def quality(self, features: Tensor) -> Tensor:
        """(B, C, 64, 64, 64) -> (B, 1): the first of two outputs."""
        out: Tensor = self.iou_prediction_head(features.mean((2, 3, 4)))
        return out[:, :1]
