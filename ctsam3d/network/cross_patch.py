"""A segmented cube and its neighbour -> a heat map of where to click in the neighbour."""

from types import EllipsisType

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


def aligned(cube: Tensor, offset_zyx: tuple[int, int, int]) -> Tensor:
    """A cube (..., s, s, s), or its mask, seen in the frame of a neighbour whose origin lies `offset_zyx` voxels on.

    0 where the neighbour reaches beyond it. The published predictor gets both cubes in frames of their own and must
    find out from the images how they lie to one another; ours is told.
    """
    seen = torch.zeros_like(cube)
    z, y, x = offset_zyx
    seen[_shared(cube, (-z, -y, -x))] = cube[_shared(cube, offset_zyx)]
    return seen


def _shared(cube: Tensor, offset_zyx: tuple[int, int, int]) -> tuple[EllipsisType | slice, ...]:
    """The part of a cube that another one, so many voxels on, reaches too."""
    sides = zip(offset_zyx, cube.shape[-3:], strict=True)
    return (..., *(slice(max(0, o), max(0, side + min(0, o))) for o, side in sides))


def stack(cube: Tensor, mask: Tensor, neighbour: Tensor) -> Tensor:
    """Order the U-Net's input: cube (B, C, s, s, s), its mask (B, 1, s, s, s) > 0.5, neighbour like cube."""
    return torch.cat([cube, (mask > 0.5).to(cube.dtype), neighbour], 1)
