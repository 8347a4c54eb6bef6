"""A DICOM series becomes the volume it was made from, however encoded, ordered and mixed with others."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from ctsam3d.imaging.dicom import Limits, header_facts, read_folder, read_series
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.outcome import Reason, Rejected
from tests.builders import CANARIES, SYNTAXES, Knobs, ct_series, hu_of, outside_circle, phantom_hu


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_gives_the_same_volume(syntax: str, multi_frame: bool) -> None:
    knobs = {"syntax": syntax, "multi_frame": multi_frame, "shuffle": 5}
    series = read_series(ct_series(**knobs))
    k = Knobs(**knobs)
    assert series.volume.hu.dtype == np.int16
    assert series.volume.padding is None
    np.testing.assert_array_equal(series.volume.hu, np.maximum(hu_of(k), AIR_HU))
    np.testing.assert_allclose(series.volume.geometry.affine, k.affine, atol=1e-9)


@pytest.mark.parametrize("syntax", ["explicit", "big_endian", "rle", "jpeg_ls", "jpeg_2000"])
@pytest.mark.parametrize("bits_stored", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_signed_and_unsigned_values_of_12_and_16_bits(syntax: str, bits_stored: int, signed: bool) -> None:
    knobs = {"signed": signed, "bits_stored": bits_stored, "intercept": 0.0 if signed else -1024.0}
    k = Knobs(**knobs)
    series = read_series(ct_series(syntax=syntax, **knobs))
    np.testing.assert_array_equal(series.volume.hu, np.maximum(hu_of(k), AIR_HU))


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
@pytest.mark.parametrize("signed", [False, True])
def test_unused_high_bits_are_ignored(syntax: str, signed: bool) -> None:
    hu = phantom_hu((12, 40, 48))
    stored = np.clip(hu.astype(np.int64) + (0 if signed else 1024), -2048 if signed else 0, None)
    dirty = ((stored & 0x0FFF) | 0xA000).astype(np.uint16)
    dirty = dirty.view(np.int16).astype(np.int64) if signed else dirty.astype(np.int64)
    intercept = 0.0 if signed else -1024.0
    objects = ct_series(image_hu=dirty + intercept, intercept=intercept, signed=signed, syntax=syntax)
    np.testing.assert_array_equal(read_series(objects).volume.hu, np.maximum(hu, AIR_HU))


def test_slices_are_ordered_by_position_not_by_instance_number_or_name() -> None:
    plain, shuffled = read_series(ct_series()), read_series(ct_series(shuffle=11))
    np.testing.assert_array_equal(plain.volume.hu, shuffled.volume.hu)
    np.testing.assert_array_equal(plain.volume.geometry.affine, shuffled.volume.geometry.affine)


@pytest.mark.parametrize(
    ("orientation", "code"),
    [
        ((1, 0, 0, 0, 1, 0), "LPS"),
        ((-1, 0, 0, 0, -1, 0), "RAS"),
        ((1, 0, 0, 0, 0, -1), "LIP"),
        ((0, 1, 0, 0, 0, -1), "PIR"),
        ((-1, 0, 0, 0, 1, 0), "RPI"),
        ((np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3), np.cos(0.3), 0), "LPS"),
    ],
)
def test_any_orientation_keeps_rows_and_columns_apart(orientation: tuple[float, ...], code: str) -> None:
    knobs = {"orientation": tuple(round(float(v), 9) for v in orientation)}
    series = read_series(ct_series(shuffle=2, **knobs))
    np.testing.assert_allclose(series.volume.geometry.affine, Knobs(**knobs).affine, atol=1e-5)
    np.testing.assert_allclose(series.facts.spacing_mm, (0.7, 0.9, 2.5), atol=1e-6)
    assert series.facts.orientation == code


def test_facts_of_the_header() -> None:
    facts = read_series(ct_series(localizer=True)).facts
    assert (facts.modality, facts.rows, facts.columns, facts.slices) == ("CT", 40, 48, 12)
    assert (facts.manufacturer, facts.kernel, facts.slice_thickness_mm, facts.kvp) == (
        "Builder",
        "B30f",
        5.0,
        120.0,
    )
    assert (facts.contrast, facts.lossy, facts.instances_used, facts.instances_set_aside) == (
        True,
        False,
        12,
        1,
    )


def test_lossy_compression_is_accepted_and_told() -> None:
    def lossy(ds: Dataset, i: int) -> None:
        ds.LossyImageCompression = "01"

    assert read_series(ct_series(edit=lossy)).facts.lossy


@pytest.mark.parametrize("multi_frame", [False, True])
def test_a_localizer_in_the_series_changes_nothing(multi_frame: bool) -> None:
    without = read_series(ct_series(multi_frame=multi_frame)).volume
    with_scout = read_series(ct_series(multi_frame=multi_frame, localizer=True)).volume
    np.testing.assert_array_equal(without.hu, with_scout.hu)
    np.testing.assert_array_equal(without.geometry.affine, with_scout.geometry.affine)


def test_a_slice_of_another_orientation_that_does_not_say_localizer_is_set_aside() -> None:
    objects = ct_series()
    odd = ct_series(
        orientation=(0, 1, 0, 0, 0, -1), seed=1, series_uid=_uid_of(objects), study_uid=_uid_of(objects, 1)
    )
    series = read_series([*objects, odd[4], odd[5]])
    np.testing.assert_array_equal(series.volume.hu, read_series(objects).volume.hu)
    assert series.facts.instances_set_aside == 2


def test_foreign_objects_are_set_aside_and_counted() -> None:
    def mr(ds: Dataset, i: int) -> None:
        ds.Modality = "MR"

    def capture(ds: Dataset, i: int) -> None:
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    def colour(ds: Dataset, i: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"

    objects = ct_series()
    foreign = [
        ct_series(edit=mr, seed=1)[0],
        ct_series(edit=capture, seed=2)[0],
        ct_series(edit=colour, seed=3)[0],
        ct_series(seed=4)[0],
        ("empty", b""),
        ("page.html", b"<html>" * 100),
    ]
    series = read_series([*foreign[:3], *objects, *foreign[3:]])
    np.testing.assert_array_equal(series.volume.hu, read_series(objects).volume.hu)
    assert (series.facts.instances_used, series.facts.instances_set_aside) == (12, 6)


def test_copies_are_dropped() -> None:
    objects = ct_series()
    series = read_series([*objects, *objects[3:5]])
    np.testing.assert_array_equal(series.volume.hu, read_series(objects).volume.hu)
    assert (series.facts.instances_used, series.facts.instances_set_aside) == (12, 2)


def test_equal_slices_under_other_instance_uids_are_dropped() -> None:
    def other_uid(ds: Dataset, i: int) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i}"

    objects = ct_series()
    again = ct_series(edit=other_uid)
    series = read_series([*objects, *again])
    np.testing.assert_array_equal(series.volume.hu, read_series(objects).volume.hu)
    assert (series.facts.instances_used, series.facts.instances_set_aside) == (12, 12)


def test_rescaling_is_taken_from_each_slice() -> None:
    hu = phantom_hu((12, 40, 48))

    def edit(ds: Dataset, i: int) -> None:
        stored = np.clip(hu[i], AIR_HU, None).astype(np.int64) + 1024 + 10 * i
        ds.PixelData = stored.astype("<u2").tobytes()
        ds.RescaleIntercept = -1024 - 10 * i

    np.testing.assert_array_equal(read_series(ct_series(edit=edit)).volume.hu, np.maximum(hu, AIR_HU))


def test_fractional_rescaling_gives_float32() -> None:
    hu = 2 * phantom_hu((12, 40, 48)).astype(np.float64) / 4
    series = read_series(ct_series(image_hu=hu, slope=0.5))
    assert series.volume.hu.dtype == np.float32
    np.testing.assert_allclose(series.volume.hu, hu)


def test_values_beyond_int16_saturate() -> None:
    hu = phantom_hu((12, 40, 48)).astype(np.int64)
    hu[3, 20, 24] = 60000
    assert read_series(ct_series(image_hu=hu, bits_stored=16)).volume.hu[3, 20, 24] == 32767


@pytest.mark.parametrize(
    ("value", "signed", "bits", "intercept", "declared"),
    [
        (-2000, True, 16, 0.0, True),
        (-2000, True, 12, 0.0, True),
        (-2048, True, 16, 0.0, False),
        (-3024, True, 16, 0.0, False),
        (63536, False, 12, -1024.0, True),
        (0, False, 12, -1024.0, True),
    ],
)
def test_padding_becomes_air_and_is_marked(
    value: int, signed: bool, bits: int, intercept: float, declared: bool
) -> None:
    knobs = {"signed": signed, "bits_stored": bits, "intercept": intercept}
    volume = read_series(ct_series(padding_value=value, padding_declared=declared, **knobs)).volume
    ring = outside_circle((40, 48))
    assert volume.padding is not None
    assert volume.padding.all(axis=0)[ring].all()
    assert not volume.padding[:, ~ring].any()
    assert (volume.hu[:, ring] == AIR_HU).all()
    inside = np.maximum(hu_of(Knobs(**knobs)), AIR_HU)[:, ~ring]
    np.testing.assert_array_equal(volume.hu[:, ~ring], inside)


def test_padding_declared_with_the_wrong_vr_is_understood() -> None:
    def unsigned(ds: Dataset, i: int) -> None:
        ds.add_new(0x00280120, "US", 63536)  # -2000 in two's complement

    volume = read_series(
        ct_series(
            padding_value=-2000,
            padding_declared=False,
            signed=True,
            bits_stored=16,
            intercept=0,
            edit=unsigned,
        )
    ).volume
    assert volume.padding is not None
    np.testing.assert_array_equal(volume.padding[0], outside_circle((40, 48)))


def test_padding_range_is_respected_and_air_inside_the_body_stays() -> None:
    hu = np.maximum(phantom_hu((12, 40, 48)), -1000)
    hu[:, 20, 24:27] = AIR_HU  # gas that stores the padding value
    hu[:, 0, :] = -1023
    hu[:, :, 0] = AIR_HU

    def declare(ds: Dataset, i: int) -> None:
        ds.add_new(0x00280120, "US", 0)
        ds.add_new(0x00280121, "US", 1)

    volume = read_series(ct_series(image_hu=hu, edit=declare)).volume
    expected = np.zeros((40, 48), dtype=bool)
    expected[0, :] = expected[:, 0] = True
    assert volume.padding is not None
    np.testing.assert_array_equal(volume.padding[5], expected)


def test_dark_streaks_inside_the_body_are_not_padding() -> None:
    hu = phantom_hu((12, 40, 48))
    hu[4, 18:21, 20] = -2500
    volume = read_series(ct_series(image_hu=hu, signed=True, bits_stored=16, intercept=0)).volume
    assert volume.padding is None
    assert volume.hu[4, 19, 20] == AIR_HU


def test_a_folder_with_its_one_series(tmp_path: Path) -> None:
    objects = ct_series(localizer=True)
    for name, data in [*objects, ("LICENSE.txt", b"text")]:
        (tmp_path / name).write_bytes(data)
    series = read_folder(tmp_path)
    np.testing.assert_array_equal(series.volume.hu, read_series(objects).volume.hu)
    for name, data in ct_series(seed=9):
        (tmp_path / f"second-{name}").write_bytes(data)
    with pytest.raises(ValueError, match="2 CT series"):
        read_folder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        read_folder(tmp_path)
    assert caught.value.reason is Reason.EMPTY_OBJECT


def test_the_peak_of_memory_stays_near_one_volume() -> None:
    hu = np.broadcast_to(phantom_hu((1, 256, 256)), (40, 256, 256))
    objects = ct_series(n=40, shape=(256, 256), image_hu=hu, syntax="explicit")
    volume_bytes = 40 * 256 * 256 * 2

    def take() -> object:
        while objects:
            yield objects.pop()

    tracemalloc.start()
    try:
        volume = read_series(take()).volume  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.hu.nbytes == volume_bytes
    # The objects came before tracing began: this is the volume, one slice's work and the sample checked.
    assert peak < volume_bytes + 3_000_000


def test_nothing_of_the_person_reaches_errors_warnings_or_logs(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    def bad_number(ds: Dataset, i: int) -> None:
        ds.add_new(0x00280030, "LO", "CANARYSPACING")

    def bad_pixels(ds: Dataset, i: int) -> None:
        ds.PixelData = encapsulate([b"CANARYPIXELDATA!"])

    good = ct_series(series_uid="1.2.3.4.5.6.7.8.9")
    bad_uid = [(name, data.replace(b"1.2.3.4.5.6.7.8.9", b"CANARYUID.7.8.9.0")) for name, data in good]
    faults = [bad_uid, ct_series(edit=bad_number), ct_series(edit=bad_pixels, syntax="jpeg_2000")]
    caplog.clear()
    recwarn.clear()
    texts = []
    with caplog.at_level(logging.DEBUG):
        for objects in faults:
            with pytest.raises(Rejected) as caught:
                read_series(objects)
            texts.append(str(caught.value))
        read_series(good)
    captured = capfd.readouterr()
    assert len(texts) == 3
    assert not caplog.records
    assert not recwarn.list
    for canary in [*CANARIES.values(), "CANARY"]:
        assert canary not in "".join([*texts, captured.out, captured.err])


def test_limits_are_checked_before_anything_is_decoded() -> None:
    with pytest.raises(Rejected) as caught:
        read_series(ct_series(), Limits(max_object_bytes=1000))
    assert caught.value.reason is Reason.TOO_LARGE

    def huge(ds: Dataset, i: int) -> None:
        ds.Rows = ds.Columns = 65535

    tracemalloc.start()
    try:
        with pytest.raises(Rejected) as caught:
            read_series(ct_series(edit=huge, syntax="rle"))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.TOO_LARGE


def _uid_of(objects: list[tuple[str, bytes]], level: int = 0) -> str:
    facts = header_facts(objects[0][1], complete=True)
    assert facts is not None
    uid = facts.study_instance_uid if level else facts.series_instance_uid
    assert uid is not None
    return uid
