"""Places of slices to one stack: order, spacing and affine; or a refusal that says what is wrong with them.

1. Frames are grouped by orientation; a minority (an MPR, a localizer that does not say so) is set aside.
2. Within the stack, sizes and pixel spacings must agree.
3. Slices are ordered by position along the normal; the distances between them must be one distance, or a spacing that
   changes and can be evened out (`slice_spacing`).
4. The line through their first voxels must be straight. Where it leans along the columns, as behind a tilted gantry,
   the affine leans with it: exact, and nothing is resampled. What the header says of a tilt is used for nothing: the
   standard forbids to compute with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.slice_spacing import place_on_grid
from ctsam3d.outcome import Reason, Rejected

ORIENTATION_TOLERANCE = 1e-4  # in a direction cosine
UNIT_TOLERANCE = 1e-3  # of direction cosines from unit length and from each other's perpendicular
PERPENDICULAR_TOLERANCE = 1e-3  # sideways travel per mm along the normal
MAX_TILT_DEG = 35.0  # gantries tilt to 30
SIDEWAYS_TOLERANCE_MM = 0.1  # of one slice from the straight line through all
SAME_POSITION_MM = 0.01
PIXEL_SPACING_RANGE_MM = (0.1, 10.0)
PIXEL_SPACING_TOLERANCE_MM = 1e-3
MAX_POSITION_MM = 1e5


class GeometryFix(StrEnum):
    """What was dealt with in a series' geometry, and not refused. Names are stable: they end up in tables."""

    GANTRY_TILT = "gantry_tilt"  # the affine leans with the stack
    UNEVEN_SPACING = "uneven_spacing"  # slices were interpolated to one spacing
    MULTI_FRAME = "multi_frame"  # frames of enhanced objects were sorted by their own places


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one frame lies and how large it is; values as the header gives them."""

    position_xyz_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    row_column_spacing_mm: tuple[float, ...] | None
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A stack and its even grid.

    Attributes:
        geometry: LPS+, slices along z in the direction of the normal; its z axis leans where the stack does.
        members: for each position the indices of the planes at it; more than one where positions repeat.
        placed: (positions) the index of each on the grid's z axis: 0, 1, 2, ... unless spacing changes.
        set_aside: indices of planes that belong to another orientation.
        fixes: what had to be dealt with.
    """

    geometry: Geometry
    members: tuple[tuple[int, ...], ...]
    placed: NDArray[np.float64]
    set_aside: tuple[int, ...]
    fixes: tuple[GeometryFix, ...]

    @property
    def is_even(self) -> bool:
        """Whether every position is a slice of the grid and every slice a position."""
        return len(self.members) == self.geometry.shape_zyx[0] and bool((self.placed % 1 == 0).all())


def stack_planes(planes: Sequence[Plane], min_slices: int, min_extent_mm: float) -> Stack:
    """Order planes into one stack.

    Raises:
        Rejected: GEOMETRY_INVALID, ORIENTATION_MIXED, SHAPE_MIXED, TOO_FEW_SLICES, SLICES_MISSING,
            SPACING_IRREGULAR or GANTRY_TILT.
    """
    axes = [_axes(plane) for plane in planes]
    chosen, set_aside = _majority_orientation(axes)
    row, column = axes[chosen[0]]
    spacing_y, spacing_x = _in_plane_spacing([planes[i] for i in chosen])
    normal = np.cross(row, column)
    positions = np.array([planes[i].position_xyz_mm for i in chosen], dtype=np.float64)
    order, members = _ordered(positions @ normal, chosen)
    if len(members) < min_slices:
        raise Rejected(Reason.TOO_FEW_SLICES, f"{len(members)} slices, expected at least {min_slices}")
    along = np.array([positions[i] @ normal for i in order])
    placed = place_on_grid(along) if len(order) > 1 else np.zeros(1)
    count = round(float(placed[-1])) + 1
    spacing_z = float(along[-1] - along[0]) / (count - 1) if count > 1 else min_extent_mm
    extent = count * spacing_z
    if extent < min_extent_mm - SAME_POSITION_MM:
        raise Rejected(
            Reason.TOO_FEW_SLICES, f"slices cover {extent:.1f} mm, expected at least {min_extent_mm:g} mm"
        )
    lean = _lean(positions[order], along, normal, row)
    first = planes[chosen[0]]
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * spacing_x, column * spacing_y, (normal + lean) * spacing_z], axis=1)
    affine[:3, 3] = positions[order[0]]
    fixes = []
    if lean.any():
        fixes.append(GeometryFix.GANTRY_TILT)
    stack = Stack(
        Geometry((count, first.rows, first.columns), affine), members, placed, tuple(set_aside), tuple(fixes)
    )
    return stack if stack.is_even else replace(stack, fixes=(*stack.fixes, GeometryFix.UNEVEN_SPACING))


def _axes(plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit, perpendicular directions of increasing column index and increasing row index."""
    if plane.position_xyz_mm is None or plane.orientation is None or plane.row_column_spacing_mm is None:
        raise Rejected(Reason.GEOMETRY_INVALID, "a slice without position, orientation or pixel spacing")
    if not all(abs(v) <= MAX_POSITION_MM for v in plane.position_xyz_mm):
        raise Rejected(
            Reason.GEOMETRY_INVALID, f"a slice position is no number within {MAX_POSITION_MM:g} mm"
        )
    low, high = PIXEL_SPACING_RANGE_MM
    if not all(low <= v <= high for v in plane.row_column_spacing_mm):
        raise Rejected(Reason.GEOMETRY_INVALID, f"a pixel spacing outside {low:g} to {high:g} mm")
    cosines = np.array(plane.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.sqrt((cosines**2).sum(axis=1))
    if (
        not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all()
        or not abs(cosines[0] @ cosines[1]) <= UNIT_TOLERANCE
    ):
        raise Rejected(Reason.GEOMETRY_INVALID, "orientation is not two perpendicular unit vectors")
    row = cosines[0] / lengths[0]
    column = cosines[1] - (cosines[1] @ row) * row
    return row, column / np.linalg.norm(column)


def _majority_orientation(
    axes: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[list[int], list[int]]:
    groups: list[list[int]] = []
    for index, pair in enumerate(axes):
        for group in groups:
            reference = axes[group[0]]
            if (
                max(np.abs(a - b).max() for a, b in zip(pair, reference, strict=True))
                <= ORIENTATION_TOLERANCE
            ):
                group.append(index)
                break
        else:
            groups.append([index])
    largest = max(groups, key=len)
    if 2 * len(largest) <= len(axes) and len(groups) > 1:
        sizes = sorted((len(g) for g in groups), reverse=True)
        raise Rejected(Reason.ORIENTATION_MIXED, f"orientations of {sizes[:5]} slices, none the majority")
    kept = set(largest)
    return largest, [i for i in range(len(axes)) if i not in kept]


def _in_plane_spacing(planes: Sequence[Plane]) -> tuple[float, float]:
    """Distance between rows and between columns, one for all."""
    first = planes[0]
    assert first.row_column_spacing_mm is not None
    for plane in planes:
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise Rejected(Reason.SHAPE_MIXED, "slices of one orientation differ in rows or columns")
        assert plane.row_column_spacing_mm is not None
        pairs = zip(plane.row_column_spacing_mm, first.row_column_spacing_mm, strict=True)
        if any(abs(a - b) > PIXEL_SPACING_TOLERANCE_MM for a, b in pairs):
            raise Rejected(Reason.SHAPE_MIXED, "slices of one orientation differ in pixel spacing")
    return first.row_column_spacing_mm[0], first.row_column_spacing_mm[1]


def _ordered(
    along: NDArray[np.float64], chosen: Sequence[int]
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """Sort along the normal: for each position its first plane's place in `chosen`, and all its planes."""
    order: list[int] = []
    members: list[list[int]] = []
    for i in (int(i) for i in np.argsort(along, kind="stable")):
        if order and along[i] - along[order[-1]] <= SAME_POSITION_MM:
            members[-1].append(chosen[i])
        else:
            order.append(i)
            members.append([chosen[i]])
    return order, tuple(tuple(group) for group in members)


def _lean(
    positions: NDArray[np.float64],
    along: NDArray[np.float64],
    normal: NDArray[np.float64],
    row: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sideways travel of the stack per mm along its normal (x, y, z); zero where it stands upright."""
    sideways = (positions - positions[0]) - np.outer(along - along[0], normal)
    length = float(along[-1] - along[0])
    drift = sideways[-1] / length if length else np.zeros(3)
    residual = np.linalg.norm(sideways - np.outer(along - along[0], drift), axis=1)
    if residual.max() > SIDEWAYS_TOLERANCE_MM:
        raise Rejected(Reason.GEOMETRY_INVALID, f"a slice lies {residual.max():.2f} mm beside the others")
    slope = float(np.linalg.norm(drift))
    if slope <= PERPENDICULAR_TOLERANCE:
        return np.zeros(3)
    degrees = math.degrees(math.atan(slope))
    if degrees > MAX_TILT_DEG:
        raise Rejected(
            Reason.GANTRY_TILT,
            f"slices are stacked {degrees:.2f} degrees off their normal, expected at most {MAX_TILT_DEG:g}",
        )
    if abs(float(drift @ row)) > PERPENDICULAR_TOLERANCE:
        raise Rejected(
            Reason.GANTRY_TILT,
            f"slices are stacked {degrees:.2f} degrees off their normal, not along their columns",
        )
    return drift
