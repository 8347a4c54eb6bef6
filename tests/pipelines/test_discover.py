"""What discovery makes of a source: series kept, refused, damaged, blank and hostile, on disk and on S3."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Status
from pipelines.cohort.discover import Discovery, EmptySource, discover
from pipelines.manifest import Manifest, ManifestDamaged, SeriesRef
from pipelines.store import Store, open_store
from tests.builders import CANARIES, SYNTAXES, ct_series
from tests.pipelines.dicom_objects import ct_object, uid
from tests.s3_server import S3Server

STUDY, SERIES = uid(1), uid(1, 1)


@pytest.fixture
def source(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "source"), create=True)


def put_series(
    store: Store, folder: str, study: str | None, series: str | None, n: int = 10, **changes: object
) -> None:
    for i in range(n):
        store.put(f"{folder}/{i:04d}.dcm", ct_object(study, series, i, **changes))


def by_reason(found: Discovery) -> dict[str | None, SeriesRef]:
    refs = {ref.reason: ref for ref in found.manifest}
    assert len(refs) == len(found.manifest)
    return refs


def test_a_series_is_one_row_with_its_objects_and_facts(source: Store) -> None:
    put_series(source, "a/b", STUDY, SERIES)
    (ref,) = discover(source).manifest
    assert (ref.status, ref.reason) == (Status.OK, None)
    assert (ref.study_instance_uid, ref.series_instance_uid) == (STUDY, SERIES)
    assert [o.key for o in ref.objects] == [f"a/b/{i:04d}.dcm" for i in range(10)]
    assert {(o.key, o.size, o.etag) for o in ref.objects} == {(o.key, o.size, o.etag) for o in source.list()}
    assert (ref.image_count, ref.rows, ref.columns, ref.modality) == (10, 12, 16, "CT")
    assert (ref.manufacturer, ref.kvp, ref.slice_thickness, ref.lossy) == ("Builder", 120.0, 2.5, False)


def test_a_mixed_source_loses_nothing(source: Store) -> None:
    put_series(source, "ct", STUDY, SERIES)
    source.put("ct/scout.dcm", ct_object(STUDY, SERIES, 99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    put_series(source, "scouts", STUDY, uid(1, 2), 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    put_series(source, "mr", STUDY, uid(1, 3), Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    put_series(source, "short", STUDY, uid(1, 4), 2)
    put_series(source, "capture", STUDY, uid(1, 5), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    put_series(source, "blind", STUDY, uid(1, 6), PixelData=None)
    source.put("damaged/empty.dcm", b"")
    source.put("damaged/page.dcm", b"<html>" * 100)
    source.put("damaged/page2.DCM", b"<html>" * 100)
    source.put("damaged/cut.dcm", ct_object(STUDY, SERIES, 1)[:420])
    source.put("ct/LICENSE.txt", b"words")
    source.put("ct/nothing", b"")
    source.put(
        "DICOMDIR", ct_object(None, None, 1, SOPClassUID="1.2.840.10008.1.3.10", Rows=None, PixelData=None)
    )
    found = discover(source)
    refs = by_reason(found)
    assert {reason: (len(ref.objects), ref.image_count) for reason, ref in refs.items()} == {
        None: (11, 10),
        "LOCALIZER": (2, 0),
        "NOT_CT": (10, 0),
        "TOO_FEW_SLICES": (2, 2),
        "NO_AXIAL_IMAGES": (10, 0),
        "NO_PIXEL_DATA": (10, 0),
        "EMPTY_OBJECT": (1, 0),
        "NOT_DICOM": (2, 0),
        "HEADER_TRUNCATED": (1, 0),
    }
    assert all(ref.status is Status.REJECTED for reason, ref in refs.items() if reason)
    assert refs["NOT_DICOM"].series_instance_uid is None
    assert found.skipped == 3
    assert found.listed == found.skipped + sum(len(ref.objects) for ref in refs.values())


def test_the_same_series_uid_under_two_studies_is_two_series(source: Store) -> None:
    put_series(source, "one", uid(1), SERIES)
    put_series(source, "two", uid(2), SERIES)
    refs = list(discover(source).manifest)
    assert {ref.study_instance_uid for ref in refs} == {uid(1), uid(2)}
    assert len({ref.series_key for ref in refs}) == 2


def test_a_series_spread_over_folders_is_one_series(source: Store) -> None:
    for i in range(10):
        source.put(f"folder{i}/image", ct_object(STUDY, SERIES, i))
    (ref,) = discover(source).manifest
    assert len(ref.objects) == 10 and ref.status is Status.OK


def test_blank_uids_leave_the_folder_to_tell_series_apart(source: Store) -> None:
    put_series(source, "one", None, None)
    put_series(source, "two", None, None)
    refs = list(discover(source).manifest)
    assert len(refs) == 2
    assert all(ref.status is Status.OK and ref.series_instance_uid is None for ref in refs)


@pytest.mark.parametrize(
    "hostile", ["../../../tmp/pwn", "..", ".", "1..2", "1.2/3", "CANARY", "1." + "2" * 80]
)
def test_a_uid_that_is_none_is_refused_and_goes_nowhere(source: Store, hostile: str) -> None:
    data = ct_object(STUDY, "1.2.3.4.5.6.7", 1)
    padded = hostile.encode().ljust(14 + len(hostile) % 2, b"\0")
    # Explicit VR: tag, "UI", a length of two bytes, the value padded to even length.
    old = b"\x20\x00\x0e\x00UI" + (14).to_bytes(2, "little") + b"1.2.3.4.5.6.7\0"
    new = b"\x20\x00\x0e\x00UI" + len(padded).to_bytes(2, "little") + padded
    assert data.count(old) == 1
    source.put("x/1.dcm", data.replace(old, new))
    (ref,) = discover(source).manifest
    assert (ref.status, ref.reason, ref.series_instance_uid) == (Status.REJECTED, "MALFORMED", None)
    assert "CANARY" not in str(ref)


def test_a_header_longer_than_the_first_read_is_read_on(source: Store) -> None:
    # A private element before the group of the image's size pushes that past 64 KiB.
    for i in range(3):
        data = ct_object(STUDY, SERIES, i)
        at = data.index(b"\x20\x00\x32\x00DS")
        private = b"\x19\x00\x10\x10OB\0\0" + (200_000).to_bytes(4, "little") + bytes(200_000)
        at = data.index(b"\x20\x00\x0d\x00UI")
        source.put(f"{i}.dcm", data[:at] + private + data[at:])
    found = discover(source)
    (ref,) = found.manifest
    assert (ref.status, ref.rows, ref.series_instance_uid) == (Status.OK, 12, SERIES)
    assert found.bytes_read >= 3 * 200_000


def test_pixels_are_not_fetched(source: Store) -> None:
    for i in range(3):
        source.put(f"{i}.dcm", ct_object(STUDY, SERIES, i, Rows=600, Columns=600, PixelData=bytes(720_000)))
    assert discover(source).bytes_read == 3 * 65_536


def test_limits_refuse_what_is_too_large(source: Store) -> None:
    put_series(source, "a", STUDY, SERIES)
    for limits in (Limits(max_object_bytes=500), Limits(max_pixel_bytes=12 * 16 * 2 * 10 - 1)):
        (ref,) = discover(source, limits).manifest
        assert (ref.status, ref.reason) == (Status.REJECTED, "TOO_LARGE")
    (ref,) = discover(source, Limits(max_pixel_bytes=12 * 16 * 2 * 10)).manifest
    assert ref.status is Status.OK


def test_a_source_without_dicom_is_an_error_of_one_line(source: Store) -> None:
    for _ in range(2):
        with pytest.raises(EmptySource, match="no DICOM objects") as error:
            discover(source)
        assert "\n" not in str(error.value)
        source.put("README.txt", b"nothing here")


def test_the_manifest_is_the_same_bytes_each_time_and_after_a_round_trip(source: Store) -> None:
    put_series(source, "a", STUDY, SERIES)
    put_series(source, "b", STUDY, uid(1, 2), 1)
    source.put("c/x.dcm", b"")
    first, second = discover(source, threads=1).manifest, discover(source, threads=16).manifest
    assert first.encode() == second.encode()
    again = Manifest.decode(first.encode())
    assert list(again) == list(first) and again.manifest_id == first.manifest_id


def test_a_changed_object_changes_the_content_and_not_the_series(source: Store) -> None:
    put_series(source, "a", STUDY, SERIES)
    (before,) = discover(source).manifest
    source.put("a/0003.dcm", ct_object(STUDY, SERIES, 3, KVP="100"))
    (after,) = discover(source).manifest
    assert before.series_key == after.series_key
    assert before.record_key("c", "w") != after.record_key("c", "w")


def test_damaged_manifests_are_named_so(source: Store) -> None:
    put_series(source, "a", STUDY, SERIES)
    data = discover(source).manifest.encode()
    for bad in (b"", data[:-10], data[: len(data) // 2], b"PAR1"):
        with pytest.raises(ManifestDamaged):
            Manifest.decode(bad)


@pytest.mark.parametrize(
    "knobs",
    [*({"syntax": syntax} for syntax in SYNTAXES), {"multi_frame": True}, {"localizer": True, "shuffle": 3}],
    ids=str,
)
def test_a_series_in_any_encoding_is_found_and_says_nothing_of_the_patient(
    source: Store, knobs: dict[str, Any]
) -> None:
    objects = ct_series(**knobs)
    for name, data in objects:
        source.put(f"series/{name}", data)
    found = discover(source)
    (ref,) = found.manifest
    assert (ref.status, ref.image_count, len(ref.objects)) == (Status.OK, 12, len(objects))
    assert (ref.rows, ref.columns, ref.modality) == (40, 48, "CT")
    shown = found.manifest.encode() + repr(ref).encode()
    assert all(text.encode() not in shown for text in CANARIES.values())
    assert all(any(text.encode() in data for _, data in objects) for text in CANARIES.values())


@pytest.mark.s3
def test_a_bucket_and_a_folder_give_the_same_series(source: Store, aws_environment: S3Server) -> None:
    bucket = open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}")
    for store in (source, bucket):
        put_series(store, "a", STUDY, SERIES)
        put_series(store, "b", STUDY, uid(1, 2), 2)
        store.put("c/empty.dcm", b"")
    listed = [
        [
            (replace(ref, objects=()), [(e.key, e.size) for e in ref.objects])
            for ref in discover(store).manifest
        ]
        for store in (source, bucket)
    ]
    assert len(listed[0]) == 3 and listed[0] == listed[1]


SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared studies are not beside this checkout")
def test_real_studies() -> None:
    refs = {len(ref.objects): ref for ref in discover(open_store(str(SHARED))).manifest}
    assert sorted(refs) == [20, 102, 160]
    assert all(ref.status is Status.OK and ref.rows == 512 for ref in refs.values())
    assert (refs[102].manufacturer, refs[160].contrast) == ("SIEMENS", True)
