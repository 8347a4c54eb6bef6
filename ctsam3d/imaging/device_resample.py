"""Arrays on one grid -> arrays on another, on a GPU: what `resample` computes on a CPU, but for the last bits.

Positions are float64, as there. Grids are taken in parts of some slices, so that memory does not grow with the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsam3d.imaging.geometry import Geometry

Positions = tuple[Tensor, Tensor, Tensor]
"""Indices z, y, x into an array, each (slices, rows, columns)."""

_VOXELS_AT_A_TIME = 2**21  # a few dozen numbers of 8 bytes are held of each
_EDGE_TOLERANCE_VOXELS = 1e-6


def linear(
    values: NDArray[np.generic], source: Geometry, target: Geometry, outside: float, device: torch.device
) -> NDArray[np.float32]:
    """Trilinear values (z, y, x) on the target, from those on the source; `outside` beyond its voxels' edges."""
    image = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    out = np.empty(target.shape_zyx, dtype=np.float32)
    for part, positions in _positions(source, target, device):
        found, shares = _cells(image, positions)
        corners = {corner: value.double() for corner, value in found.items()}
        for axis in (2, 1, 0):  # two corners along an axis become one
            corners = {
                at: torch.lerp(corners[(*at, 0)], corners[(*at, 1)], shares[axis])
                for at in product((0, 1), repeat=axis)
            }
        out[part] = torch.where(_inside(positions, image.shape), corners[()], outside).float().cpu().numpy()
    return out


def heaviest_labels(
    labels: NDArray[np.uint8], source: Geometry, target: Geometry, device: torch.device
) -> NDArray[np.uint8]:
    """Of each voxel of the target, the label with the largest trilinear weight; 0 beyond the source."""
    grid = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
    out = np.empty(target.shape_zyx, dtype=np.uint8)
    for part, positions in _positions(source, target, device):
        found, shares = _cells(grid, positions)
        weights = {
            corner: math.prod(s if far else 1 - s for s, far in zip(shares, corner, strict=True))
            for corner in found
        }
        best, most = torch.zeros_like(found[0, 0, 0]), torch.zeros_like(positions[0])
        for label in found.values():
            score = sum((weights[c] * (found[c] == label) for c in found), torch.zeros_like(most))
            # of equal scores the first corner's label has the voxel, as on a CPU
            best, most = torch.where(score > most, label, best), torch.maximum(score, most)
        out[part] = torch.where(_inside(positions, grid.shape), best, 0).cpu().numpy()
    return out


def nearest(
    values: NDArray[np.uint8], source: Geometry, target: Geometry, outside: int, device: torch.device
) -> NDArray[np.uint8]:
    """Likewise, of the nearest voxel."""
    image = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    out = np.empty(target.shape_zyx, dtype=np.uint8)
    for part, positions in _positions(source, target, device):
        at = tuple(
            (p + 0.5).floor_().clamp_(0, n - 1).long() for p, n in zip(positions, image.shape, strict=True)
        )
        out[part] = torch.where(_inside(positions, image.shape), image[at], outside).cpu().numpy()
    return out


def _positions(source: Geometry, target: Geometry, device: torch.device) -> Iterator[tuple[slice, Positions]]:
    """Slices of the target, and the indices of its voxels in the source."""
    to_source = (np.linalg.inv(source.affine) @ target.affine).tolist()
    slices, rows, columns = target.shape_zyx
    step = max(1, _VOXELS_AT_A_TIME // (rows * columns))
    x = torch.arange(columns, dtype=torch.float64, device=device)
    y = torch.arange(rows, dtype=torch.float64, device=device)[:, None]
    for start in range(0, slices, step):
        part = slice(start, min(slices, start + step))
        z = torch.arange(part.start, part.stop, dtype=torch.float64, device=device)[:, None, None]
        ix, iy, iz = (a * x + (b * y + (c * z + d)) for a, b, c, d in to_source[:3])
        yield part, (iz, iy, ix)


def _cells(image: Tensor, positions: Positions) -> tuple[dict[tuple[int, ...], Tensor], list[Tensor]]:
    """Values at the eight corners around each position, by corner, and how far it lies from the first along each axis.

    Positions beyond the outermost voxels are those voxels'.
    """
    low = [p.floor().clamp_(0, max(0, n - 2)).long() for p, n in zip(positions, image.shape, strict=True)]
    shares = [p.clamp(0, n - 1) - a for p, a, n in zip(positions, low, image.shape, strict=True)]
    corners = {}
    for corner in product((0, 1), repeat=3):
        at = tuple((a + d).clamp_(max=n - 1) for a, d, n in zip(low, corner, image.shape, strict=True))
        corners[corner] = image[at]
    return corners, shares


def _inside(positions: Positions, shape: tuple[int, ...]) -> Tensor:
    """Whether positions lie within the edges of a grid's voxels."""
    z, y, x = (
        (p >= -0.5 - _EDGE_TOLERANCE_VOXELS) & (p <= n - 0.5 + _EDGE_TOLERANCE_VOXELS)
        for p, n in zip(positions, shape, strict=True)
    )
    return z & y & x
