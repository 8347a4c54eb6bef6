"""One CT image: Hounsfield units on a geometry."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry

AIR_HU = -1024


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A CT in Hounsfield units.

    Attributes:
        hu: int16 or float32 (z, y, x). Padding outside the reconstruction is AIR_HU.
        geometry: where the voxels lie, LPS+ mm.
        padding: bool (z, y, x), True where the scanner measured nothing; None where all is measured.
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    geometry: Geometry
    padding: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape_zyx:
            raise ValueError(f"image of shape {self.hu.shape} on a grid of shape {self.geometry.shape_zyx}")
        if self.hu.dtype not in (np.int16, np.float32):
            raise ValueError(f"expected HU as int16 or float32, found {self.hu.dtype}")
        if self.padding is not None and self.padding.shape != self.hu.shape:
            raise ValueError(f"padding of shape {self.padding.shape} on an image of shape {self.hu.shape}")
