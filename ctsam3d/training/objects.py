"""Objects without a name to click on: an unlabelled CT, or nothing at all, in; a case whose labels are just things out.

What a person clicks on is not always in a catalogue. Regions of like HU that opening sets apart (muscles, organs, fat,
bones, air, vessels full of contrast) teach that a click means the thing around it; procedural phantoms of balls and
tubes teach the same where not even a CT is at hand. Neither says anything about the named structures.
"""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.training.cases import Case
from ctsam3d.training.cubes import OBJECT
from ctsam3d.training.synthesize import smooth_noise

_MOST = 250  # labels are bytes
_LEAST_ML, _LARGEST_ML = 2.0, 2000.0
_BODY_HU, _AIR_HU = -500, -500
_OPENED_VOXELS = 3
# Air within the body, lung, fat, water, soft tissue plain and with contrast, bone and full vessels.
_BANDS_HU = (
    (-1024, -930),
    (-930, -500),
    (-140, -50),
    (-20, 22),
    (22, 75),
    (75, 130),
    (130, 200),
    (200, 3000),
)
_SMOOTHED_MM = 1.5


def objects_in(name: str, hu: NDArray[np.int16], spacing_mm: float) -> Case:
    """The largest objects of a CT on a cubic grid (z, y, x), at most 250."""
    body = ndimage.find_objects((hu > _BODY_HU).view(np.uint8))
    labels = np.zeros(hu.shape, dtype=np.uint8)
    if not body:
        return _case(name, hu, labels, 0, spacing_mm)
    smooth = ndimage.gaussian_filter(hu[body[0]].astype(np.float32), _SMOOTHED_MM / spacing_mm)
    voxel_ml = spacing_mm**3 / 1000
    found: list[tuple[int, NDArray[np.unsignedinteger[Any]], int]] = []
    for low, high in _BANDS_HU:
        # thin bridges between things are cut, and the shells where one tissue passes into another go
        band = ndimage.binary_opening((smooth >= low) & (smooth < high), iterations=_OPENED_VOXELS)
        pieces = cc3d.connected_components(band, connectivity=6)
        sizes_ml = np.bincount(pieces.ravel()) * voxel_ml
        sizes_ml[0] = 0
        if high <= _AIR_HU:  # air that reaches the sides of the image is the room's
            for face in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
                sizes_ml[np.unique(face)] = 0
        wanted = np.flatnonzero((sizes_ml >= _LEAST_ML) & (sizes_ml <= _LARGEST_ML))
        found += [(int(sizes_ml[piece] / voxel_ml), pieces, int(piece)) for piece in wanted]
    found.sort(key=lambda f: -f[0])
    for label, (_, pieces, piece) in enumerate(found[:_MOST], 1):
        labels[body[0]][pieces == piece] = label
    return _case(name, hu, labels, len(found[:_MOST]), spacing_mm)


def procedural(name: str, seed: int, spacing_mm: float = 1.5, count: int = 60, side: int = 128) -> Case:
    """A phantom (side, side, side) of balls, ellipsoids and bent tubes in soft tissue; later ones on top."""
    rng = np.random.default_rng(seed)
    shape = (side,) * 3
    background = rng.uniform(-100, 60)
    hu = background + rng.uniform(5, 30) * smooth_noise(rng, shape, 10)
    labels = np.zeros(shape, dtype=np.uint8)
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    for label in range(1, count + 1):
        centre = rng.uniform(8, side - 8, 3)
        if rng.random() < 0.6:
            radii = rng.uniform(4, 24) * rng.uniform(0.5, 1.0, 3)
            inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1
        else:
            inside = _tube(rng, centre, rng.uniform(2, 6), side)
        labels[inside] = label
        hu[inside] = background + rng.choice([-1, 1]) * rng.uniform(20, 250)
    hu += rng.uniform(3, 20) * smooth_noise(rng, shape, 5)
    hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.9)) + rng.uniform(0, 20) * rng.standard_normal(shape)
    return _case(name, np.clip(hu, -1024, 3000).round().astype(np.int16), labels, count, spacing_mm)


def _tube(
    rng: np.random.Generator, start: NDArray[np.float64], radius: float, side: int
) -> NDArray[np.bool_]:
    """All voxels near a path that turns a little at every step."""
    line = np.zeros((side,) * 3, dtype=bool)
    at, heading = start.copy(), rng.standard_normal(3)
    for _ in range(200):
        heading = heading / np.linalg.norm(heading) + 0.15 * rng.standard_normal(3)
        at += heading / np.linalg.norm(heading)
        if (at < 0).any() or (at >= side).any():
            break
        line[tuple(at.astype(int))] = True
    line[tuple(start.astype(int))] = True
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~line) < radius
    return near


def _case(name: str, hu: NDArray[np.int16], labels: NDArray[np.uint8], count: int, spacing_mm: float) -> Case:
    names = {label: f"{OBJECT}{label}" for label in range(1, count + 1)}
    return Case(name, hu, labels, None, names, {}, frozenset(), spacing_mm)
