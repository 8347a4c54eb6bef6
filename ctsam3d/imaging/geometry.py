"""Where a grid of voxels lies in the patient: shape and affine in, spacing and positions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT_TOLERANCE_MM = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A voxel grid in LPS+ millimetres.

    Attributes:
        shape_zyx: voxels along the array's axes.
        affine: float64 (4, 4), maps a voxel (x, y, z, 1), the array index reversed, to LPS+ mm.
    """

    shape_zyx: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if (
            affine.shape != (4, 4)
            or not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3])) < 1e-9
        ):
            raise ValueError(f"expected an invertible finite (4, 4) affine, found shape {affine.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape_zyx", tuple(int(n) for n in self.shape_zyx))

    @classmethod
    def from_spacing(
        cls,
        shape_zyx: tuple[int, int, int],
        spacing_xyz_mm: tuple[float, float, float],
        origin_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
        direction: NDArray[np.float64] | None = None,
    ) -> Geometry:
        """A grid from spacing, position of voxel 0 and direction cosines (columns: the x, y and z axes)."""
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) if direction is None else direction) * np.asarray(spacing_xyz_mm)
        affine[:3, 3] = origin_xyz_mm
        return cls(shape_zyx, affine)

    @property
    def spacing_xyz_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def origin_xyz_mm(self) -> tuple[float, float, float]:
        """Centre of voxel (0, 0, 0)."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def direction(self) -> NDArray[np.float64]:
        """Direction cosines, (3, 3); column k is the direction of voxel axis k of (x, y, z)."""
        cosines: NDArray[np.float64] = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return cosines

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel: |det(affine)| mm^3 in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_world_xyz_mm(self, index_zyx: NDArray[Any]) -> NDArray[np.float64]:
        """Array indices (..., 3) in (z, y, x) order to LPS+ mm (..., 3)."""
        xyz = np.asarray(index_zyx, dtype=np.float64)[..., ::-1]
        world: NDArray[np.float64] = xyz @ self.affine[:3, :3].T + self.affine[:3, 3]
        return world

    def to_index_zyx(self, world_xyz_mm: NDArray[Any]) -> NDArray[np.float64]:
        """LPS+ mm (..., 3) to fractional array indices (..., 3) in (z, y, x) order."""
        inverse = np.linalg.inv(self.affine)
        xyz = np.asarray(world_xyz_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        index: NDArray[np.float64] = xyz[..., ::-1]
        return index

    def is_close(self, other: Geometry) -> bool:
        """Whether both grids hold the same voxels at the same places, to 1e-4 mm at every corner."""
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape_zyx])).reshape(3, -1).T
        gap = np.abs(self.to_world_xyz_mm(corners) - other.to_world_xyz_mm(corners))
        return bool(gap.max() < _FLOAT_TOLERANCE_MM)
