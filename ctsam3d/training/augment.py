"""Draw one training patch from a case: a random pose and warp of space, one resampling, random intensities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Pose:
    """How wildly space may be changed.

    Attributes:
        rotation_deg: largest angle about each axis.
        scale: smallest and largest factor.
        warp_mm: largest size of a smooth displacement.
        flip_probability: of mirroring left-right; only where side has no meaning.
    """

    rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.85, 1.2)
    warp_mm: float = 8.0
    flip_probability: float = 0.0


def draw_grid(
    rng: np.random.Generator, shape_zyx: tuple[int, int, int], spacing_mm: float, pose: Pose
) -> NDArray[np.float32]:
    """Offsets (z, y, x, 3) in mm, (z, y, x) order, from the patch's centre to where each patch voxel is sampled."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * spacing_mm for n in shape_zyx]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    matrix = np.diag(rng.uniform(*pose.scale) * rng.uniform(0.94, 1.06, 3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.uniform(-pose.rotation_deg, pose.rotation_deg))
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    if rng.random() < pose.flip_probability:
        matrix = matrix @ np.diag([1, 1, -1])
    grid = grid @ matrix.T.astype(np.float32)
    knots = torch.from_numpy(rng.standard_normal((1, 3, 5, 5, 5)).astype(np.float32)) * (
        rng.uniform(0, pose.warp_mm) / 2
    )
    warp = F.interpolate(knots, size=shape_zyx, mode="trilinear", align_corners=True)[0]
    moved: NDArray[np.float32] = grid + warp.permute(1, 2, 3, 0).numpy()
    return moved


def sample(
    array: NDArray[np.generic],
    centre_zyx: NDArray[np.float64],
    spacing_mm: float,
    grid: NDArray[np.float32],
    *,
    linear: bool,
    outside: float,
) -> NDArray[np.float32]:
    """Values of `array` (z, y, x) at `centre_zyx` (voxels) + `grid` (mm); `outside` beyond the array."""
    per_voxel = 2 / np.array(array.shape)  # grid_sample counts from -1 to 1 from side to side, x first
    to_xyz = torch.from_numpy(np.diag(per_voxel / spacing_mm)[:, ::-1].astype(np.float32))
    corner = torch.from_numpy(((centre_zyx + 0.5) * per_voxel - 1)[::-1].astype(np.float32))
    normal = torch.addmm(corner, torch.from_numpy(grid.reshape(-1, 3)), to_xyz).view(1, *grid.shape)
    source = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) - outside)[None, None]
    found = F.grid_sample(
        source,
        normal,
        mode="bilinear" if linear else "nearest",
        padding_mode="zeros",
        align_corners=False,
    )
    values: NDArray[np.float32] = found[0, 0].numpy() + np.float32(outside)
    return values


def crop_around(
    shape: tuple[int, int, int], centre_zyx: NDArray[np.float64], reach_voxels: NDArray[np.float64]
) -> tuple[slice, slice, slice]:
    """The part of an array within `reach_voxels` of a centre."""
    low = np.clip(np.floor(centre_zyx - reach_voxels), 0, np.array(shape) - 1).astype(int)
    high = np.clip(np.ceil(centre_zyx + reach_voxels) + 1, low + 1, shape).astype(int)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


# Structures that contrast agent brightens, and the HU it may add to one that is scanned without or before it.
_ENHANCING = (
    ("aorta", 250), ("heart", 200), ("pulmonary", 200), ("artery", 250), ("trunk", 250), ("vena", 150), ("vein", 150),
    ("kidney", 150), ("spleen", 90), ("liver", 60), ("pancreas", 60), ("small_bowel", 100), ("stomach", 150),
    ("colon", 150), ("urinary_bladder", 250),
)  # fmt: skip


def change_phase(
    rng: np.random.Generator, hu: NDArray[np.float32], ids: NDArray[np.uint8], names: Mapping[int, str]
) -> NDArray[np.float32]:
    """Another contrast phase: labelled vessels and organs of a real image brightened or dimmed, each by its own amount.

    Args:
        rng: to draw from.
        hu: float32 (z, y, x).
        ids: label ids on the same grid.
        names: of the label ids.
    """
    added = np.zeros(256, dtype=np.float32)
    for label, name in names.items():
        reach = next((r for part, r in _ENHANCING if part in name), 0)
        if reach and rng.random() < 0.7:
            added[label] = rng.uniform(-0.3, 1.0) * reach
    # gas and fat in a label do not take up contrast
    return hu + np.where(hu > -30, ndimage.gaussian_filter(added[ids], 0.6), np.float32(0))


def thicken(rng: np.random.Generator, hu: NDArray[np.float32], spacing_mm: float) -> NDArray[np.float32]:
    """What thicker slices or a smoother kernel would have made of an image."""
    sigma = np.array([rng.uniform(0, 2.5), *np.full(2, rng.uniform(0, 1.0))]) / spacing_mm
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(hu, sigma)
    return blurred


def jitter_hu(
    rng: np.random.Generator, hu: NDArray[np.float32], *, strength: float = 1.0
) -> NDArray[np.float32]:
    """Small changes of scale, offset and noise, as between scanners, doses and kernels."""
    hu = hu * rng.uniform(1 - 0.08 * strength, 1 + 0.08 * strength) + rng.uniform(-20, 20) * strength
    if rng.random() < 0.5:
        hu = hu + rng.uniform(0, 25) * strength * rng.standard_normal(hu.shape).astype(np.float32)
    return hu.astype(np.float32)
