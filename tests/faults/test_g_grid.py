"""Faults G09-G11, G14, G16, G17, G27: axes, pixel spacing, storage order, enhanced objects, and the grid of masks."""

from __future__ import annotations

import io
import math
from itertools import permutations, product
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctsam3d.imaging.dicom import Limits, read_folder
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Reason
from pipelines.cohort.measure import structure_rows
from pipelines.masks import decode_mask
from tests.anatomy import (
    ORGANS,
    anatomy_hu,
    anatomy_knobs,
    anatomy_series,
    check_anatomy,
    measured_anatomy,
    segment_anatomy,
)
from tests.builders import Knobs, ct_series, places_xyz_mm
from tests.faults.outcome import (
    patched,
    raw_value,
    read,
    reason_of,
    refused,
    renamed,
    setting,
    shared_data,
    without,
)

SMALL: dict[str, Any] = {"shape": (16, 18)}


def test_G09_axes_nearly_unit_and_perpendicular_are_made_so() -> None:
    series = read(
        ct_series(edit=setting("ImageOrientationPatient", [1.0005, 0, 0, 0.0004, 0.9996, 0]), **SMALL)
    )
    direction = series.volume.geometry.direction
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    "axes",
    [
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 0, 0, 0.1, 0.995, 0],
        [1.01, 0, 0, 0, 1, 0],
        [2, 0, 0, 0, 2, 0],
    ],
)
def test_G09_axes_that_are_none_are_refused(axes: list[float]) -> None:
    edit = setting("ImageOrientationPatient", axes, only=3)
    assert reason_of(ct_series(edit=edit, **SMALL)) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("value", [b"nan\\0\\0\\0\\1\\0", b"1\\0\\0\\0\\inf\\0", b"1\\0\\0\\0\\1", b"LEFT"])
def test_G09_axes_that_are_no_numbers_are_refused(value: bytes) -> None:
    objects = ct_series(edit=setting("ImageOrientationPatient", [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), **SMALL)
    damaged = patched(objects, raw_value(0x00200037, "DS", value), only=6)
    assert reason_of(damaged) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("value", [[0, 0], [-0.7, 0.7], [1e6, 1e6], [0.05, 0.7], [0.7, 10.5], None])
def test_G10_pixel_spacing_that_cannot_be_is_refused(value: list[float] | None) -> None:
    edit = without("PixelSpacing") if value is None else setting("PixelSpacing", value)
    assert reason_of(ct_series(edit=edit, **SMALL)) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("value", [b"nan\\1", b"1\\inf", b"0.7", b"what", b"1e999\\1"])
def test_G10_pixel_spacing_that_is_no_number_is_refused(value: bytes) -> None:
    damaged = patched(ct_series(**SMALL), raw_value(0x00280030, "DS", value))
    assert reason_of(damaged) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("multi_frame", [False, True])
def test_G11_rows_and_columns_keep_their_own_spacing(multi_frame: bool) -> None:
    spacing = (3.0, 5.0, 4.0)
    knobs = {"spacing_xyz_mm": spacing, "shape": (26, 48), "n": 31, "multi_frame": multi_frame}
    series = read(anatomy_series(**knobs))
    assert series.facts.spacing_mm == pytest.approx(spacing)
    stored = pydicom.dcmread(io.BytesIO(anatomy_series(**(knobs | {"multi_frame": False}))[0][1]))
    assert stored.PixelSpacing == [5.0, 3.0]  # DICOM: between rows first
    check_anatomy(measured_anatomy(series.volume), within=0.12)


# head first supine; feet first supine; prone; sagittal; coronal; decubitus; oblique, as rows' and columns' directions
POSITIONS = {
    "supine": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "decubitus": (0, 1, 0, -1, 0, 0),
    "oblique": (0.96, 0.28, 0, -0.28 * 0.8, 0.96 * 0.8, 0.6),
}


@pytest.mark.parametrize("position", POSITIONS)
def test_G14_the_same_body_in_any_position_is_the_same_anatomy(position: str) -> None:
    x, y = np.array(POSITIONS[position][:3], float), np.array(POSITIONS[position][3:], float)
    # every field of view must hold the body, whichever way it is cut
    extent = np.abs(np.stack([x, y, np.cross(x, y)])) @ np.array([152.0, 130.0, 122.0])
    spacing = (4.0, 3.8, 5.0)
    columns, rows, n = (math.ceil(e / s) + 1 for e, s in zip(extent, spacing, strict=True))
    knobs = {"orientation": POSITIONS[position], "shape": (rows, columns), "n": n, "shuffle": 8}
    series = read(anatomy_series(**knobs))
    assert series.facts.geometry_fix == ()
    measured = measured_anatomy(series.volume)
    check_anatomy(measured, within=0.12)
    assert measured["liver"].centroid_xyz_mm[0] < 0 < measured["spleen"].centroid_xyz_mm[0]


WAYS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.fixture(scope="module")
def body() -> tuple[Volume, dict[str, Any]]:
    volume = read(anatomy_series(spacing_xyz_mm=(5.0, 4.7, 6.0), shape=(28, 32), n=21)).volume
    return volume, measured_anatomy(volume)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_G14_all_48_ways_to_store_it_give_the_same_masks(
    way: tuple[tuple[int, ...], tuple[int, ...]], body: tuple[Volume, dict[str, Any]]
) -> None:
    volume, measured = body
    order, signs = way

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.transpose(order)[tuple(slice(None, None, s) for s in signs)])

    turned = turn(volume.hu)
    corner = np.array([0 if s > 0 else turned.shape[a] - 1 for a, s in enumerate(signs)])
    affine = np.eye(4)
    affine[:3, 3] = volume.geometry.to_world_xyz_mm(corner[np.argsort(order)])
    for axis, (source_axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, 2 - axis] = sign * volume.geometry.affine[:3, 2 - source_axis]
    found = measured_anatomy(Volume(turned, Geometry(turned.shape, affine)))
    assert set(found) == set(measured) == set(ORGANS)
    for name, organ in found.items():
        assert (organ.voxels, organ.mean_hu) == (measured[name].voxels, measured[name].mean_hu)
        assert organ.volume_ml == pytest.approx(measured[name].volume_ml)
        np.testing.assert_allclose(organ.centroid_xyz_mm, measured[name].centroid_xyz_mm, atol=1e-6)


def test_G16_slices_of_two_sizes_are_refused() -> None:
    mixed = [*ct_series(**SMALL), *ct_series(n=5, shape=(20, 18), edit=renamed())]
    assert refused(mixed) == (Reason.SHAPE_MIXED, "slices of one orientation differ in rows or columns")
    one_spacing_off = ct_series(edit=setting("PixelSpacing", [0.9, 0.72], only=3), **SMALL)
    assert reason_of(one_spacing_off) is Reason.SHAPE_MIXED


def test_G16_a_localizer_of_another_size_does_not_count() -> None:
    scout = ct_series(
        n=1, shape=(30, 30), edit=setting("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), seed=4
    )
    objects = ct_series(**SMALL)
    np.testing.assert_array_equal(read([*scout, *objects]).volume.hu, read(objects).volume.hu)


def test_G16_bits_stored_may_differ_from_slice_to_slice() -> None:
    edit = setting("BitsStored", 16, only=4)

    def consistent(ds: pydicom.Dataset, i: int) -> None:
        edit(ds, i)
        ds.HighBit = ds.BitsStored - 1

    np.testing.assert_array_equal(
        read(ct_series(edit=consistent, **SMALL)).volume.hu, read(ct_series(**SMALL)).volume.hu
    )


@pytest.mark.parametrize(
    "knobs", [{}, {"tilt_deg": 12.0}, {"syntax": "jpeg_ls"}], ids=["plain", "tilt", "jpeg_ls"]
)
def test_G17_an_enhanced_object_equals_its_slices_bit_for_bit(knobs: dict[str, Any]) -> None:
    classic = read(ct_series(**knobs, **SMALL))
    enhanced = read(ct_series(multi_frame=True, shuffle=6, **knobs, **SMALL))  # frames in any order
    np.testing.assert_array_equal(enhanced.volume.hu, classic.volume.hu)
    np.testing.assert_array_equal(enhanced.volume.geometry.affine, classic.volume.geometry.affine)
    assert enhanced.facts.geometry_fix == (*classic.facts.geometry_fix, "multi_frame")
    assert (enhanced.facts.instances_used, classic.facts.instances_used) == (1, 12)


@pytest.mark.parametrize("missing", ["PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"])
def test_G17_frames_without_places_are_refused(missing: str) -> None:
    assert reason_of(ct_series(multi_frame=True, edit=without(missing), **SMALL)) is Reason.GEOMETRY_INVALID


def test_G17_more_frames_than_places_are_refused() -> None:
    def fewer(ds: pydicom.Dataset, i: int) -> None:
        del ds.PerFrameFunctionalGroupsSequence[-1]

    reason, detail = refused(ct_series(multi_frame=True, edit=fewer, **SMALL))
    assert (reason, detail) == (Reason.GEOMETRY_INVALID, "places of 11 frames, expected 12")


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_G17_real_converted_objects_equal_the_slices_they_were_made_of(name: str) -> None:
    folder = shared_data(f"quirks/legacy_converted_enhanced_ct/{name}")
    tiny = Limits(min_extent_mm=0, check_hounsfield=False)  # three slices of zeros and ones
    whole, slices = read_folder(folder / "multiframe", tiny), read_folder(folder / "image", tiny)
    np.testing.assert_array_equal(whole.volume.hu, slices.volume.hu)
    np.testing.assert_array_equal(whole.volume.geometry.affine, slices.volume.geometry.affine)
    assert (whole.facts.geometry_fix, slices.facts.geometry_fix) == (("multi_frame",), ())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    spacing=st.tuples(*[st.floats(3.0, 8.0)] * 3),
    angles=st.tuples(st.floats(-math.pi, math.pi), st.floats(-0.5, 0.5)),
    lean=st.floats(-0.4, 0.4),
    way=st.sampled_from(WAYS),
)
def test_G27_masks_lie_on_the_source_grid_whatever_it_is(
    spacing: tuple[float, float, float],
    angles: tuple[float, float],
    lean: float,
    way: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    (a, b), order, signs = angles, *way
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1.0]])
    turn = turn @ np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    axes = turn @ np.array([[1, 0, 0], [0, 1, lean], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = (axes[:, order] * np.array(signs)) * np.array(spacing)
    shape = (18, 20, 22)
    middle = affine[:3, :3] @ (np.array(shape[::-1]) - 1) / 2
    affine[:3, 3] = -middle
    grid = Geometry(shape, affine)
    index = np.moveaxis(np.indices(shape), 0, -1)
    volume = Volume(anatomy_hu(grid.to_world_xyz_mm(index)), grid)
    found = segment_anatomy(volume)
    assert found.labels.shape == shape and set(np.unique(found.labels)) <= {0, *found.label_ids.values()}
    for row in structure_rows(volume, found, tuple(ORGANS)):
        if row.mask is None:
            continue
        np.testing.assert_array_equal(np.reshape(row.mask.affine, (4, 4)), affine)
        assert row.mask.shape_zyx == shape
        np.testing.assert_array_equal(decode_mask(row.mask), found.labels == found.label_ids[row.structure])
        assert row.voxels is not None and row.volume_ml == pytest.approx(
            row.voxels * abs(np.linalg.det(affine[:3, :3])) / 1000
        )


def test_G27_the_phantom_itself_lies_where_its_builder_says() -> None:
    knobs = anatomy_knobs(tilt_deg=10.0)
    series = read(ct_series(**knobs))
    index = np.moveaxis(np.indices(series.volume.hu.shape), 0, -1)
    places = series.volume.geometry.to_world_xyz_mm(index)
    np.testing.assert_allclose(places, places_xyz_mm(Knobs(**knobs)), atol=1e-4)
    assert (np.abs(series.volume.hu - np.maximum(anatomy_hu(places), -1024)) == 0).mean() > 0.999
