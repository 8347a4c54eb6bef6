"""Whose each part of a volume is for certain: coarse masks of its structures in; where others cannot be, out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.segmentation.patches import Patch

_SURE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class SureOwners:
    """Which structure each coarse block belongs to for certain.

    Attributes:
        owner: uint8 (z, y, x), 1 + the structure's place in `names`, 0 where none is sure.
        names: of the structures.
    """

    owner: NDArray[np.uint8]
    names: tuple[str, ...]

    @classmethod
    def of(cls, coarse: Mapping[str, CoarseStructure]) -> SureOwners | None:
        """From all coarse structures of a study, at most 255; None where there are none."""
        owner: NDArray[np.uint8] | None = None
        for place, structure in enumerate(coarse.values(), 1):
            if owner is None:
                owner = np.zeros(structure.mask.shape, dtype=np.uint8)
            owner[structure.mask & (structure.probability > _SURE)] = place
        return None if owner is None else cls(owner, tuple(coarse))

    def over(self, patch: Patch) -> NDArray[np.uint8]:
        """The owners of a cube's voxels, (64, 64, 64)."""
        blocks = [(np.arange(CUBE_VOXELS) + origin) // COARSE_FACTOR for origin in patch.origin_zyx]
        inside = [(b >= 0) & (b < n) for b, n in zip(blocks, self.owner.shape, strict=True)]
        cube = np.zeros((CUBE_VOXELS,) * 3, dtype=np.uint8)
        if all(i.any() for i in inside):
            cube[np.ix_(*inside)] = self.owner[np.ix_(*(b[i] for b, i in zip(blocks, inside, strict=True)))]
        return cube

    def without(self, names: Collection[str]) -> SureOwners:
        """The same, but of some structures nothing is sure."""
        gone = [place for place, name in enumerate(self.names, 1) if name in names]
        return SureOwners(np.where(np.isin(self.owner, gone), np.uint8(0), self.owner), self.names)

    def elsewhere(self, patch: Patch, clicked: Iterable[tuple[int, int, int]]) -> NDArray[np.bool_]:
        """Where in a cube (64, 64, 64) something else is for certain, but for what somebody has clicked in.

        Args:
            patch: the cube.
            clicked: model voxels (z, y, x) on the grid.
        """
        last = np.array(self.owner.shape) - 1
        own = [self.owner[tuple(np.minimum(np.array(zyx) // COARSE_FACTOR, last))] for zyx in clicked]
        there = self.over(patch)
        return (there > 0) & ~np.isin(there, own)
