"""Series that must not become a volume are refused, each with its own reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from ctsam3d.imaging.dicom import read_series
from ctsam3d.outcome import Reason, Rejected
from tests.builders import ct_series, phantom_hu
from tests.faults.outcome import Objects, raw_value, reason_of, setting, without


def test_empty_objects() -> None:
    assert reason_of([]) is Reason.EMPTY_OBJECT
    assert reason_of([("a", b""), ("b", b"")]) is Reason.EMPTY_OBJECT
    assert reason_of([*ct_series()[:2], ("c", b"")]) is Reason.EMPTY_OBJECT
    interior = ct_series()
    interior[4] = ("empty", b"")
    assert reason_of(interior) is Reason.SLICES_MISSING


@pytest.mark.parametrize(
    "data", [os.urandom(4096), b"%PDF-1.7" + b" " * 4000, b"PK\x03\x04" * 100, b"<html>"]
)
def test_not_dicom(data: bytes) -> None:
    assert reason_of([("x.dcm", data)]) is Reason.NOT_DICOM


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian", "rle", "jpeg_ls", "jpeg_2000"])
def test_truncated_pixels(syntax: str, multi_frame: bool) -> None:
    objects = ct_series(syntax=syntax, multi_frame=multi_frame)
    name, data = objects[-1]
    objects[-1] = (name, data[:-300])
    assert reason_of(objects) is Reason.PIXEL_DATA_TRUNCATED


def test_truncated_header_wherever_it_is_cut() -> None:
    objects = ct_series()
    name, data = objects[5]
    pixels = data.index(b"\xe0\x7f\x10\x00OW")
    last_needed = data.index(b"\x28\x00\x01\x01US")
    for cut in [140, 200, 420, *range(450, pixels, 37)]:
        objects[5] = (name, data[:cut])
        found = reason_of(objects)
        # Between the last element that is needed and the pixels, only the pixels are missing.
        assert found in (Reason.HEADER_TRUNCATED, Reason.NO_PIXEL_DATA), cut
        assert found is Reason.HEADER_TRUNCATED or cut > last_needed, cut


def test_an_element_longer_than_the_object() -> None:
    objects = ct_series(syntax="implicit")
    name, data = objects[2]
    at = data.index(b"\x28\x00\x30\x00")
    objects[2] = (name, data[: at + 4] + b"\xf0\xff\xff\xff" + data[at + 8 :])
    assert reason_of(objects) is Reason.HEADER_TRUNCATED


def test_sequences_nested_too_deeply() -> None:
    item = b"\x40\x00\x70\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    name, data = ct_series()[0]
    at = data.index(b"\x28\x00\x02\x00US")
    deep = data[:at] + item * 5000
    assert reason_of([(name, deep)]) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (without("PixelData"), Reason.NO_PIXEL_DATA),
        (setting("Modality", "MR"), Reason.NOT_CT),
        (setting("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"), Reason.NOT_CT),
        (setting("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), Reason.NO_AXIAL_IMAGES),
        (setting("SamplesPerPixel", 3), Reason.NO_AXIAL_IMAGES),
        (setting("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.LOCALIZER),
        (setting("PhotometricInterpretation", "MONOCHROME1"), Reason.PHOTOMETRIC_UNSUPPORTED),
        (without("RescaleSlope", "RescaleIntercept"), Reason.RESCALE_MISSING),
        (without("RescaleIntercept"), Reason.RESCALE_MISSING),
        (setting("RescaleSlope", "0"), Reason.RESCALE_INVALID),
        (setting("RescaleSlope", "-1"), Reason.RESCALE_INVALID),
        (setting("RescaleType", "Z_EFF"), Reason.RESCALE_INVALID),
        (setting("PixelSpacing", [0, 0]), Reason.GEOMETRY_INVALID),
        (setting("PixelSpacing", [-0.7, 0.7]), Reason.GEOMETRY_INVALID),
        (setting("PixelSpacing", [1e6, 1e6]), Reason.GEOMETRY_INVALID),
        (without("PixelSpacing"), Reason.GEOMETRY_INVALID),
        (without("ImagePositionPatient"), Reason.GEOMETRY_INVALID),
        (without("ImageOrientationPatient"), Reason.GEOMETRY_INVALID),
        (setting("ImageOrientationPatient", [0, 0, 0, 0, 1, 0]), Reason.GEOMETRY_INVALID),
        (setting("ImageOrientationPatient", [1, 0, 0, 0.1, 0.995, 0]), Reason.GEOMETRY_INVALID),
        (setting("ImageOrientationPatient", [1.01, 0, 0, 0, 1, 0]), Reason.GEOMETRY_INVALID),
        (setting("PixelSpacing", [0.8, 0.7], only=3), Reason.SHAPE_MIXED),
        (setting("BitsStored", 17), Reason.MALFORMED),
        (setting("HighBit", 15), Reason.MALFORMED),
        (without("Rows"), Reason.MALFORMED),
        (setting("NumberOfFrames", 4), Reason.GEOMETRY_INVALID),
        (setting("NumberOfFrames", 2**31 - 1), Reason.TOO_LARGE),
    ],
)
def test_header_faults(edit: Callable[[Dataset, int], None], reason: Reason) -> None:
    assert reason_of(ct_series(edit=edit)) is reason


@pytest.mark.parametrize("value", [b"nan\\1", b"inf\\1", b"1e999\\1", b"what\\1", b"0.7"])
def test_pixel_spacing_that_is_no_number(value: bytes) -> None:
    patch = raw_value(0x00280030, "DS", value)
    assert reason_of([(name, patch(data)) for name, data in ct_series()]) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("value", [b"nan", b"inf", b"x"])
def test_rescale_slope_that_is_no_number(value: bytes) -> None:
    patch = raw_value(0x00281053, "DS", value)
    assert reason_of([(name, patch(data)) for name, data in ct_series()]) is Reason.RESCALE_INVALID


BAD_UIDS = ["../../../tmp/pwn", "1.2.3\0.4", "1" * 65, "ünïcode", "1.2/3"]


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")  # the builder writes it
@pytest.mark.parametrize("uid", BAD_UIDS, ids=["path", "null", "long", "letters", "slash"])
def test_uids_of_anything_but_digits_and_dots(uid: str) -> None:
    patch = raw_value(0x0020000E, "UI", uid.encode("latin-1"))
    long = "1." + "2" * 66
    objects = ct_series(series_uid=long) if len(uid) > 64 else ct_series()
    assert reason_of([(name, patch(data)) for name, data in objects]) is Reason.MALFORMED


def test_blank_uids_as_some_anonymisers_leave_them_are_read_as_missing() -> None:
    def blank(ds: Dataset, i: int) -> None:
        ds.StudyInstanceUID = ds.SeriesInstanceUID = ds.SOPInstanceUID = ds.SOPClassUID = ""

    facts = read_series(ct_series(edit=blank)).facts
    assert (facts.study_instance_uid, facts.series_instance_uid, facts.slices) == (None, None, 12)


def test_missing_and_unread_transfer_syntaxes() -> None:
    objects = ct_series()
    ends = b"1.2.840.10008.1.2.1\0"

    def with_syntax(uid: bytes) -> Objects:
        return [(name, data.replace(ends, uid.ljust(len(ends), b"\0"))) for name, data in objects]

    assert reason_of(with_syntax(b"")) is Reason.MALFORMED
    assert (
        reason_of(with_syntax(b"1.2.840.10008.1.2.1.99"[: len(ends)])) is Reason.TRANSFER_SYNTAX_UNSUPPORTED
    )


@pytest.mark.parametrize("syntax", ["jpeg_ls", "jpeg_2000", "rle", "jpeg_lossless"])
def test_streams_that_do_not_decode(syntax: str) -> None:
    def garbage(ds: Dataset, i: int) -> None:
        ds.PixelData = encapsulate([bytes(range(256)) * 4])

    assert reason_of(ct_series(syntax=syntax, edit=garbage)) is Reason.PIXEL_DECODE


def test_a_stream_of_another_size_than_the_header_says() -> None:
    small = ct_series(shape=(20, 24), syntax="jpeg_ls")

    def larger(ds: Dataset, i: int) -> None:
        ds.Rows, ds.Columns = 40, 48

    assert len(small) == 12
    assert reason_of(ct_series(shape=(20, 24), syntax="jpeg_ls", edit=larger)) is Reason.PIXEL_DECODE


def test_one_instance_uid_on_two_different_objects() -> None:
    objects = ct_series()
    assert reason_of([*objects, ct_series(image_hu=phantom_hu((12, 40, 48), 5))[3]]) is Reason.UID_COLLISION


def test_one_series_uid_under_two_studies() -> None:
    def renamed(ds: Dataset, i: int) -> None:
        ds.StudyInstanceUID, ds.SOPInstanceUID = "1.2.3", f"1.2.3.{i}"

    assert reason_of([*ct_series(), *ct_series(edit=renamed)]) is Reason.UID_COLLISION


def test_two_different_slices_at_one_position() -> None:
    def renamed(ds: Dataset, i: int) -> None:
        ds.SOPInstanceUID = f"1.2.3.{i}"

    second = ct_series(image_hu=phantom_hu((12, 40, 48), 5), edit=renamed)
    assert reason_of([*ct_series(), *second]) is Reason.POSITIONS_DUPLICATED


@pytest.mark.parametrize("dropped", range(1, 11))
def test_any_one_missing_interior_slice_is_found(dropped: int) -> None:
    assert reason_of(ct_series(drop=(dropped,))) is Reason.SLICES_MISSING


def test_several_missing_slices() -> None:
    assert reason_of(ct_series(n=20, drop=(4, 5, 11))) is Reason.SLICES_MISSING


def moved(along_mm: float = 0.0, aside_mm: float = 0.0, seed: int = 0) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, i: int) -> None:
        rng = np.random.default_rng([seed, i])
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [
            round(x + aside_mm * rng.choice([-1, 1]), 6),
            y,
            round(z + along_mm * rng.choice([-1, 1]), 6),
        ]

    return edit


def test_jitter_of_positions() -> None:
    read_series(ct_series(edit=moved(along_mm=0.25 * 0.025)))
    assert reason_of(ct_series(edit=moved(along_mm=0.25))) is Reason.SPACING_IRREGULAR
    assert reason_of(ct_series(edit=moved(aside_mm=0.5))) in (Reason.GEOMETRY_INVALID, Reason.GANTRY_TILT)


def test_an_orientation_that_differs_in_the_seventh_decimal_is_the_same() -> None:
    assert read_series(
        ct_series(edit=setting("ImageOrientationPatient", [1, 1e-7, 0, 0, 1, 0], only=2))
    ).facts.slices


def _together(one: Objects, **other: Any) -> Objects:
    """A second series under the first one's UIDs."""

    def renamed(ds: Dataset, i: int) -> None:
        ds.SOPInstanceUID = f"1.2.3.{i}"

    return [*one, *ct_series(edit=renamed, **other)]


def test_two_orientations_without_a_majority() -> None:
    assert reason_of(_together(ct_series(), orientation=(1, 0, 0, 0, 0, -1))) is Reason.ORIENTATION_MIXED


def test_two_sizes_in_one_orientation() -> None:
    assert reason_of(_together(ct_series(), shape=(32, 32), n=5)) is Reason.SHAPE_MIXED


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_too_few_slices_or_too_thin_a_stack(n: int) -> None:
    assert reason_of(ct_series(n=n)) is Reason.TOO_FEW_SLICES


def test_eight_slices_of_two_and_a_half_millimetres_are_enough() -> None:
    assert read_series(ct_series(n=8)).facts.slices == 8


def test_enhanced_object_without_places_of_its_frames() -> None:
    objects = ct_series(multi_frame=True, edit=without("PerFrameFunctionalGroupsSequence"))
    assert reason_of(objects) is Reason.GEOMETRY_INVALID
    shared_only = ct_series(multi_frame=True, edit=without("SharedFunctionalGroupsSequence"))
    assert reason_of(shared_only) is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize(
    "hu",
    [
        np.full((12, 40, 48), 40),
        np.random.default_rng(0).integers(0, 40, (12, 40, 48)),
        phantom_hu((12, 40, 48)).astype(int) + 1000,
        phantom_hu((12, 40, 48)).astype(int) - 1000,
        np.full((12, 40, 48), -1000) + np.random.default_rng(0).integers(0, 300, (12, 40, 48)),
    ],
    ids=["constant", "narrow", "offset missing", "offset twice", "air alone"],
)
def test_values_that_are_no_hounsfield_units(hu: np.ndarray) -> None:
    assert reason_of(ct_series(image_hu=hu)) is Reason.HU_IMPLAUSIBLE


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle", "jpeg_ls", "jpeg_2000", "jpeg_lossless"])
def test_random_damage_ends_in_a_volume_or_a_reason(syntax: str, multi_frame: bool) -> None:
    rng = np.random.default_rng(len(syntax) + multi_frame)
    good = ct_series(n=8, syntax=syntax, multi_frame=multi_frame, padding_value=0)
    refused = 0
    for _ in range(60):
        objects = list(good)
        at = int(rng.integers(len(objects)))
        name, data = objects[at]
        damaged = bytearray(data)
        for place in rng.integers(128, len(data), size=4):
            damaged[place] = rng.integers(256)
        objects[at] = (name, bytes(damaged))
        try:
            read_series(objects)
        except Rejected:
            refused += 1
    assert refused > 5
