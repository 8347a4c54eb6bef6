"""The stages of a series as plain functions on a folder's objects, with no Ray running."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctsam3d.imaging.dicom import Limits
from ctsam3d.imaging.label_maps import CodedName, Label
from ctsam3d.imaging.packed_labels import LabelSheet, MaskBox, PackedLabels
from ctsam3d.outcome import Reason, Rejected, Status
from ctsam3d.prompting.clicks import ClickRow
from ctsam3d.prompting.prompt import Click
from pipelines.cohort.commit import Stamp, commit
from pipelines.cohort.discover import discover
from pipelines.cohort.load import load
from pipelines.cohort.measure import measure
from pipelines.cohort.rows import from_row, to_row
from pipelines.cohort.segment import segment
from pipelines.cohort.work import Work, guarded
from pipelines.identity import record_path
from pipelines.reasons import Failure
from pipelines.records import decode_record
from pipelines.series_prompts import SeriesPrompts
from pipelines.store import ObjectInfo, Store, open_store
from tests.anatomy import anatomy_series
from tests.phantom import BODY_HU, LUNG_HU, Phantom, phantom_hu, write_phantom
from tests.threshold import STRUCTURES, Threshold

STAMP = Stamp("run", "0" * 64, "config", "0.0")


@pytest.fixture
def phantom(tmp_path: Path) -> Phantom:
    return write_phantom(tmp_path / "source", 3)


@pytest.fixture
def source(tmp_path: Path, phantom: Phantom) -> Store:
    return open_store(str(tmp_path / "source"))


@pytest.fixture
def work(source: Store) -> Work:
    (ref,) = discover(source).manifest
    return Work(ref, ref.record_key("config", "0" * 64))


def test_load_gives_the_volume_the_facts_and_what_it_cost(source: Store, work: Work) -> None:
    loaded = load(work, source, Limits())
    assert loaded.volume is not None and loaded.facts is not None
    assert np.array_equal(loaded.volume.hu, phantom_hu(3))
    assert loaded.facts.spacing_mm == (7.0, 6.0, 8.0)
    assert loaded.trace.bytes_read == sum(entry.size for entry in work.ref.objects)
    assert loaded.trace.seconds["load"] >= loaded.trace.seconds["fetch"] > 0


def test_an_object_that_changed_or_vanished_since_the_manifest_fails_the_series(
    tmp_path: Path, source: Store, work: Work
) -> None:
    file = tmp_path / "source" / work.ref.objects[4].key
    data = file.read_bytes()
    file.write_bytes(data[:-2] + b"\1\1")
    changed = load(work, source, Limits())
    assert (changed.status, changed.reason) == (Status.FAILED, Failure.OBJECT_CHANGED)
    file.unlink()
    vanished = load(work, source, Limits())
    assert (vanished.status, vanished.reason, vanished.volume) == (
        Status.FAILED,
        Failure.OBJECT_VANISHED,
        None,
    )


def test_an_object_over_the_limit_is_refused_before_it_is_fetched(source: Store, work: Work) -> None:
    refused = load(work, source, Limits(max_object_bytes=1000))
    assert (refused.status, refused.reason) == (Status.REJECTED, Reason.TOO_LARGE)
    assert refused.trace.bytes_read == 0


def test_a_fault_becomes_a_code_and_never_carries_the_exceptions_text(work: Work) -> None:
    def explode(work: Work) -> Work:
        raise KeyError("Secret^Name")

    def refuse(work: Work) -> Work:
        raise Rejected(Reason.GANTRY_TILT, "5 degrees")

    failed = guarded("load", explode, work)
    assert (failed.status, failed.reason, failed.detail) == (Status.FAILED, Failure.INTERNAL, "KeyError")
    assert "load" in failed.trace.seconds
    refused = guarded("load", refuse, work)
    assert (refused.status, refused.reason, refused.detail) == (Status.REJECTED, "GANTRY_TILT", "5 degrees")
    assert guarded("segment", explode, refused) is refused  # what has stopped passes through untouched


def test_a_series_goes_through_all_stages_into_one_record(
    tmp_path: Path, source: Store, work: Work, phantom: Phantom
) -> None:
    output = open_store(str(tmp_path / "output"), create=True)
    measured = measure(segment(load(work, source, Limits()), Threshold(), STRUCTURES), STRUCTURES)
    assert measured.volume is None and measured.segmentation is None  # what is left is small
    outcome = commit(measured, output, STRUCTURES, STAMP)
    assert (outcome.status, outcome.reason) == (Status.OK, None)

    record = decode_record(output.get(record_path(work.record_key)))
    rows = {row.structure: row for row in record.structures}
    assert list(rows) == list(STRUCTURES)
    left, right, body = rows["lung_left"], rows["lung_right"], rows["skeletal_muscle"]
    assert left.voxels and right.voxels and left.voxels + right.voxels == phantom.lung_voxels
    assert (left.mean_hu, body.mean_hu, body.voxels) == (LUNG_HU, BODY_HU, phantom.body_voxels)
    assert left.volume_ml == pytest.approx(left.voxels * 7 * 6 * 8 / 1000)
    assert left.centroid_xyz_mm and right.centroid_xyz_mm
    assert left.centroid_xyz_mm[0] > right.centroid_xyz_mm[0]  # LPS+: the left lung lies at greater x
    assert body.status is Status.TRUNCATED and {"superior", "inferior"} <= set(body.truncated_faces or ())
    assert left.mask is not None and rows["brain"].mask is None
    assert rows["brain"].status is Status.ABSENT and rows["brain"].volume_ml is None
    assert record.series.slices == 12 and record.provenance.config_hash == "config"


def test_the_record_names_what_was_dealt_with_in_the_geometry(tmp_path: Path) -> None:
    places = tuple(float(z) for z in (*range(0, 60, 4), *range(60, 121, 8)))
    source = open_store(str(tmp_path / "uneven"), create=True)
    for name, data in anatomy_series(n=len(places), along_mm=places):
        source.put(name, data)
    (ref,) = discover(source).manifest
    output = open_store(str(tmp_path / "output"), create=True)
    work = load(Work(ref, ref.record_key("config", "0" * 64)), source, Limits())
    commit(measure(segment(work, Threshold(), STRUCTURES), STRUCTURES), output, STRUCTURES, STAMP)
    row = decode_record(output.get(record_path(work.record_key))).series
    assert (row.geometry_fix, row.slices) == (("uneven_spacing",), 30)
    assert row.frame_slices == (*range(15), *range(15, 30, 2))


def test_a_stopped_series_is_recorded_with_a_row_for_every_structure(tmp_path: Path, work: Work) -> None:
    output = open_store(str(tmp_path / "output"), create=True)
    stopped = work.stopped(Reason.SLICES_MISSING, "1 missing")
    assert commit(stopped, output, STRUCTURES, STAMP).status is Status.REJECTED
    record = decode_record(output.get(record_path(work.record_key)))
    assert {(row.status, row.reason) for row in record.structures} == {(Status.REJECTED, "SLICES_MISSING")}
    assert (record.series.detail, record.series.modality) == ("1 missing", "CT")
    commit(work.stopped(Failure.INTERNAL), output, STRUCTURES, STAMP)  # a second outcome changes nothing
    assert decode_record(output.get(record_path(work.record_key))) == record


def test_a_segmenter_that_breaks_its_word_fails_the_series(source: Store, work: Work) -> None:
    class Wrong(Threshold):
        def segment(self, volume, structures):  # type: ignore[no-untyped-def]
            good = super().segment(volume, structures)
            return replace(good, labels=good.labels[1:])

    failed = segment(load(work, source, Limits()), Wrong(), STRUCTURES)
    assert (failed.status, failed.reason, failed.detail) == (Status.FAILED, Failure.INTERNAL, "ValueError")


def test_a_row_gives_back_the_work_it_was_made_of(source: Store, work: Work) -> None:
    loaded = load(work, source, Limits())
    assert loaded.volume is not None
    padding = np.zeros(loaded.volume.hu.shape, bool)
    padding[0, :3] = True
    for hu in (loaded.volume.hu, loaded.volume.hu.astype(np.float32) + 0.25):
        for volume in (replace(loaded.volume, hu=hu), replace(loaded.volume, hu=hu, padding=padding)):
            sent = segment(replace(loaded, volume=volume), Threshold(), STRUCTURES)
            row = to_row(sent)
            assert set(row) == {"header", "hu", "padding", "prompts", "labels"}
            assert (row["hu"].dtype, row["labels"].dtype) == (np.int16, np.uint8)
            got = from_row(row)
            assert got.volume is not None and got.segmentation is not None and sent.segmentation is not None
            assert np.array_equal(got.volume.hu, hu) and got.volume.hu.dtype == hu.dtype
            assert np.array_equal(got.volume.geometry.affine, volume.geometry.affine)
            expected = volume.padding
            assert (got.volume.padding is None) == (expected is None)
            assert expected is None or np.array_equal(got.volume.padding, expected)
            assert np.array_equal(got.segmentation.labels, sent.segmentation.labels)
            assert dict(got.segmentation.findings) == dict(sent.segmentation.findings)
            assert (got.ref, got.facts, got.trace) == (sent.ref, sent.facts, sent.trace)


def test_what_was_said_of_a_series_travels_with_it_until_it_is_segmented(source: Store, work: Work) -> None:
    said = SeriesPrompts(clicks=(ClickRow(1, "brain", Click((71.0, -3.0, 48.0))),))
    clicked = from_row(to_row(replace(load(work, source, Limits()), prompts=said)))
    assert clicked.prompts == said and clicked.labels is None
    found = segment(clicked, Threshold(), STRUCTURES).segmentation
    assert found is not None and found.findings["brain"].prompter == "clicks"

    box = MaskBox(1, (3, 4, 5), tuple(float(v) for v in np.diag([7.0, 6.0, 8.0, 1.0]).ravel()))
    sheet = LabelSheet(
        (Label(1, "brain"), Label(2, "spleen", CodedName(None, ("SCT", "1"), None, ()))), (box,)
    )
    labels = PackedLabels(sheet, np.packbits(np.arange(60) % 3 == 0))
    mapped = from_row(
        to_row(replace(clicked, prompts=SeriesPrompts(maps=(ObjectInfo("a", 1, None),)), labels=labels))
    )
    assert mapped.labels is not None and mapped.labels.sheet == sheet
    mask = mapped.labels.mask(sheet.labels[0])
    assert mask is not None and np.array_equal(mask.mask.ravel(), np.arange(60) % 3 == 0)
    assert mapped.labels.mask(sheet.labels[1]) is None
    assert segment(mapped, Threshold(), STRUCTURES).labels is None


def test_a_stopped_series_travels_in_the_same_columns_without_voxels(work: Work) -> None:
    row = to_row(work.stopped(Reason.GANTRY_TILT, "5 degrees"))
    assert [row[name].shape for name in ("hu", "padding", "labels")] == [(0, 0, 0)] * 3
    got = from_row(row)
    assert (got.status, got.reason, got.detail, got.volume) == (
        Status.REJECTED,
        "GANTRY_TILT",
        "5 degrees",
        None,
    )


def test_a_loop_in_native_code_is_ended_at_its_deadline() -> None:
    script = (
        "import re\nfrom pipelines.deadline import deadline\n"
        "with deadline(30): pass\n"  # one that is met leaves no watch behind
        "with deadline(0.3): re.match(r'(a+)+$', 'a' * 64 + 'b')\n"  # holds the interpreter's lock for years
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=20, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ""
