"""Axes are named and turned to nearest LPS+ by where they point."""

from __future__ import annotations

import numpy as np
import pytest

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.orientation import (
    canonical_geometry,
    face_names,
    from_canonical,
    orientation_code,
    to_canonical,
)


def sagittal() -> Geometry:
    """Columns towards posterior, rows towards inferior, slices towards the right."""
    direction = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], dtype=float)
    return Geometry.from_spacing((3, 4, 5), (0.5, 0.7, 2.0), (10.0, 20.0, 30.0), direction)


def test_codes_and_faces_of_a_sagittal_grid() -> None:
    assert orientation_code(sagittal()) == "PIR"
    assert face_names(sagittal()) == (("left", "right"), ("superior", "inferior"), ("anterior", "posterior"))


def test_a_plain_axial_grid() -> None:
    grid = Geometry.from_spacing((3, 4, 5), (1.0, 1.0, 1.0))
    assert orientation_code(grid) == "LPS"
    assert face_names(grid) == (("inferior", "superior"), ("anterior", "posterior"), ("right", "left"))
    assert canonical_geometry(grid).is_close(grid)


def test_canonical_voxels_lie_where_the_stored_ones_do() -> None:
    grid = sagittal()
    canonical = canonical_geometry(grid)
    assert orientation_code(canonical) == "LPS"
    values = np.arange(60).reshape(3, 4, 5)
    turned = to_canonical(values, grid)
    assert turned.shape == canonical.shape_zyx
    for index in np.ndindex(*canonical.shape_zyx):
        stored = np.rint(grid.to_index_zyx(canonical.to_world_xyz_mm(np.array(index)))).astype(int)
        assert turned[index] == values[tuple(stored)]
    np.testing.assert_array_equal(from_canonical(turned, grid), values)


@pytest.mark.parametrize("degrees", [20, 44, 46, 70])
def test_an_oblique_axis_takes_its_nearest_name(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    direction = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    code = orientation_code(Geometry.from_spacing((3, 4, 5), (1.0, 1.0, 1.0), direction=direction))
    assert code == ("LPS" if degrees < 45 else "PRS")
