"""A volume to the model's grid, label maps back to the source grid, whichever way the source is stored.

Axes are first brought nearest to LPS+ by exact flips and transposes, then the geometry is rounded. Copies of
one image that differ in storage order, or by the float32 of a NIfTI header, thereby meet in the same grid and
give the same bits. The same rounded geometry serves both directions, so the rounding moves no mask against
its image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.orientation import canonical_geometry, from_canonical, to_canonical
from ctsam3d.imaging.volume import AIR_HU, Volume

if TYPE_CHECKING:
    import torch

MODEL_SPACING_MM = 1.5
_ORIGIN_STEP_MM = 0.05
_SPACING_STEP_MM = 1e-4
_COSINE_DECIMALS = 4
# Numbers in headers are short decimals. Rounding borders placed at an irrational offset keep clear of all of
# them.
_STEP_OFFSET = 1 / np.pi
_INT16_MAX = int(np.iinfo(np.int16).max)
_EDGE_TOLERANCE_VOXELS = 1e-6


def model_geometry(source: Geometry, spacing_mm: float = MODEL_SPACING_MM) -> Geometry:
    """The axis-aligned LPS+ grid of isotropic `spacing_mm` that covers `source` to its voxels' edges."""
    canonical = _rounded(canonical_geometry(source))
    corners = (
        np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in canonical.shape_zyx], indexing="ij")).reshape(3, -1).T
    )
    world = canonical.to_world_xyz_mm(corners)
    low, high = world.min(axis=0), world.max(axis=0)
    count = np.maximum(np.ceil((high - low) / spacing_mm - _EDGE_TOLERANCE_VOXELS), 1).astype(int)
    origin = (low + high) / 2 - (count - 1) / 2 * spacing_mm
    return Geometry.from_spacing(
        (int(count[2]), int(count[1]), int(count[0])),
        (spacing_mm, spacing_mm, spacing_mm),
        (float(origin[0]), float(origin[1]), float(origin[2])),
    )


def to_model_grid(
    volume: Volume, spacing_mm: float = MODEL_SPACING_MM, device: torch.device | None = None
) -> Volume:
    """The volume on its `model_geometry`: int16 HU by linear interpolation, AIR_HU outside the source.

    Args:
        volume: on its own grid.
        spacing_mm: of the model's grid.
        device: as for `to_grid`.
    """
    return to_grid(volume, model_geometry(volume.geometry, spacing_mm), device)


def to_grid(volume: Volume, geometry: Geometry, device: torch.device | None = None) -> Volume:
    """The volume on any other grid: int16 HU by linear interpolation, AIR_HU outside the source.

    Padding follows by nearest neighbour; voxels outside the source count as padding where the source has any.

    Args:
        volume: on its own grid.
        geometry: the grid asked for.
        device: where it is computed if that is a GPU; there a value half-way between two HU may go the other way.
    """
    source = _rounded(canonical_geometry(volume.geometry))
    stored, padding = to_canonical(volume.hu, volume.geometry), None
    if volume.padding is not None:
        padding = to_canonical(volume.padding, volume.geometry).astype(np.uint8)
    if device is not None and device.type == "cuda":
        from ctsam3d.imaging import device_resample

        found = device_resample.linear(stored, source, geometry, AIR_HU, device)
        if padding is not None:
            padding = device_resample.nearest(padding, source, geometry, 1, device)
    else:
        found = _resampled(stored, source, geometry, AIR_HU)
        if padding is not None:
            padding = _resampled(padding, source, geometry, 1, nearest=True)
    # ITK truncates when it writes integers; floats rounded here carry no bias.
    hu = np.clip(np.rint(found), AIR_HU, _INT16_MAX).astype(np.int16)
    return Volume(hu, geometry, None if padding is None else padding > 0)


def labels_to_source(
    labels: NDArray[Any], model: Geometry, source: Geometry, device: torch.device | None = None
) -> NDArray[Any]:
    """A label map from the model's grid to the source grid, in the order the source stores its voxels.

    Each source voxel takes the label with the largest trilinear weight among the eight model voxels around
    it, so boundaries are as smooth as interpolation makes them and labels never mix. Outside the model's grid
    it is 0.

    Args:
        labels: integers (z, y, x) on `model`.
        model: the grid of `labels`, as made by `model_geometry(source)`.
        source: the grid asked for.
        device: where it is computed if that is a GPU and labels are uint8; they are the same.

    Returns:
        Integers (z, y, x) of the type of `labels`, shape `source.shape_zyx`.
    """
    if labels.shape != model.shape_zyx:
        raise ValueError(f"labels of shape {labels.shape} on a grid of shape {model.shape_zyx}")
    canonical = _rounded(canonical_geometry(source))
    if device is not None and device.type == "cuda" and labels.dtype == np.uint8:
        from ctsam3d.imaging import device_resample

        found = device_resample.heaviest_labels(labels, model, canonical, device)
        return np.ascontiguousarray(from_canonical(found, source))
    out = np.zeros(canonical.shape_zyx, labels.dtype)
    occupied = np.flatnonzero(labels.any(axis=(1, 2)))
    if occupied.size:
        grid = np.pad(labels, [(0, 1 if n == 1 else 0) for n in labels.shape], mode="edge")
        uniform = _uniform_cells(grid)
        to_model = np.linalg.inv(model.affine) @ canonical.affine
        reach = (occupied[0] - 1.0, occupied[-1] + 1.0)
        for k in range(canonical.shape_zyx[0]):
            coordinates = _slice_coordinates(to_model, canonical.shape_zyx, k)
            if coordinates[0].max() > reach[0] and coordinates[0].min() < reach[1]:
                out[k] = _vote(grid, uniform, coordinates, labels.shape)
    return np.ascontiguousarray(from_canonical(out, source))


def mask_to_box(
    mask: NDArray[np.bool_], source: Geometry, grid: Geometry, block: int
) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_]]:
    """A mask on the part of another grid that it reaches: each voxel takes the nearest one of the mask.

    Args:
        mask: (z, y, x) on `source`.
        source: where the mask lies; its axes must be nearest to LPS+.
        grid: the grid asked for, axes along LPS+.
        block: the part starts and ends at multiples of so many voxels.

    Returns:
        The part as slices of `grid` that may end beyond it, and the mask there, False beyond the grid; an empty part
        where mask and grid lie apart.
    """
    rounded = _rounded(source)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in mask.shape], indexing="ij")).reshape(3, -1).T
    reached = grid.to_index_zyx(rounded.to_world_xyz_mm(corners))
    low = np.clip(np.floor(reached.min(axis=0) + 0.5), 0, None).astype(int) // block * block
    high = np.minimum(np.ceil(reached.max(axis=0) + 0.5), grid.shape_zyx).astype(int)
    size = -(-(high - low) // block) * block
    if (high <= low).any():
        return (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=bool)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world_xyz_mm(low)
    part = Geometry((int(size[0]), int(size[1]), int(size[2])), affine)
    to_mask = np.linalg.inv(rounded.affine) @ part.affine
    there = np.zeros(part.shape_zyx, dtype=bool)
    inside = np.minimum(size, np.array(grid.shape_zyx) - low)
    for k in range(int(inside[0])):
        nearest = [np.rint(c).astype(np.int64) for c in _slice_coordinates(to_mask, part.shape_zyx, k)]
        within = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(nearest, mask.shape, strict=True)])
        z, y, x = (np.where(within, i, 0) for i in nearest)
        there[k] = mask[z, y, x] & within
    there[:, int(inside[1]) :] = False
    there[:, :, int(inside[2]) :] = False
    box = (slice(low[0], low[0] + size[0]), slice(low[1], low[1] + size[1]), slice(low[2], low[2] + size[2]))
    return box, there


def _rounded(canonical: Geometry) -> Geometry:
    """The canonical grid with origin, spacing and cosines rounded, so float32 copies of a header agree."""
    affine = canonical.affine.astype(np.float32).astype(np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = np.round(affine[:3, :3] / spacing, _COSINE_DECIMALS) + 0.0  # + 0.0: no negative zeros
    spacing = _to_step(spacing, _SPACING_STEP_MM)
    origin = _to_step(affine[:3, 3], _ORIGIN_STEP_MM)
    rounded = np.eye(4)
    rounded[:3, :3] = direction * spacing
    rounded[:3, 3] = origin
    return Geometry(canonical.shape_zyx, rounded)


def _to_step(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    return (np.round(values / step - _STEP_OFFSET) + _STEP_OFFSET) * step


def _resampled(
    stored: NDArray[Any], source: Geometry, geometry: Geometry, outside: float, *, nearest: bool = False
) -> NDArray[Any]:
    """Float32 by linear interpolation, or the nearest voxel's own values."""
    import SimpleITK as sitk  # here: a GPU does without

    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetOrigin(source.origin_xyz_mm)
    image.SetSpacing(source.spacing_xyz_mm)
    image.SetDirection(source.direction.ravel().tolist())
    resampled = sitk.Resample(
        image,
        geometry.shape_zyx[::-1],
        sitk.Transform(),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        geometry.origin_xyz_mm,
        geometry.spacing_xyz_mm,
        geometry.direction.ravel().tolist(),
        float(outside),
        image.GetPixelID() if nearest else sitk.sitkFloat32,
    )
    array: NDArray[Any] = sitk.GetArrayFromImage(resampled)
    return array


def _uniform_cells(grid: NDArray[Any]) -> NDArray[np.bool_]:
    """For each cell between eight voxels, named by its lowest corner: whether all eight carry one label."""
    uniform = np.zeros(grid.shape, dtype=bool)
    same = grid[:-1] == grid[1:]
    same_y = grid[:, :-1] == grid[:, 1:]
    same_x = grid[:, :, :-1] == grid[:, :, 1:]
    uniform[:-1, :-1, :-1] = (
        (same[:, :-1, :-1] & same[:, 1:, :-1] & same[:, :-1, 1:] & same[:, 1:, 1:])
        & (same_y[:-1, :, :-1] & same_y[:-1, :, 1:])
        & same_x[:-1, :-1]
    )
    return uniform


def _slice_coordinates(
    to_model: NDArray[np.float64], shape_zyx: tuple[int, int, int], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fractional model indices z, y, x, each (rows, columns), of the voxels of slice k."""
    x = np.arange(shape_zyx[2], dtype=np.float64)
    y = np.arange(shape_zyx[1], dtype=np.float64)[:, None]
    rows = [
        to_model[i, 0] * x + (to_model[i, 1] * y + (to_model[i, 2] * k + to_model[i, 3])) for i in range(3)
    ]
    return rows[2], rows[1], rows[0]


def _vote(
    grid: NDArray[Any],
    uniform: NDArray[np.bool_],
    coordinates: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """Labels (rows, columns) of a slice: the corner's where the cell is uniform, else by weight."""
    flat = np.zeros(coordinates[0].shape, dtype=np.int64)
    inside = np.ones(coordinates[0].shape, dtype=bool)
    fractions = []
    for axis, coordinate in enumerate(coordinates):
        n = shape[axis]
        inside &= (coordinate >= -0.5 - _EDGE_TOLERANCE_VOXELS) & (
            coordinate <= n - 0.5 + _EDGE_TOLERANCE_VOXELS
        )
        clamped = np.clip(coordinate, 0, n - 1)
        low = np.minimum(clamped.astype(np.int64), grid.shape[axis] - 2)
        fractions.append(clamped - low)
        flat *= grid.shape[axis]
        flat += low
    values = grid.ravel()[flat]
    mixed = np.nonzero(~uniform.ravel()[flat] & inside)
    values[~inside] = 0
    if mixed[0].size:
        values[mixed] = _heaviest_label(grid, flat[mixed], [f[mixed] for f in fractions])
    return values


def _heaviest_label(
    grid: NDArray[Any], lowest_corner: NDArray[np.int64], fractions: list[NDArray[np.float64]]
) -> NDArray[Any]:
    """For points in cells of several labels: the label whose corners weigh most together."""
    stride = (grid.shape[1] * grid.shape[2], grid.shape[2], 1)
    corners = [(dz, dy, dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
    flat_grid = grid.ravel()
    labels = np.stack([flat_grid[lowest_corner + int(np.dot(corner, stride))] for corner in corners])
    weights = np.stack(
        [np.prod([f if d else 1 - f for f, d in zip(fractions, c, strict=True)], axis=0) for c in corners]
    )
    score = np.zeros_like(weights)
    for i in range(8):
        for j in range(8):
            score[i] += weights[j] * (labels[j] == labels[i])
    heaviest: NDArray[Any] = np.take_along_axis(labels, score.argmax(axis=0)[None], axis=0)[0]
    return heaviest
