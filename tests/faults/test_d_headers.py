"""Faults D18-D24, D27: objects of another kind, copies and collisions, odd encodings, and UIDs that are none."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread

from ctsam3d.imaging.dicom import read_series
from ctsam3d.imaging.dicom_header import read_header
from ctsam3d.outcome import Reason, Rejected, Status
from pipelines import identity
from pipelines.cohort.discover import discover
from pipelines.store import Store
from tests.builders import ct_series, phantom_hu
from tests.faults.outcome import (
    Edit,
    Objects,
    corpus,
    patched,
    put,
    read,
    reason_of,
    refused,
    renamed,
    setting,
    together,
    told_nothing,
)

pytestmark = pytest.mark.usefixtures("nothing_told")

SMALL: dict[str, Any] = {"shape": (16, 18)}
MR, SECONDARY = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
CORPUS = sorted(
    file.name for file in Path(pydicom.__file__).parent.joinpath("data", "test_files").glob("*.dcm")
)


@pytest.mark.parametrize("modality", ["MR", "PT", "CR", "RTDOSE", ""])
def test_D18_another_modality_is_no_ct_whatever_its_class_says(source: Store, modality: str) -> None:
    objects = ct_series(edit=setting("Modality", modality), **SMALL)
    assert reason_of(objects) is Reason.NOT_CT
    put(source, objects)
    (ref,) = discover(source).manifest
    assert (ref.status, ref.reason) == (Status.REJECTED, "NOT_CT")


@pytest.mark.parametrize("sop_class", [MR, "1.2.840.10008.5.1.4.1.1.128"])
def test_D18_another_class_is_no_ct_image_whatever_its_modality_says(source: Store, sop_class: str) -> None:
    """PET-CT consoles send attenuation maps and fused images with the modality of their neighbours."""
    objects = ct_series(edit=setting("SOPClassUID", sop_class), **SMALL)
    assert reason_of(objects) is Reason.NOT_CT
    put(source, objects)
    (ref,) = discover(source).manifest
    assert (ref.status, ref.reason) == (Status.REJECTED, "NO_AXIAL_IMAGES")


@pytest.mark.parametrize("name", ["MR_small.dcm", "rtdose.dcm", "liver_1frame.dcm", "waveform_ecg.dcm"])
def test_D18_objects_of_the_corpus_that_are_no_ct(name: str) -> None:
    assert reason_of([(name, corpus(name))]) is Reason.NOT_CT


def capture(ds: Dataset, i: int) -> None:
    renamed("1.2.77")(ds, i)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY


def dose_report(ds: Dataset, i: int) -> None:
    renamed("1.2.78")(ds, i)
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE", "DOSE"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PixelData = ds.PixelData * 3


@pytest.mark.parametrize("edit", [capture, dose_report])
def test_D19_captures_and_reports_are_set_aside(source: Store, edit: Edit) -> None:
    objects, extra = ct_series(**SMALL), ct_series(n=2, edit=edit, **SMALL)
    series = read([*objects, *extra])
    np.testing.assert_array_equal(series.volume.hu, read(objects).volume.hu)
    assert series.facts.instances_set_aside == 2
    assert refused(extra) == (
        Reason.NO_AXIAL_IMAGES,
        "no CT slice among 2 objects: 2 NO_AXIAL_IMAGES",
    )


def test_D19_derived_planes_in_the_series_are_set_aside_by_their_orientation() -> None:
    def derived(ds: Dataset, i: int) -> None:
        renamed("1.2.79")(ds, i)
        ds.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED"]

    objects = ct_series(**SMALL)
    planes = ct_series(n=5, orientation=(1, 0, 0, 0, 0, -1), edit=derived, **SMALL)
    series = read([*planes, *objects])
    np.testing.assert_array_equal(series.volume.hu, read(objects).volume.hu)
    assert series.facts.instances_set_aside == 5


def test_D20_copies_are_dropped_and_counted(source: Store) -> None:
    objects = ct_series(**SMALL)
    thrice = [*objects, *objects[3:6], *objects]
    series = read(thrice)
    np.testing.assert_array_equal(series.volume.hu, read(objects).volume.hu)
    assert (series.facts.instances_used, series.facts.instances_set_aside) == (12, 15)


def test_D20_a_copy_whose_file_meta_an_archive_rewrote_is_a_copy() -> None:
    def stored_again(ds: Dataset, i: int) -> None:
        ds.file_meta.SourceApplicationEntityTitle = "CANARYARCHIVE"

    objects, again = ct_series(**SMALL), ct_series(edit=stored_again, **SMALL)
    assert objects[0][1] != again[0][1]
    assert read([*objects, *again]).facts.instances_set_aside == 12


@pytest.mark.parametrize("only", [0, 7])
def test_D21_one_instance_uid_on_two_different_objects_is_refused(only: int) -> None:
    objects = ct_series(**SMALL)
    other = ct_series(image_hu=phantom_hu((12, 16, 18), seed=9), **SMALL)[only]
    assert other[1] != objects[only][1]
    assert refused([*objects, other]) == (
        Reason.UID_COLLISION,
        "two different objects carry one instance UID",
    )


def test_D22_one_series_uid_under_two_studies_is_two_series_of_a_source(source: Store) -> None:
    other = ct_series(edit=together(renamed(), setting("StudyInstanceUID", "1.2.3")), **SMALL)
    assert refused([*ct_series(**SMALL), *other]) == (
        Reason.UID_COLLISION,
        "one series UID under several studies",
    )
    put(source, ct_series(**SMALL), "one")
    put(source, other, "two")
    refs = list(discover(source).manifest)
    assert [ref.status for ref in refs] == [Status.OK] * 2
    assert len({ref.series_key for ref in refs}) == 2
    assert len({ref.series_instance_uid for ref in refs}) == 1


def test_D22_the_same_uids_for_two_patients_meet_as_a_collision(source: Store) -> None:
    other = ct_series(image_hu=phantom_hu((12, 16, 18), seed=9), **SMALL)
    put(source, ct_series(**SMALL), "one")
    put(source, other, "two")
    (ref,) = discover(source).manifest
    assert len(ref.objects) == 24
    assert reason_of([*ct_series(**SMALL), *other]) is Reason.UID_COLLISION


@pytest.mark.parametrize("name", ["nested_priv_SQ.dcm", "priv_SQ.dcm", "UN_sequence.dcm", "badVR.dcm"])
@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_D23_elements_nobody_asked_for_change_nothing(name: str, syntax: str) -> None:
    odd = dcmread(io.BytesIO(corpus(name)))
    foreign = [
        element
        for element in odd.values()
        if element.tag.group % 2 or element.tag in (0x00081140, 0x00400555)
    ]

    def with_them(ds: Dataset, i: int) -> None:
        for element in foreign:
            ds[element.tag] = element
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87", "no such set"]

    objects = ct_series(syntax=syntax, edit=with_them, **SMALL)
    plain = ct_series(syntax=syntax, **SMALL)
    assert len(objects[0][1]) > len(plain[0][1])
    np.testing.assert_array_equal(read(objects).volume.hu, read(plain).volume.hu)


def test_D23_the_wrong_vr_on_an_element_nobody_asked_for_changes_nothing() -> None:
    name = b"\x10\x00\x10\x00PN"
    wrong = patched(ct_series(**SMALL), lambda data: data.replace(name, name[:4] + b"DA"))
    np.testing.assert_array_equal(read(wrong).volume.hu, read(ct_series(**SMALL)).volume.hu)


@pytest.mark.parametrize(
    ("tag", "vr", "reason"),
    [
        (0x00280030, b"FD", Reason.GEOMETRY_INVALID),  # PixelSpacing, 16 characters taken for two doubles
        (0x00200037, b"FL", Reason.GEOMETRY_INVALID),
        (0x00281053, b"US", Reason.RESCALE_INVALID),
        (0x00280010, b"FL", Reason.MALFORMED),  # Rows, two bytes that cannot be a float
    ],
)
def test_D23_the_wrong_vr_on_one_that_is_needed_is_refused(tag: int, vr: bytes, reason: Reason) -> None:
    head = tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2]
    wrong = patched(
        ct_series(**SMALL), lambda data: re.sub(re.escape(head) + rb"[A-Z]{2}", head + vr, data, count=1)
    )
    assert reason_of(wrong) is reason


@pytest.mark.parametrize("name", CORPUS)
def test_D23_every_object_of_the_corpus_ends_in_a_reason(name: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_series([(name, corpus(name))])
    told_nothing(caught.value)
    assert caught.value.reason is not Reason.TOO_LARGE


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian"])
def test_D24_every_byte_order_and_form_of_vr_is_read(syntax: str) -> None:
    one, other = ct_series(syntax=syntax, **SMALL), ct_series(**SMALL)
    assert (syntax == "explicit") == (one[0][1] == other[0][1])
    np.testing.assert_array_equal(read(one).volume.hu, read(other).volume.hu)


def test_D24_real_headers_of_every_byte_order_are_read() -> None:
    names = ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "ExplVR_BigEnd.dcm")
    headers = [read_header(corpus(name)) for name in names]
    sizes = [(header.rows, header.columns, header.modality) for header in headers if header is not None]
    assert sizes == [(64, 64, "MR")] * 3 + [(60, 80, "US")]


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"1.2.840.10008.1.2.9", Reason.TRANSFER_SYNTAX_UNSUPPORTED),
        (b"CANARYSYNTAX", Reason.TRANSFER_SYNTAX_UNSUPPORTED),
    ],
)
def test_D24_a_transfer_syntax_that_is_missing_or_unknown_is_refused(uid: bytes, reason: Reason) -> None:
    known = b"1.2.840.10008.1.2.1\0"
    objects = patched(ct_series(**SMALL), lambda data: data.replace(known, uid.ljust(len(known), b"\0")))
    assert reason_of(objects) is reason


def test_D24_a_real_object_without_a_transfer_syntax() -> None:
    assert reason_of([("x", corpus("meta_missing_tsyntax.dcm"))]) is Reason.MALFORMED


def test_D24_compressed_pixels_under_a_native_syntax_are_refused() -> None:
    def encapsulated(ds: Dataset, i: int) -> None:
        ds.PixelData = encapsulate([bytes(400)])
        ds["PixelData"].is_undefined_length = True

    assert reason_of(ct_series(edit=encapsulated, **SMALL)) is Reason.PIXEL_DATA_TRUNCATED


HOSTILE = [
    "../../../tmp/pwn",
    "..",
    ".",
    "/etc/passwd",
    "1.2.3\0.4",
    "1.2\\..\\3",
    "1" * 65,
    "1." + "2" * 4096,
    "ünïcode.1",
    "1.2.3 CANARY",
    "-1.2",
    "${jndi:ldap://1}",
]
ELEMENTS = {"StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E, "SOPInstanceUID": 0x00080018}


def with_uid(objects: Objects, tag: int, uid: bytes) -> Objects:
    """The objects with these very bytes as a UID, whatever its length."""
    head = tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2] + b"UI"
    padded = uid + b"\0" * (len(uid) % 2)

    def patch(data: bytes) -> bytes:
        at = data.index(head)
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        return data[: at + 6] + len(padded).to_bytes(2, "little") + padded + data[at + 8 + length :]

    return patched(objects, patch)


@pytest.mark.parametrize("keyword", ELEMENTS)
@pytest.mark.parametrize("hostile", HOSTILE, ids=[repr(text[:12]) for text in HOSTILE])
def test_D27_a_uid_of_anything_but_digits_and_dots_is_refused_and_not_repeated(
    source: Store, hostile: str, keyword: str
) -> None:
    objects = with_uid(ct_series(n=8, **SMALL), ELEMENTS[keyword], hostile.encode())
    put(source, objects)
    refs = list(discover(source).manifest)
    assert refs and {(ref.status, ref.reason) for ref in refs} == {(Status.REJECTED, "MALFORMED")}
    told_nothing(*refs)
    assert len(hostile) < 3 or hostile not in "".join(map(repr, refs))
    assert refused(objects)[0] is Reason.MALFORMED


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80))
def test_D27_whatever_a_uid_holds_names_are_safe_in_a_path(text: str) -> None:
    encoded = text.encode()[:64]
    data = with_uid(ct_series(n=1, **SMALL), ELEMENTS["SeriesInstanceUID"], encoded)[0][1]
    try:
        header = read_header(data)
    except Rejected as refusal:
        assert refusal.reason is Reason.MALFORMED
        # the words of ours that say no more than its length may be what it holds
        ours = re.fullmatch(r"a UID of \d+ characters is not digits in groups joined by dots", refusal.detail)
        assert ours or len(text) < 3 or text not in refusal.detail
    else:
        assert header is not None
        uid = header.series_instance_uid
        assert uid is None or set(uid) <= set("0123456789.")
        assert identity.is_key(identity.series_key("1.2", uid or ""))


def test_D27_an_empty_uid_is_a_missing_one_and_folders_tell_series_apart(source: Store) -> None:
    """Changed: accepted, not MALFORMED; anonymisers blank UIDs, and nothing is named by them."""
    objects = with_uid(ct_series(**SMALL), ELEMENTS["SeriesInstanceUID"], b"")
    put(source, objects, "one")
    put(source, objects, "two")
    refs = list(discover(source).manifest)
    assert Counter(ref.status for ref in refs) == {Status.OK: 2}
    assert len({ref.series_key for ref in refs}) == 2
    assert {ref.series_instance_uid for ref in refs} == {None}
