"""Cut the network's cubes out of a volume on the model grid, and lay the localizer's probabilities over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.network.config import CUBE_VOXELS

Box = tuple[slice, slice, slice]
"""A part of a grid, (z, y, x)."""


def shifted(box: Box, origin_zyx: tuple[int, int, int]) -> Box:
    """The same part, counted from another voxel."""
    z, y, x = (slice(s.start - o, s.stop - o) for s, o in zip(box, origin_zyx, strict=True))
    return z, y, x


def within(box: Box, voxel: tuple[int, int, int]) -> tuple[int, int, int]:
    """A voxel of the grid as one of a part of it."""
    z, y, x = (i - part.start for i, part in zip(voxel, box, strict=True))
    return z, y, x


def peak(box: Box, values: NDArray[Any]) -> tuple[int, int, int]:
    """The voxel of the grid at which an array (z, y, x) over a part of it is largest; of several the first."""
    found = np.unravel_index(int(values.argmax()), values.shape)
    z, y, x = (int(i) + part.start for i, part in zip(found, box, strict=True))
    return z, y, x


def squared_distance(box: Box, point: tuple[float, ...]) -> NDArray[np.float64]:
    """Of each voxel of a part of the grid from a point of the grid (z, y, x), in square voxels."""
    dz, dy, dx = np.ix_(*(np.arange(s.start, s.stop) - p for s, p in zip(box, point, strict=True)))
    squared: NDArray[np.float64] = dz**2 + dy**2 + dx**2
    return squared


@dataclass(frozen=True, slots=True)
class Patch:
    """A cube of the model grid and the click at its centre.

    Attributes:
        structure: what is clicked on.
        origin_zyx: the model voxel that is the cube's voxel (0, 0, 0); may lie outside the volume.
    """

    structure: str
    origin_zyx: tuple[int, int, int]

    @property
    def click_zyx(self) -> tuple[int, int, int]:
        """The click on the model grid: the cube's centre."""
        z, y, x = (o + CUBE_VOXELS // 2 for o in self.origin_zyx)
        return z, y, x

    def offset_from(self, other: Patch) -> tuple[int, int, int]:
        """From another patch's origin to this one's, in voxels (z, y, x)."""
        z, y, x = (mine - its for mine, its in zip(self.origin_zyx, other.origin_zyx, strict=True))
        return z, y, x

    def holds(self, zyx: tuple[int, int, int]) -> bool:
        """Whether a model voxel lies in the cube."""
        return all(0 <= i - o < CUBE_VOXELS for i, o in zip(zyx, self.origin_zyx, strict=True))

    def overlap(self, shape: tuple[int, int, int]) -> tuple[Box, Box]:
        """Where cube and volume of this shape coincide: a box of the volume, a box of the cube."""
        low = [max(0, o) for o in self.origin_zyx]
        high = [min(n, o + CUBE_VOXELS) for n, o in zip(shape, self.origin_zyx, strict=True)]
        z, y, x = (slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        return (z, y, x), shifted((z, y, x), self.origin_zyx)


def patch_around(structure: str, zyx: tuple[int, int, int]) -> Patch:
    """The patch centred on a model voxel."""
    z, y, x = (i - CUBE_VOXELS // 2 for i in zyx)
    return Patch(structure, (z, y, x))


def patch_at(structure: str, seed_zyx: NDArray[np.int64], factor: int) -> Patch:
    """The patch centred on a coarse voxel, whose side is `factor` model voxels."""
    z, y, x = (int(s) * factor + factor // 2 for s in seed_zyx)
    return patch_around(structure, (z, y, x))


def cut(hu: NDArray[np.generic], patch: Patch) -> NDArray[np.int16]:
    """HU (64, 64, 64) of a patch; air beyond the volume."""
    cube = np.full((CUBE_VOXELS,) * 3, AIR_HU, dtype=np.int16)
    of_volume, of_cube = patch.overlap(hu.shape)
    cube[of_cube] = hu[of_volume]
    return cube


def lay_over(coarse: torch.Tensor, patch: Patch, factor: int) -> torch.Tensor:
    """Trilinear float32 (1, 64, 64, 64) over a patch, from blocks of `factor` voxels (z, y, x); 0 beyond them."""
    size = torch.tensor(coarse.shape, dtype=torch.float32)
    axes = []
    for axis in range(3):
        voxels = torch.arange(CUBE_VOXELS, dtype=torch.float32) + patch.origin_zyx[axis] + 0.5
        axes.append(voxels / factor / size[axis] * 2 - 1)
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1)[None]
    return F.grid_sample(
        coarse[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]
