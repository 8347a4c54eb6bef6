"""Which way a grid's axes point: geometry in; names, exact flips and transposes to nearest LPS+ out."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry

_POSITIVE_FACES = ("left", "posterior", "superior")
_NEGATIVE_FACES = ("right", "anterior", "inferior")
_POSITIVE_CODES = ("L", "P", "S")
_NEGATIVE_CODES = ("R", "A", "I")
_COSINE_DECIMALS = (
    4  # cosines closer than this are a tie, settled by the axes themselves, not by their storage order
)


def _nearest_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each of the directions L, P, S: the voxel axis (0=x, 1=y, 2=z) nearest it, and its sign along it.

    The choice depends on where the axes point alone: storing the same voxels in another order picks the same
        physical
    axis for each direction, also at 45 degrees.
    """
    direction = geometry.direction
    best_key: tuple[float, tuple[float, ...]] | None = None
    best: tuple[int, ...] = (0, 1, 2)
    for order in permutations(range(3)):
        cosines = direction[:, order]
        diagonal = np.diagonal(cosines)
        signed = cosines * np.where(diagonal < 0, -1.0, 1.0)
        total = round(float(np.abs(diagonal).sum()), _COSINE_DECIMALS)
        key = (total, tuple(float(c) for c in np.round(signed, _COSINE_DECIMALS).T.ravel() + 0.0))
        if best_key is None or key > best_key:
            best_key, best = key, order
    signs = tuple(-1 if direction[world, axis] < 0 else 1 for world, axis in enumerate(best))
    return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])


def orientation_code(geometry: Geometry) -> str:
    """Where the stored x, y, z axes point to: "LPS" for a head-first supine axial series as in DICOM."""
    axes, signs = _nearest_axes(geometry)
    letters = [""] * 3
    for world, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        letters[axis] = _POSITIVE_CODES[world] if sign > 0 else _NEGATIVE_CODES[world]
    return "".join(letters)


def face_names(geometry: Geometry) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    """For the array axes z, y, x: the anatomical names of the faces at index 0 and at the last index."""
    axes, signs = _nearest_axes(geometry)
    faces: list[tuple[str, str]] = [("", "")] * 3
    for world, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        low, high = _NEGATIVE_FACES[world], _POSITIVE_FACES[world]
        faces[2 - axis] = (low, high) if sign > 0 else (high, low)
    return faces[0], faces[1], faces[2]


def canonical_geometry(geometry: Geometry) -> Geometry:
    """The grid of the same voxels with x, y, z stored nearest to L, P, S."""
    axes, signs = _nearest_axes(geometry)
    affine = np.eye(4)
    affine[:3, 3] = geometry.affine[:3, 3]
    for world, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        column = geometry.affine[:3, axis]
        affine[:3, world] = sign * column
        if sign < 0:
            affine[:3, 3] += (geometry.shape_zyx[2 - axis] - 1) * column
    shape_xyz = [geometry.shape_zyx[2 - axis] for axis in axes]
    return Geometry((shape_xyz[2], shape_xyz[1], shape_xyz[0]), affine)


def to_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A view of `array` (z, y, x), stored on `geometry`, in the order of `canonical_geometry(geometry)`."""
    axes, signs = _nearest_axes(geometry)
    view = array.transpose([2 - axis for axis in reversed(axes)])
    return view[tuple(slice(None, None, sign) for sign in reversed(signs))]


def from_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The inverse of `to_canonical`: a view in the order in which `geometry` stores its voxels."""
    axes, signs = _nearest_axes(geometry)
    view = array[tuple(slice(None, None, sign) for sign in reversed(signs))]
    inverse = np.argsort([2 - axis for axis in reversed(axes)])
    return view.transpose([int(axis) for axis in inverse])
