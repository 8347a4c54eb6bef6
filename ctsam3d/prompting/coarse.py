"""The localizer's network and grid: HU at 1.5 mm in, a 6 mm image and per-class probabilities out.

A small U-Net sees the whole body at 6 mm, where a torso is about 60 voxels wide, and says for every voxel which of the
localized structures it belongs to. It is trained on windows of PATCH_ZYX voxels and run with the same windows, since
its instance norms take their statistics from the window.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ctsam3d.anatomy.localized import CLASSES

SPACING_MM = 6.0
PATCH_ZYX = (32, 48, 64)
WINDOWS_HU = ((-1000.0, 600.0), (-125.0, 225.0))
FEATURES = (40, 80, 128, 160)


class CoarseNetwork(nn.Module):
    """A U-Net that works at 12 mm between folding 2^3 voxels into channels and unfolding them again.

    (B, 2, z, y, x) windows of HU in [0, 1] to (B, classes, z, y, x) logits; sides are multiples of 16. Three times
    quicker than the same network on unfolded voxels, at the same field of view.
    """

    def __init__(self, classes: int = len(CLASSES)) -> None:
        from monai.networks.nets import DynUNet

        super().__init__()
        levels = len(FEATURES)
        halvings = [2] * (levels - 1)
        self.body = DynUNet(
            spatial_dims=3,
            in_channels=8 * len(WINDOWS_HU),
            out_channels=FEATURES[0],
            kernel_size=[3] * levels,
            strides=[1, *halvings],
            upsample_kernel_size=halvings,
            filters=FEATURES,
            norm_name="instance",
        )
        self.unfold = nn.ConvTranspose3d(FEATURES[0], classes, 2, 2)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits for windows of HU."""
        b, c, z, y, x = windows.shape
        blocks = windows.reshape(b, c, z // 2, 2, y // 2, 2, x // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        logits: torch.Tensor = self.unfold(self.body(blocks.reshape(b, 8 * c, z // 2, y // 2, x // 2)))
        return logits


def weights_of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, each once: MONAI's U-Net also lists its blocks as nested skip layers."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("body.skip_layers.")}


def windowed(hu: torch.Tensor) -> torch.Tensor:
    """HU (B, 1, z, y, x) to the network's input (B, 2, z, y, x) in [0, 1]."""
    channels = [((hu - low) / (high - low)).clamp(0, 1) for low, high in WINDOWS_HU]
    return torch.cat(channels, dim=1)


def coarsen(hu: NDArray[np.generic], factor: int) -> torch.Tensor:
    """Mean HU over blocks of `factor`^3 voxels, float32 (z, y, x); the last blocks are filled up with air."""
    from ctsam3d.imaging.volume import AIR_HU

    air = float(AIR_HU)
    padding = [(-n) % factor for n in hu.shape]
    # pooled slab by slab: a float copy of a whole-body volume would be gigabytes
    slabs = []
    for z in range(0, hu.shape[0], factor):
        slab = torch.from_numpy(hu[z : z + factor].astype(np.float32))
        slab = F.pad(slab, (0, padding[2], 0, padding[1], 0, factor - slab.shape[0]), value=air)
        slabs.append(F.avg_pool3d(slab[None, None], factor)[0, 0])
    return torch.cat(slabs)
