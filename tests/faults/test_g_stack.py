"""Faults G01-G08, G12, G13, G15: which slices make one stack, in which order, and how far apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.stacking import MAX_TILT_DEG
from ctsam3d.outcome import Reason
from tests.anatomy import anatomy_series, check_anatomy, measured_anatomy, segment_anatomy
from tests.builders import Knobs, ct_series, phantom_hu, places_xyz_mm
from tests.faults.outcome import (
    Edit,
    Objects,
    read,
    reason_of,
    refused,
    renamed,
    setting,
    shared_data,
)

SMALL: dict[str, Any] = {"shape": (16, 18)}
THIN_THEN_THICK = tuple(float(z) for z in (*np.arange(0, 60, 2.5), *np.arange(60, 121, 5.0)))


@pytest.mark.parametrize("dropped", range(1, 11))
def test_G01_any_missing_interior_slice_is_refused_not_stretched(dropped: int) -> None:
    objects = ct_series(drop=(dropped,), **SMALL)
    assert len(objects) == len(ct_series(**SMALL)) - 1
    assert refused(objects) == (Reason.SLICES_MISSING, "1 slices missing in 1 gaps of 10")
    assert read(ct_series(**SMALL)).facts.geometry_fix == ()


def test_G01_several_missing_slices_are_counted() -> None:
    reason, detail = refused(ct_series(n=24, drop=(4, 5, 12, 19), **SMALL))
    assert (reason, detail) == (Reason.SLICES_MISSING, "4 slices missing in 3 gaps of 19")


def test_G02_missing_end_slices_leave_a_shorter_stack_whose_organs_are_truncated() -> None:
    """Changed: accepted, not refused by a count of images in the header.

    Nothing in the positions tells a lost end from a scan that ended there, and the header's ImagesInAcquisition
    counts localizers and other reconstructions with it, where it is there at all: refusing by it would refuse whole
    scans. What was listed by discovery and is gone at loading fails the series (OBJECT_VANISHED); what was never
    there makes the organs at the new end `truncated`, their volumes lower bounds.
    """
    whole = measured_anatomy(read(anatomy_series()).volume)
    cut = read(anatomy_series(drop=tuple(range(17, 25))))
    assert cut.facts.slices == 17 and cut.facts.geometry_fix == ()
    measured = measured_anatomy(cut.volume)
    assert not whole["heart"].truncated_faces
    assert measured["heart"].truncated_faces == ("superior",)
    assert measured["heart"].volume_ml < 0.9 * whole["heart"].volume_ml


def test_G03_a_second_copy_of_a_slice_under_another_uid_is_dropped() -> None:
    objects = ct_series(**SMALL)
    twice = read([*objects, *ct_series(edit=renamed(), **SMALL)])
    np.testing.assert_array_equal(twice.volume.hu, read(objects).volume.hu)
    assert (twice.facts.instances_used, twice.facts.instances_set_aside) == (12, 12)


def test_G03_two_phases_in_one_series_are_refused() -> None:
    """Changed: refused as POSITIONS_DUPLICATED whatever might tell the stacks apart, never split.

    A series is one record and one row per structure. Which of two phases, energies or kernels a cohort wants is not for
    this system to choose, and AcquisitionNumber or ImageType separate them only with some vendors.
    """
    phases = []
    for number in (1, 2):

        def edit(ds: Dataset, i: int, number: int = number) -> None:
            renamed(f"1.2.{number}")(ds, i)
            ds.AcquisitionNumber = number

        hu = phantom_hu((12, 16, 18)).astype(int) + 60 * (number == 2)
        phases.append(ct_series(edit=edit, image_hu=hu, **SMALL))
    for phase in phases:
        read(phase)  # each alone is sound
    reason, detail = refused([*phases[0], *phases[1]])
    assert (reason, detail) == (Reason.POSITIONS_DUPLICATED, "two different slices at one position")


def moved(along_mm: Callable[[int], float]) -> Edit:
    def edit(ds: Dataset, i: int) -> None:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, round(z + along_mm(i), 6)]

    return edit


@pytest.mark.parametrize("tilt_deg", [0.0, 10.0])
@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("places", [THIN_THEN_THICK, tuple(120 - z for z in reversed(THIN_THEN_THICK))])
def test_G04_a_spacing_that_changes_is_evened_out_by_true_positions(
    places: tuple[float, ...], multi_frame: bool, tilt_deg: float
) -> None:
    """Changed: handled, where slices come in runs of one spacing each; see also the refusals below.

    Between neighbours at most 10 mm apart linear interpolation does what resampling to the model's grid does anyway.
    """
    knobs = {"n": len(places), "along_mm": places, "multi_frame": multi_frame, "tilt_deg": tilt_deg}
    series = read(anatomy_series(shuffle=3, **knobs))
    assert {round(b - a, 3) for a, b in pairwise(places)} == {2.5, 5.0}
    assert "uneven_spacing" in series.facts.geometry_fix
    assert (series.facts.slices, len(places)) == (49, 37)
    check_anatomy(measured_anatomy(series.volume))


def test_G04_masks_of_evened_slices_go_back_to_their_frames() -> None:
    knobs = {"n": len(THIN_THEN_THICK), "along_mm": THIN_THEN_THICK}
    objects = anatomy_series(**knobs)
    series = read(objects)
    frames = series.facts.frame_slices
    assert frames is not None and len(frames) == len(objects) and frames[-1] == series.facts.slices - 1
    for frame, (_, data) in zip(frames, objects, strict=True):
        image = pydicom.dcmread(io.BytesIO(data))
        place = series.volume.geometry.to_world_xyz_mm(np.array([frame, 0, 0]))
        np.testing.assert_allclose(place, image.ImagePositionPatient, atol=1e-6)
        stored = image.pixel_array.astype(int) + int(image.RescaleIntercept)
        np.testing.assert_array_equal(series.volume.hu[frame], np.maximum(stored, -1024))
    back = segment_anatomy(series.volume).labels[list(frames)]
    assert back.shape == (len(objects), 34, 40) and set(np.unique(back)) == set(range(7))


def test_G04_places_between_two_grids_are_interpolated_along_the_normal() -> None:
    places = (0.0, 2.0, 4.0, 6.0, 8.0, 11.0, 14.0, 17.0, 20.0, 23.0, 26.0)
    ramp = np.broadcast_to(np.array(places)[:, None, None] * 10, (11, 16, 18))
    series = read(ct_series(n=11, along_mm=places, image_hu=ramp, **SMALL))
    z = series.volume.geometry.to_world_xyz_mm(np.stack(np.indices((14, 1, 1)), -1).reshape(14, 3))[:, 2]
    np.testing.assert_allclose(series.volume.hu[:, 5, 5], (z - 100) * 10, atol=0.51)


def test_G04_jitter_within_the_tolerance_is_even() -> None:
    series = read(ct_series(edit=moved(lambda i: 0.0125 * (-1) ** i * 0.5), **SMALL))
    assert series.facts.geometry_fix == ()


@pytest.mark.parametrize(
    ("along_mm", "n"),
    [
        (lambda i: 0.25 * (-1) ** i, 12),  # jitter of a tenth: nobody scans so
        (lambda i: 1.1 * (i > 5), 12),  # one wide gap that is no multiple
        (lambda i: 1.1 * min(max(i - 5, 0), 2), 12),  # two of them
        (lambda i: 9.5 * max(i - 6, 0), 12),  # 12 mm apart: too far to fill
        (lambda i: 0.04 * i * i, 12),  # ever wider
    ],
)
def test_G04_other_uneven_spacing_is_refused(along_mm: Callable[[int], float], n: int) -> None:
    assert reason_of(ct_series(n=n, edit=moved(along_mm), **SMALL)) is Reason.SPACING_IRREGULAR


@pytest.mark.parametrize("degrees", [0.2, 5, 15, -20, 30])
def test_G05_a_tilted_gantry_gives_a_leaning_affine_and_true_volumes(degrees: float) -> None:
    """Changed: handled with the exact affine; nothing is resampled but on the way to the model's grid and back."""
    knobs = {"tilt_deg": degrees, "shape": (56, 40), "shuffle": 4}
    objects = anatomy_series(**knobs)
    series = read(objects)
    assert series.facts.geometry_fix == ("gantry_tilt",)
    affine = series.volume.geometry.affine
    lean = np.degrees(np.arctan2(affine[1, 2], affine[2, 2]))
    assert lean == pytest.approx(degrees, abs=1e-3)
    assert series.volume.geometry.voxel_volume_ml == pytest.approx(4.0 * 3.8 * 5.0 / 1000)
    check_anatomy(measured_anatomy(series.volume))


def test_G05_every_voxel_of_a_tilted_stack_is_where_the_header_puts_it() -> None:
    knobs = {"tilt_deg": 15.0, "orientation": (0.8, 0.6, 0.0, -0.6, 0.8, 0.0), **SMALL}
    series = read(ct_series(**knobs))
    index = np.moveaxis(np.indices(series.volume.hu.shape), 0, -1)
    np.testing.assert_allclose(
        series.volume.geometry.to_world_xyz_mm(index), places_xyz_mm(Knobs(**knobs)), atol=1e-4
    )


def test_G05_a_tilt_that_only_the_header_claims_is_no_tilt() -> None:
    series = read(ct_series(edit=setting("GantryDetectorTilt", "15"), **SMALL))
    assert series.facts.geometry_fix == ()
    np.testing.assert_array_equal(
        series.volume.geometry.affine, read(ct_series(**SMALL)).volume.geometry.affine
    )


def test_G05_a_lean_no_gantry_makes_is_refused() -> None:
    reason, detail = refused(ct_series(tilt_deg=MAX_TILT_DEG + 1, **SMALL))
    assert (reason, "36.00 degrees" in detail) == (Reason.GANTRY_TILT, True)

    def aside(ds: Dataset, i: int) -> None:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x + 0.3 * i, y, z]

    reason, detail = refused(ct_series(edit=aside, **SMALL))
    assert (reason, "not along their columns" in detail) == (Reason.GANTRY_TILT, True)


def test_G05_a_stack_that_is_not_straight_is_refused() -> None:
    def bent(ds: Dataset, i: int) -> None:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y + 0.05 * i * i, z]

    assert reason_of(ct_series(edit=bent, **SMALL)) is Reason.GEOMETRY_INVALID


def test_G05_the_tilted_head_phantom_lies_where_its_files_say() -> None:
    folder = shared_data("quirks/philips_head_phantom_tilt")
    series = read_folder(folder)
    assert series.facts.geometry_fix == ("gantry_tilt",)
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.glob("I*")]
    images = [image for image in images if "ImagePositionPatient" in image]
    assert len(images) == series.facts.slices > 20
    for image in images:
        first = series.volume.geometry.to_index_zyx(np.array(image.ImagePositionPatient, float))
        assert np.abs(first[1:]).max() < 0.05 and abs(first[0] - round(first[0])) < 0.02
    columns = series.volume.geometry.direction
    normal = np.cross(columns[:, 0], columns[:, 1])
    assert np.degrees(np.arccos(normal @ columns[:, 2])) == pytest.approx(18.5, abs=0.1)


def test_G06_a_localizer_in_the_series_changes_no_bit() -> None:
    for knobs in ({}, {"multi_frame": True}, {"tilt_deg": 15.0}):
        without, with_scout = ct_series(**knobs, **SMALL), ct_series(localizer=True, **knobs, **SMALL)
        assert len(with_scout) == len(without) + 1
        one, other = read(without), read(with_scout)
        np.testing.assert_array_equal(one.volume.hu, other.volume.hu)
        np.testing.assert_array_equal(one.volume.geometry.affine, other.volume.geometry.affine)
        assert other.facts.instances_set_aside == 1


def test_G06_a_scout_that_does_not_say_so_is_set_aside_by_its_orientation() -> None:
    def unlabelled(ds: Dataset, i: int) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        renamed("1.2.9")(ds, i)

    scout = ct_series(n=1, orientation=(0, 1, 0, 0, 0, -1), edit=unlabelled, **SMALL)
    objects = ct_series(**SMALL)
    series = read([*objects[:5], *scout, *objects[5:]])
    np.testing.assert_array_equal(series.volume.hu, read(objects).volume.hu)
    assert series.facts.instances_set_aside == 1


def test_G07_mixed_orientations_without_a_majority_are_refused() -> None:
    def both(coronal: int) -> Objects:
        other = ct_series(n=coronal, orientation=(1, 0, 0, 0, 0, -1), edit=renamed(), **SMALL)
        return [*ct_series(n=9, **SMALL), *other]

    assert refused(both(9)) == (
        Reason.ORIENTATION_MIXED,
        "orientations of [9, 9] slices, none the majority",
    )
    assert read(both(4)).facts.instances_set_aside == 4


def test_G08_an_orientation_that_differs_in_a_late_decimal_is_the_same() -> None:
    edit = setting("ImageOrientationPatient", [1, 1e-7, 0, 0, 1, 0], only=4)
    assert read(ct_series(edit=edit, **SMALL)).facts.instances_used == 12
    far = setting("ImageOrientationPatient", [0.9998, 0.02, 0, -0.02, 0.9998, 0], only=4)
    assert reason_of(ct_series(edit=far, **SMALL)) is Reason.SLICES_MISSING  # aside, and so missing


def test_G12_slices_go_by_position_whatever_instance_numbers_and_names_say() -> None:
    plain, shuffled = ct_series(**SMALL), ct_series(shuffle=11, **SMALL)
    numbers = [pydicom.dcmread(io.BytesIO(data)).InstanceNumber for _, data in shuffled]
    assert numbers != sorted(numbers) and [d for _, d in plain] != [d for _, d in shuffled]
    one, other = read(plain), read(shuffled)
    np.testing.assert_array_equal(one.volume.hu, other.volume.hu)
    np.testing.assert_array_equal(one.volume.geometry.affine, other.volume.geometry.affine)


@pytest.mark.parametrize("thickness", ["5", "0.5", "0", None])
def test_G13_spacing_comes_from_positions_never_from_thickness(thickness: str | None) -> None:
    series = read(ct_series(edit=setting("SliceThickness", thickness), **SMALL))
    assert series.facts.spacing_mm[2] == pytest.approx(2.5)
    assert series.facts.slice_thickness_mm == (None if thickness is None else float(thickness))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_G15_too_few_slices_or_too_thin_a_stack_is_refused(n: int) -> None:
    assert reason_of(ct_series(n=n, **SMALL)) is Reason.TOO_FEW_SLICES
    assert read(ct_series(n=8, **SMALL)).facts.slices == 8
