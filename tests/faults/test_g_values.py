"""Faults G18-G26: stored values to Hounsfield units, padding, implausible images, and what is measured of a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import dcmread

from ctsam3d.anatomy.measure import measure
from ctsam3d.imaging.volume import AIR_HU, Volume
from ctsam3d.network.checkpoint import load
from ctsam3d.outcome import Reason, Status
from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.patches import patch_around
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.segmenter import weights_path
from pipelines.cohort.measure import structure_rows
from pipelines.cohort.segment import segment
from pipelines.cohort.work import Work
from pipelines.reasons import Failure
from tests.anatomy import anatomy_series, segment_anatomy, true_volume_ml
from tests.builders import Knobs, ct_series, hu_of, outside_circle, phantom_hu
from tests.faults.outcome import patched, raw_value, read, reason_of, refused, setting, without
from tests.pipelines.outputs import series_ref

SMALL: dict[str, Any] = {"shape": (16, 18)}
SHAPE = (12, 16, 18)
JPEG_2000 = {"shape": (34, 36)}  # its encoder takes nothing smaller


@pytest.mark.parametrize(
    "missing", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",), ("RescaleSlope",)]
)
def test_G18_values_without_rescaling_are_refused(missing: tuple[str, ...]) -> None:
    assert reason_of(ct_series(edit=without(*missing), **SMALL)) is Reason.RESCALE_MISSING


@pytest.mark.parametrize(
    "edit",
    [
        setting("RescaleSlope", "0"),
        setting("RescaleSlope", "-1"),
        setting("RescaleSlope", "1e9", only=4),
        setting("RescaleIntercept", "1e9"),
        setting("RescaleType", "Z_EFF"),
    ],
)
def test_G19_rescaling_that_cannot_be_is_refused(edit: Callable[[Dataset, int], None]) -> None:
    assert reason_of(ct_series(edit=edit, **SMALL)) is Reason.RESCALE_INVALID


@pytest.mark.parametrize("value", [b"nan", b"inf", b"x"])
def test_G19_rescaling_that_is_no_number_is_refused(value: bytes) -> None:
    damaged = patched(ct_series(**SMALL), raw_value(0x00281053, "DS", value))
    assert reason_of(damaged) is Reason.RESCALE_INVALID


def test_G19_each_slice_is_rescaled_by_its_own_values() -> None:
    hu = phantom_hu(SHAPE)

    def own(ds: Dataset, i: int) -> None:
        ds.PixelData = (np.clip(hu[i], AIR_HU, None).astype(np.int64) + 1024 + 10 * i).astype("<u2").tobytes()
        ds.RescaleIntercept = -1024 - 10 * i

    np.testing.assert_array_equal(read(ct_series(edit=own, **SMALL)).volume.hu, np.maximum(hu, AIR_HU))


@pytest.mark.parametrize("syntax", ["explicit", "big_endian", "rle", "jpeg_ls", "jpeg_2000"])
@pytest.mark.parametrize("bits_stored", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_G20_signed_and_unsigned_values_of_12_and_16_bits(
    syntax: str, bits_stored: int, signed: bool
) -> None:
    knobs = {
        "signed": signed,
        "bits_stored": bits_stored,
        "intercept": 0.0 if signed else -1024.0,
        **JPEG_2000,
    }
    series = read(ct_series(syntax=syntax, **knobs))
    np.testing.assert_array_equal(series.volume.hu, np.maximum(hu_of(Knobs(**knobs)), AIR_HU))


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
@pytest.mark.parametrize("signed", [False, True])
def test_G20_dirty_high_bits_are_not_read(syntax: str, signed: bool) -> None:
    hu = phantom_hu(SHAPE)
    stored = np.clip(hu.astype(np.int64) + (0 if signed else 1024), -2048 if signed else 0, None)
    dirty = ((stored & 0x0FFF) | 0xA000).astype(np.uint16)
    values = dirty.view(np.int16).astype(np.int64) if signed else dirty.astype(np.int64)
    intercept = 0.0 if signed else -1024.0
    objects = ct_series(
        image_hu=values + intercept, intercept=intercept, signed=signed, syntax=syntax, **SMALL
    )
    assert (dirty >> 12 != 0).all()
    np.testing.assert_array_equal(read(objects).volume.hu, np.maximum(hu, AIR_HU))


def test_G20_a_real_stream_whose_sign_is_not_the_headers() -> None:
    """pydicom's J2K_pixelrep_mismatch: the header says signed, the stream holds unsigned words of 13 bits."""
    real = dcmread(str(get_testdata_file("J2K_pixelrep_mismatch.dcm")))
    stream = get_frame(real.PixelData, 0, number_of_frames=1)

    def edit(ds: Dataset, i: int) -> None:
        ds.PixelData = encapsulate([stream])
        ds.Rows, ds.Columns, ds.BitsStored, ds.HighBit = (
            real.Rows,
            real.Columns,
            real.BitsStored,
            real.HighBit,
        )
        ds.PixelRepresentation = real.PixelRepresentation
        ds.RescaleSlope, ds.RescaleIntercept = real.RescaleSlope, real.RescaleIntercept

    series = read(ct_series(n=8, syntax="jpeg_2000", edit=edit, signed=True, intercept=0.0, **JPEG_2000))
    theirs = real.pixel_array * int(real.RescaleSlope) + int(real.RescaleIntercept)
    assert real.PixelRepresentation == 1 and series.volume.hu.shape == (8, 512, 512)
    assert (theirs > AIR_HU).mean() > 0.4
    np.testing.assert_array_equal(series.volume.hu[0], np.maximum(theirs, AIR_HU))


@pytest.mark.parametrize(
    ("value", "signed", "bits", "declared"),
    [(-2000, True, 16, True), (-2000, True, 12, True), (-2048, True, 16, False), (63536, False, 12, True)],
)
def test_G21_padding_is_air_and_counts_in_no_statistic(
    value: int, signed: bool, bits: int, declared: bool
) -> None:
    knobs = {"signed": signed, "bits_stored": bits, "intercept": 0.0 if signed else -1024.0, **SMALL}
    padded = read(ct_series(padding_value=value, padding_declared=declared, **knobs)).volume
    ring = outside_circle(SHAPE[1:])
    assert padded.padding is not None and (padded.padding == ring).all()
    assert (padded.hu[padded.padding] == AIR_HU).all()
    whole = read(ct_series(**knobs)).volume
    everything = np.ones(SHAPE, np.uint8)
    one = measure(padded, everything, {"all": 1})["all"]
    inside = np.where(np.broadcast_to(ring, SHAPE), 0, 1).astype(np.uint8)
    other = measure(whole, inside, {"all": 1})["all"]
    assert (one.mean_hu, one.p05_hu) == (other.mean_hu, other.p05_hu)
    assert "field_of_view" in one.truncated_faces


def test_G21_padding_declared_with_the_wrong_vr_is_understood() -> None:
    def unsigned(ds: Dataset, i: int) -> None:
        ds.add_new(0x00280120, "US", 63536)  # -2000 in two's complement

    knobs = {"signed": True, "bits_stored": 16, "intercept": 0.0, **SMALL}
    volume = read(ct_series(padding_value=-2000, padding_declared=False, edit=unsigned, **knobs)).volume
    assert volume.padding is not None and (volume.padding == outside_circle(SHAPE[1:])).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "PALETTE COLOR", "RGB"])
def test_G22_other_photometric_interpretations_are_refused(photometric: str) -> None:
    edit = setting("PhotometricInterpretation", photometric)
    assert reason_of(ct_series(edit=edit, **SMALL)) is Reason.PHOTOMETRIC_UNSUPPORTED


@pytest.mark.parametrize(
    "hu",
    [
        np.full(SHAPE, 40),
        np.random.default_rng(0).integers(0, 40, SHAPE),
        phantom_hu(SHAPE).astype(int) + 1000,
        phantom_hu(SHAPE).astype(int) - 1000,
        np.full(SHAPE, -1000) + np.random.default_rng(0).integers(0, 300, SHAPE),
    ],
    ids=["constant", "narrow", "offset missing", "offset twice", "air alone"],
)
def test_G23_values_that_are_no_hounsfield_units_are_refused(hu: np.ndarray) -> None:
    assert reason_of(ct_series(image_hu=hu, **SMALL)) is Reason.HU_IMPLAUSIBLE
    read(ct_series(**SMALL))


def test_G24_metal_is_measured_as_stored_and_saturates_at_int16() -> None:
    hu = phantom_hu(SHAPE).astype(np.int64)
    hu[5, 8, 9], hu[5, 8, 10] = 30_000, 60_000
    volume = read(ct_series(image_hu=hu, bits_stored=16, **SMALL)).volume
    assert (volume.hu[5, 8, 9], volume.hu[5, 8, 10]) == (30_000, 32_767)
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 8, 8:11] = 1
    row = measure(volume, labels, {"metal": 1})["metal"]
    values = volume.hu[5, 8, 8:11].astype(np.float64)
    assert row.mean_hu == pytest.approx(values.mean()) and row.sd_hu == pytest.approx(values.std())


def test_G24_metal_does_not_wrap_in_large_masks() -> None:
    hu = np.full((40, 60, 60), 32_767, np.int16)
    volume = Volume(hu, read(ct_series(**SMALL)).volume.geometry.from_spacing(hu.shape, (1.0, 1.0, 1.0)))
    row = measure(volume, np.ones(hu.shape, np.uint8), {"metal": 1})["metal"]
    assert (row.mean_hu, row.sd_hu) == (32_767.0, 0.0)


def test_G25_absent_truncated_and_whole_are_told_apart_and_never_by_a_zero() -> None:
    """Changed: a structure not in the field of view has no volume (null), where a 0 could be taken for a measurement.

    `absent` says that it was looked for and is not there; `truncated` that its volume is a lower bound, with the faces
    it touches.
    """
    cut = read(anatomy_series(drop=tuple(range(17, 25)))).volume  # ends within heart and lungs
    found = segment_anatomy(cut, ("heart", "liver", "spleen"))
    emptied = StudySegmentation(
        np.where(found.labels == found.label_ids["spleen"], 0, found.labels).astype(np.uint8),
        {name: label for name, label in found.label_ids.items() if name != "spleen"},
        dict(found.findings) | {"spleen": Finding(Status.ABSENT)},
        {},
    )
    rows = {row.structure: row for row in structure_rows(cut, emptied, ("heart", "liver", "spleen"))}
    heart, liver, spleen = rows["heart"], rows["liver"], rows["spleen"]
    assert (heart.status, heart.truncated_faces) == (Status.TRUNCATED, ("superior",))
    assert heart.volume_ml is not None and 0 < heart.volume_ml < 0.9 * true_volume_ml("heart")
    assert (liver.status, liver.truncated_faces) == (Status.OK, ())
    values = (spleen.status, spleen.volume_ml, spleen.voxels, spleen.mean_hu, spleen.mask)
    assert values == (Status.ABSENT, None, None, None, None)


def test_G26_a_network_that_answers_with_nan_fails_the_series() -> None:
    model, _ = load(weights_path("nano"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[0] = float("nan")
    decoder = CubeDecoder(model.eval(), torch.device("cpu"), batch=1)

    class Broken:
        def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
            question = Question(patch_around("liver", (6, 8, 9)), (VoxelClick((6, 8, 9)),))
            decoder.answer(volume.hu, [question])
            raise AssertionError("a NaN got through")

    volume = read(ct_series(**SMALL)).volume
    work = Work(series_ref(1), "key", volume=volume)
    failed = segment(work, Broken(), ("liver",))
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.MODEL_NAN)
    assert failed.segmentation is None


def test_G23_the_refusal_tells_numbers_alone() -> None:
    reason, detail = refused(ct_series(image_hu=np.full(SHAPE, 40), **SMALL))
    assert (reason, detail) == (Reason.HU_IMPLAUSIBLE, "values span 0 HU, expected at least 50")
