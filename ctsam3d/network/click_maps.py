"""Clicks (B, N, 3) with labels (B, N) -> two maps (B, 2, side, side, side): positive clicks, negative clicks.

The published network divides each map by its maximum over the whole batch, which makes a cube depend on its
batch mates as soon as a click lies outside its cube. Here clicks are moved to the nearest voxel inside, so
each map with a click peaks at exactly 1, each without is 0, and nothing is left to divide by.
"""

import torch
from torch import Tensor

POSITIVE, NEGATIVE, PADDING = 1, 0, -1  # what a label says of its click
SIGMA_VOXELS = 2.0
HALF_BOX_VOXELS = 8  # a click writes a box of 17 voxels a side


def draw(clicks_xyz: Tensor, labels: Tensor, side: int, device: torch.device | None = None) -> Tensor:
    """Draw each sample's clicks as Gaussians of height 1 centred on the click's truncated coordinate.

    Where the boxes of two clicks of a kind overlap, the later click's box replaces the earlier one's.

    Args:
        clicks_xyz: (B, N, 3) voxels of the cube, x first; those outside move to the nearest voxel inside.
        labels: (B, N) 1 positive, 0 negative, -1 no click.
        side: voxels a side of the maps.
        device: of the maps; by default the clicks'. Clicks on the CPU cost a GPU no waiting.

    Returns:
        float32 (B, 2, side, side, side), axes z, y, x.

    Raises:
        ValueError: shapes do not match, a click is not finite, or a label is not one of the three.
    """
    _check(clicks_xyz, labels)
    clicks = clicks_xyz.detach().to(torch.float32).clamp(0, side - 1).trunc()
    device = clicks.device if device is None else device
    distance = torch.arange(side, device=device) - clicks.to(device)[..., None]  # (B, N, xyz, side)
    profile = torch.exp(-distance.square() / (2 * SIGMA_VOXELS**2))
    maps = torch.zeros((len(clicks), 2, side, side, side), device=device)
    channels = {POSITIVE: 0, NEGATIVE: 1}
    places = clicks.int().tolist()
    for sample, kinds in enumerate(labels.tolist()):
        for n, kind in enumerate(kinds):
            if kind != PADDING:
                box = [slice(max(0, i - HALF_BOX_VOXELS), i + HALF_BOX_VOXELS + 1) for i in places[sample][n]]
                x, y, z = (profile[sample, n, axis, line] for axis, line in enumerate(box))
                maps[(sample, channels[kind], *reversed(box))] = _cut(_outer(x, y, z))
    return maps


def _outer(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A line along each axis -> their product (z, y, x)."""
    return z[:, None, None] * y[:, None] * x


def _cut(gaussian: Tensor) -> Tensor:
    """Zero what float32 cannot tell from zero beside the peak of 1."""
    return torch.where(gaussian < torch.finfo(torch.float32).eps, 0.0, gaussian)


def _check(clicks_xyz: Tensor, labels: Tensor) -> None:
    if clicks_xyz.ndim != 3 or clicks_xyz.shape[2] != 3 or labels.shape != clicks_xyz.shape[:2]:
        raise ValueError(
            "expected clicks (B, N, 3) and labels (B, N), "
            f"found {tuple(clicks_xyz.shape)} and {tuple(labels.shape)}"
        )
    if not torch.isfinite(clicks_xyz).all():
        raise ValueError("a click has a coordinate that is not a finite number")
    if not ((labels == POSITIVE) | (labels == NEGATIVE) | (labels == PADDING)).all():
        raise ValueError("a label is none of 1 (positive), 0 (negative), -1 (padding)")
