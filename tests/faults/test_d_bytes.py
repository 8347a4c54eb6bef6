"""Faults D01-D07, D11, D12, D25, D26: objects that are empty, foreign, cut short, too long or too large."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from ctsam3d.imaging.dicom import Limits, read_folder
from ctsam3d.imaging.dicom_header import read_header
from ctsam3d.outcome import Reason, Rejected, Status
from pipelines.cohort.discover import discover
from pipelines.cohort.load import load
from pipelines.cohort.work import Work
from pipelines.sandbox import Sandbox, memory_for
from pipelines.store import Store
from tests.builders import ct_series
from tests.faults.outcome import (
    Objects,
    corpus,
    patched,
    put,
    read,
    reason_of,
    refused,
    shared_data,
    stack_of,
    told_nothing,
    without,
)
from tests.pipelines.dicom_objects import ct_object, uid

pytestmark = pytest.mark.usefixtures("nothing_told")

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"shape": (16, 18)}
PIXELS = b"\xe0\x7f\x10\x00"  # the tag of PixelData
ROWS = b"\x28\x00\x10\x00US"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(60.0)
    yield box
    box.close()


def found_in(source: Store) -> dict[str | None, int]:
    """What discovery makes of a source: reasons, and how many objects each holds."""
    refs = list(discover(source).manifest)
    told_nothing(*refs)
    return {ref.reason: len(ref.objects) for ref in refs}


def loaded(source: Store) -> list[Work]:
    """What loading makes of every series that discovery keeps."""
    refs = [ref for ref in discover(source).manifest if ref.status is Status.OK]
    return [load(Work(ref, ref.record_key("config", "0" * 64)), source, Limits()) for ref in refs]


def test_D01_empty_objects_are_skipped_and_what_they_leave_decides() -> None:
    whole = ct_series(**SMALL)
    assert refused([("a", b""), ("b", b"")]) == (
        Reason.EMPTY_OBJECT,
        "no CT slice among 2 objects: 2 EMPTY_OBJECT",
    )
    assert reason_of([*whole[:2], ("c", b""), ("d", b"")]) is Reason.EMPTY_OBJECT
    interior = [*whole[:4], ("e", b""), *whole[5:]]
    assert refused(interior) == (Reason.SLICES_MISSING, "1 slices missing in 1 gaps of 10")
    beside = read([*whole, ("f", b"")])
    assert (beside.facts.instances_used, beside.facts.instances_set_aside) == (12, 1)


def test_D01_an_empty_object_of_a_source_has_a_row_of_its_own(source: Store) -> None:
    objects = ct_series(**SMALL)
    put(source, [*objects[:4], ("slice0004.dcm", b""), *objects[5:]])
    assert found_in(source) == {None: 11, "EMPTY_OBJECT": 1}
    (work,) = loaded(source)
    assert (work.status, work.reason) == (Status.REJECTED, "SLICES_MISSING")


FOREIGN = {
    "noise": np.random.default_rng(2).bytes(4096),
    "PDF": b"%PDF-1.7" + b" " * 4000,
    "error page": b"<!DOCTYPE html><html>404 CANARY</html>" * 20,
    "DICOM without a preamble": corpus("no_meta.dcm"),
    "raw big endian": corpus("ExplVR_BigEndNoMeta.dcm"),
    "a preamble's length": bytes(132),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_D02_what_is_not_dicom_is_skipped_counted_and_never_forced(data: bytes, source: Store) -> None:
    assert reason_of([("x.dcm", data)]) is Reason.NOT_DICOM
    objects = ct_series(**SMALL)
    series = read([*objects, ("x.dcm", data)])
    np.testing.assert_array_equal(series.volume.hu, read(objects).volume.hu)
    assert series.facts.instances_set_aside == 1
    put(source, [*objects, ("x.dcm", data)])
    assert found_in(source) == {None: 12, "NOT_DICOM": 1}


def test_D02_nothing_is_read_by_force() -> None:
    sources = [*(ROOT / "ctsam3d").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    assert len(sources) > 50
    assert not [file.name for file in sources if re.search(r"\bforce\s*=\s*True", file.read_text())]


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian", "rle", "jpeg_ls", "jpeg_lossless"])
def test_D03_pixels_cut_short_refuse_the_whole_series(syntax: str, multi_frame: bool) -> None:
    objects = ct_series(syntax=syntax, multi_frame=multi_frame, **SMALL)
    cut = patched(objects, lambda data: data[:-100], only=len(objects) - 1)
    reason, detail = refused(cut)
    assert reason is Reason.PIXEL_DATA_TRUNCATED and re.search(r"\d+", detail)


def test_D03_a_real_slice_of_the_corpus_cut_short() -> None:
    objects = stack_of(corpus("CT_small.dcm"))
    read(objects, Limits(check_hounsfield=False))
    cut = patched(objects, lambda data: data[: -3000 - (len(data) - _end_of_pixels(data))], only=7)
    assert refused(cut) == (
        Reason.PIXEL_DATA_TRUNCATED,
        "29768 bytes of pixels, expected 32768 from the header",
    )


def _end_of_pixels(data: bytes) -> int:
    header = read_header(data)
    assert header is not None and header.pixel_length is not None
    return header.pixel_offset + header.pixel_length


def test_D03_a_real_series_whose_last_slice_came_in_half() -> None:
    folder = shared_data("dicom/totalseg_example")
    objects = [(file.name, file.read_bytes()) for file in sorted(folder.glob("CT.*"))]
    assert len(objects) == 20
    cut = patched(objects, lambda data: data[: len(data) // 2], only=19)
    assert reason_of(cut) is Reason.PIXEL_DATA_TRUNCATED


def test_D04_a_header_cut_anywhere_is_told_from_one_that_is_whole() -> None:
    objects = ct_series(**SMALL)
    pixels, last_needed = objects[5][1].index(PIXELS), objects[5][1].index(b"\x28\x00\x01\x01US")
    reasons = set()
    for cut in [133, 200, 420, *range(450, pixels, 97), pixels - 2]:
        reason, detail = refused(patched(objects, lambda data, cut=cut: data[:cut], only=5))
        reasons.add(reason)
        # Between the last element that is needed and the pixels, only the pixels are missing.
        assert reason is Reason.HEADER_TRUNCATED or cut > last_needed, (cut, detail)
    assert Reason.HEADER_TRUNCATED in reasons


def test_D04_a_real_header_cut_at_byte_420() -> None:
    objects = stack_of(corpus("CT_small.dcm"))
    short = objects[3][1][:420]
    assert len(dcmread(io.BytesIO(short))) < 10  # pydicom finds nothing wrong with it
    assert reason_of(patched(objects, lambda data: data[:420], only=3)) is Reason.HEADER_TRUNCATED


def test_D05_an_image_without_pixels_is_refused_and_what_is_no_image_is_skipped() -> None:
    assert refused(ct_series(edit=without("PixelData"), **SMALL)) == (
        Reason.NO_PIXEL_DATA,
        "a CT object without pixels",
    )
    objects = ct_series(**SMALL)
    series = read([*objects, ("sr", corpus("test-SR.dcm")), ("plan", corpus("rtplan.dcm"))])
    assert (series.facts.instances_used, series.facts.instances_set_aside) == (12, 2)
    assert reason_of([("sr", corpus("test-SR.dcm"))]) is Reason.NOT_CT


@pytest.mark.parametrize("more", [1, 2, 1001])
def test_D06_pixels_longer_than_the_image_are_read_up_to_it(more: int) -> None:
    """Changed: what is beyond the image is not counted anywhere; the standard permits it and it means nothing."""

    def longer(ds: Dataset, i: int) -> None:
        ds.PixelData = ds.PixelData + b"\xaa" * (more + more % 2)

    objects = ct_series(edit=longer, **SMALL)
    assert all(
        dcmread(io.BytesIO(data))["PixelData"].value[-2:] in (b"\xaa\xaa", b"\xaa\0") for _, data in objects
    )
    np.testing.assert_array_equal(read(objects).volume.hu, read(ct_series(**SMALL)).volume.hu)


@pytest.mark.parametrize("tail", [bytes(64), b"\xff" * 3, b"left over in a buffer"])
def test_D06_a_padded_stream_is_read_up_to_its_end(tail: bytes) -> None:
    def padded(ds: Dataset, i: int) -> None:
        ds.PixelData = encapsulate([get_frame(ds.PixelData, 0, number_of_frames=1) + tail])

    for syntax in ("jpeg_ls", "jpeg_lossless", "rle") if not any(tail) else ("jpeg_ls", "jpeg_lossless"):
        objects = ct_series(syntax=syntax, edit=padded, **SMALL)
        np.testing.assert_array_equal(read(objects).volume.hu, read(ct_series(**SMALL)).volume.hu)


@pytest.mark.parametrize(
    ("syntax", "tag", "vr"),
    [
        ("implicit", 0x00280030, b""),  # PixelSpacing
        ("implicit", 0x00100010, b""),  # PatientName
        ("explicit", 0x00091002, b"UN\0\0"),  # a private element
        ("explicit", 0x00101002, b"SQ\0\0"),  # a sequence
    ],
)
@pytest.mark.parametrize("length", [0x7FFFFFF0, 0xFFFFFFF0])
def test_D07_an_element_longer_than_what_is_left_takes_no_memory(
    sandbox: Sandbox, syntax: str, tag: int, vr: bytes, length: int
) -> None:
    element = tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2] + vr

    def overlong(data: bytes) -> bytes:
        at = data.index(element) + len(element)
        return data[:at] + length.to_bytes(4, "little") + data[at + 4 :]

    good = ct_series(syntax=syntax, **SMALL)
    claiming = patched(good, overlong, only=2)
    assert reason_of(claiming) is Reason.HEADER_TRUNCATED
    before = peak_bytes(sandbox, good)
    with pytest.raises(Rejected):
        sandbox.read_series(claiming, Limits(), 1 << 30)
    assert peak_bytes(sandbox, good) - before < 16 << 20


def peak_bytes(sandbox: Sandbox, objects: Objects) -> int:
    """The most memory the child has ever had; a sound series makes it say so."""
    sandbox.read_series(objects, Limits(), memory_for(1 << 20, 1 << 16))
    return sandbox.peak_memory_bytes


def test_D11_an_object_of_50_gb_is_refused_unread(source: Store, tmp_path: Path) -> None:
    for i in range(3):
        source.put(f"s/{i}.dcm", ct_object(uid(1), uid(1, 1), i))
    with (tmp_path / "source" / "s" / "1.dcm").open("r+b") as file:
        file.truncate(50 << 30)  # sparse: it has the size, and takes no room
    found = discover(source)
    (ref,) = found.manifest
    assert max(entry.size for entry in ref.objects) == 50 << 30
    assert (ref.status, ref.reason) == (Status.REJECTED, "TOO_LARGE")
    assert found.bytes_read <= 3 << 16
    work = load(Work(ref, ref.record_key("config", "0" * 64)), source, Limits())
    assert (work.status, work.reason, work.trace.bytes_read) == (Status.REJECTED, "TOO_LARGE", 0)
    with pytest.raises(Rejected, match="TOO_LARGE"):
        read_folder(tmp_path / "source" / "s")


@pytest.mark.parametrize("depth", [200, 5000])
def test_D12_sequences_nested_without_end_are_refused(depth: int) -> None:
    item = b"\x40\x00\x70\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"

    def nested(data: bytes) -> bytes:
        at = data.index(b"\x28\x00\x02\x00US")
        return data[:at] + item * depth + closed * depth + data[at:]

    reason, detail = refused(patched(ct_series(**SMALL), nested, only=3))
    assert reason is Reason.MALFORMED and detail


def test_D25_a_dicomdir_is_skipped_and_what_it_points_to_never_followed(source: Store) -> None:
    path = get_testdata_file("dicomdirtests/DICOMDIR", download=False)
    directory = dcmread(str(path))
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "..", "ETC", "PASSWD"]
    buffer = io.BytesIO()
    directory.save_as(buffer)
    source.put("DICOMDIR", buffer.getvalue())
    put(source, ct_series(**SMALL))
    found = discover(source)
    (ref,) = found.manifest
    assert (found.listed, found.skipped, len(ref.objects)) == (13, 1, 12)
    assert all(entry.key.startswith("s/") for entry in ref.objects)


def test_D25_file_sets_are_never_imported() -> None:
    sources = [*(ROOT / "ctsam3d").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    assert not [file.name for file in sources if re.search(r"FileSet|fileset|dicomdir", file.read_text())]


@pytest.mark.parametrize("name", ["series.dcm", "series.zip"])
def test_D26_archives_are_not_opened(source: Store, tmp_path: Path, name: str) -> None:
    """Changed: an archive that does not call itself DICOM is skipped and counted, like any other foreign file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in ct_series(**SMALL):
            archive.writestr(f"../../{member}", data)
    assert reason_of([(name, buffer.getvalue())]) is Reason.NOT_DICOM
    assert reason_of([(name, corpus("zipMR.gz"))]) is Reason.NOT_DICOM
    put(source, [*ct_series(**SMALL), (name, buffer.getvalue())])
    expected = {None: 12, "NOT_DICOM": 1} if name.endswith(".dcm") else {None: 12}
    assert found_in(source) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"source"}  # nothing came out of it
