"""Commit one series: its rows, or the fault that ended it, in; one record, written once, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ctsam3d.anatomy.arrangement import Found, is_orientation_suspect
from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.outcome import Status
from pipelines.cohort.work import Work, failure_of
from pipelines.identity import record_path
from pipelines.reasons import Failure
from pipelines.records import (
    Provenance,
    Record,
    RecordDamaged,
    SeriesRow,
    StructureRow,
    encode_record,
    read_record,
)
from pipelines.store import NotFound, Store
from pipelines.texts import plain


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all records of a run say of their making."""

    run_id: str
    weights_sha256: str
    config_hash: str
    code_version: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a series: small enough to stream to the driver."""

    series_key: str
    status: Status
    reason: str | None


def commit(work: Work, output: Store, structures: Sequence[str], stamp: Stamp) -> Outcome:
    """Write the record unless it is there already, as after a retry: the first one stands.

    The outcome is the one that stands. A series whose rows cannot be written as a record gets a record of that
    fault. A store that does not take it raises StoreError: there is nowhere to say so but in the run itself.
    """
    try:
        data = encode_record(record_of(work, structures, stamp))
    except Exception as fault:  # a value no stage should have produced: the series fails, not the run
        work = work.stopped(failure_of(fault), type(fault).__name__)
        data = encode_record(record_of(work, structures, stamp))
    outcome = Outcome(work.ref.series_key, work.status, work.reason)
    path = record_path(work.record_key)
    if output.put_if_absent(path, data):
        return outcome
    return _standing(output, path) or outcome


def _standing(output: Store, path: str) -> Outcome | None:
    """The outcome that another wrote first; None where it cannot be read, which verification will find."""
    try:
        (row,) = read_record(output.get(path), masks=False).series.to_pylist()
    except (NotFound, RecordDamaged):
        return None
    return Outcome(row["series_key"], Status(row["status"]), row["reason"])


def record_of(work: Work, structures: Sequence[str], stamp: Stamp) -> Record:
    """The record of a series that ended, well or not: a row per structure in either case."""
    rows = work.structures
    if rows is None:
        if work.status is Status.OK:
            work = work.stopped(Failure.INTERNAL, "not measured")
        rows = tuple(stopped_row(name, work) for name in structures)
    return Record(series_row(work), rows, provenance(work, stamp))


def stopped_row(name: str, work: Work) -> StructureRow:
    """The row of a structure nobody could look for."""
    known = CATALOGUE.get(name)
    return StructureRow(name, work.status, work.reason, known.snomed_code if known else None)


def provenance(work: Work, stamp: Stamp) -> Provenance:
    """What made this record."""
    return Provenance(
        record_key=work.record_key,
        run_id=stamp.run_id,
        weights_sha256=stamp.weights_sha256,
        config_hash=stamp.config_hash,
        code_version=stamp.code_version,
        input_digest=work.ref.input_digest,
        attempt=work.attempt,
    )


def orientation_suspect(rows: Sequence[StructureRow]) -> bool | None:
    """Whether organs lie as in no person, by the structures whose masks are believed; None where none tell."""
    believed = (Status.OK, Status.TRUNCATED)
    return is_orientation_suspect(
        {
            row.structure: Found(row.centroid_xyz_mm, row.volume_ml, row.truncated_faces or ())
            for row in rows
            if row.status in believed and row.centroid_xyz_mm is not None and row.volume_ml is not None
        }
    )


def series_row(work: Work) -> SeriesRow:
    """The series' own row: from the pixels' headers where they were read, else what the manifest knows."""
    facts, trace = work.facts, work.trace
    row = replace(
        work.ref.series_row(),
        status=work.status,
        reason=work.reason,
        detail=work.detail,
        seconds_per_stage=trace.seconds or None,
        peak_memory_bytes=trace.peak_memory_bytes or None,
        bytes_read=trace.bytes_read,
        orientation_suspect=orientation_suspect(work.structures or ()),
    )
    if facts is None:
        return row
    return replace(
        row,
        modality=facts.modality,
        rows=facts.rows,
        columns=facts.columns,
        slices=facts.slices,
        spacing_mm=facts.spacing_mm,
        orientation=facts.orientation,
        geometry_fix=facts.geometry_fix,
        frame_slices=facts.frame_slices,
        manufacturer=plain(facts.manufacturer),
        kernel=plain(facts.kernel),
        slice_thickness=facts.slice_thickness_mm,
        kvp=facts.kvp,
        contrast=facts.contrast,
        lossy=facts.lossy,
        objects_set_aside=facts.instances_set_aside,
    )
