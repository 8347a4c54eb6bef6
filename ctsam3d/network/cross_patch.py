"""A segmented cube and its neighbour -> a heat map of where to click in the neighbour."""

import torch
from monai.networks.nets import UNet
from torch import Tensor

from ctsam3d.network.config import NetworkConfig


def build(config: NetworkConfig) -> UNet:
    """The U-Net of arXiv 2403.15063's cross-patch prompting, in MONAI's names as in the published weights.

    It takes (B, 2C+1, 64, 64, 64), as `stack` orders them, and gives (B, 1, 64, 64, 64).
    """
    return UNet(
        spatial_dims=3,
        in_channels=2 * config.channels + 1,
        out_channels=1,
        channels=config.cross_patch_widths,
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="INSTANCE",
    )


def stack(cube: Tensor, mask: Tensor, neighbour: Tensor) -> Tensor:
    """Order the U-Net's input: cube (B, C, s, s, s), its mask (B, 1, s, s, s) > 0.5, neighbour like cube."""
    return torch.cat([cube, (mask > 0.5).to(cube.dtype), neighbour], 1)
