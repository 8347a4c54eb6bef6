"""The record of one series, its commit: a Record in, the bytes of one Parquet object out, and back.

A record holds a row per requested structure (statistics, status, provenance, encoded mask) and, in the file's
metadata, the row of the series as JSON with its SHA-256. Pages carry checksums. Reading verifies both.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from typing import Any

import pyarrow as pa

from ctsam3d.outcome import Status
from pipelines import parquet
from pipelines.masks import MaskRow
from pipelines.schemas import MASK_COLUMNS, MASKS, RECORD, SERIES, STRUCTURES

_SERIES_KEY = b"ctsam3d.series"
_SERIES_SHA256_KEY = b"ctsam3d.series_sha256"


class RecordDamaged(Exception):
    """A record's bytes are not a whole record of ours. The message is one line."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a record."""

    record_key: str
    run_id: str
    weights_sha256: str
    config_hash: str
    code_version: str
    input_digest: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class StructureRow:
    """The outcome for one requested structure; None where a value is unknown."""

    structure: str
    status: Status
    reason: str | None = None
    snomed_code: str | None = None
    volume_ml: float | None = None
    volume_soft_ml: float | None = None
    voxels: int | None = None
    mean_hu: float | None = None
    sd_hu: float | None = None
    p05_hu: float | None = None
    p50_hu: float | None = None
    p95_hu: float | None = None
    bbox: tuple[int, ...] | None = None  # (z0, y0, x0, z1, y1, x1), half open, source grid
    centroid_xyz_mm: tuple[float, ...] | None = None
    truncated_faces: tuple[str, ...] | None = None
    clicks: int | None = None
    confidence: float | None = None
    flags: tuple[str, ...] | None = None  # what is remarkable of a measured structure
    prompter: str | None = None  # what said where the structure is
    mask: MaskRow | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """The outcome for one series; None where a value is unknown."""

    series_key: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    status: Status
    reason: str | None = None
    detail: str | None = None  # what was found, in numbers and counts; never a DICOM text value
    study_date: date | None = None  # shifted where pseudonyms are used
    modality: str | None = None
    rows: int | None = None
    columns: int | None = None
    slices: int | None = None
    spacing_mm: tuple[float, ...] | None = None  # x, y, z
    orientation: str | None = None
    orientation_suspect: bool | None = None  # organs lie as in no person; None where no two of them tell
    geometry_fix: tuple[str, ...] | None = None  # what was dealt with, empty for nothing; None where not read
    frame_slices: tuple[int, ...] | None = (
        None  # where frames were evened out: the grid's slice nearest to each
    )
    manufacturer: str | None = None
    kernel: str | None = None
    slice_thickness: float | None = None  # mm
    kvp: float | None = None
    contrast: bool | None = None
    lossy: bool | None = None
    objects: int | None = None
    objects_set_aside: int | None = None
    seconds_per_stage: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    bytes_read: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of one series under one configuration and weights."""

    series: SeriesRow
    structures: tuple[StructureRow, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class RecordTables:
    """A record as rows of the published tables."""

    structures: pa.Table
    series: pa.Table
    masks: pa.Table

    @property
    def record_key(self) -> str:
        """The name the record says it has."""
        return str(self.series["record_key"][0])

    @property
    def series_key(self) -> str:
        """The series the record says it is of."""
        return str(self.series["series_key"][0])


def encode_record(record: Record) -> bytes:
    """The bytes of the record's one object. ValueError for one that repeats a structure or has none."""
    names = [row.structure for row in record.structures]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"expected distinct requested structures, found {len(names)}, {len(set(names))} distinct"
        )
    shared = asdict(record.provenance) | {
        "series_key": record.series.series_key,
        "study_instance_uid": record.series.study_instance_uid,
        "series_instance_uid": record.series.series_instance_uid,
    }
    rows = [shared | _structure_columns(row) for row in record.structures]
    series = asdict(record.series) | asdict(record.provenance)
    text = json.dumps(series, sort_keys=True, allow_nan=False, default=date.isoformat).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    table = pa.Table.from_pylist(rows, schema=RECORD)
    metadata = {_SERIES_KEY: text, _SERIES_SHA256_KEY: digest}
    return parquet.write([table], RECORD, metadata, arrow_schema=False)


def read_record(data: bytes, *, masks: bool = True) -> RecordTables:
    """A record as table rows, without the masks' bits when `masks` is False (then no masks rows).

    Raises:
        RecordDamaged: not Parquet, a failed checksum, another schema, or parts that do not belong together.
    """
    try:
        columns = None if masks else [name for name in RECORD.names if name not in MASK_COLUMNS]
        table, metadata = parquet.read(data, RECORD, columns=columns)
    except parquet.ParquetDamaged as damage:
        raise RecordDamaged(str(damage)) from None
    text = metadata.get(_SERIES_KEY, b"")
    if hashlib.sha256(text).hexdigest().encode() != metadata.get(_SERIES_SHA256_KEY):
        raise RecordDamaged("the series row does not match its SHA-256")
    try:
        value = json.loads(text)
        if value.get("study_date") is not None:
            value["study_date"] = date.fromisoformat(value["study_date"])
        value["seconds_per_stage"] = list((value["seconds_per_stage"] or {}).items())
        series = pa.Table.from_pylist([value], schema=SERIES)
    except (ValueError, TypeError, KeyError, AttributeError, pa.ArrowException):
        raise RecordDamaged("the series row is not of this schema") from None
    for name in ("record_key", "series_key"):
        if set(table[name].to_pylist()) != set(series[name].to_pylist()):
            raise RecordDamaged(f"the rows do not agree on {name}")
    bits = (
        table.select(MASKS.names).filter(pa.compute.is_valid(table["bits"])) if masks else MASKS.empty_table()
    )
    return RecordTables(table.select(STRUCTURES.names), series, bits)


def decode_record(data: bytes) -> Record:
    """The Record that `encode_record` was given. Raises RecordDamaged as `read_record` does."""
    tables = read_record(data)
    series = tables.series.to_pylist()[0]
    series["seconds_per_stage"] = dict(series["seconds_per_stage"]) if series["seconds_per_stage"] else None
    masks = {row["structure"]: MaskRow.from_columns(row) for row in tables.masks.to_pylist()}
    rows = []
    for row in tables.structures.to_pylist():
        rows.append(_build(StructureRow, row | {"mask": masks.get(row["structure"])}))
    return Record(_build(SeriesRow, series), tuple(rows), _build(Provenance, series))


def _structure_columns(row: StructureRow) -> dict[str, Any]:
    columns = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "mask"}
    if row.mask is not None:
        if row.bbox != row.mask.bbox or row.voxels != row.mask.voxels:
            raise ValueError(f"{row.structure}: the mask's box and voxels are not those of its statistics")
        columns |= row.mask.to_columns()
    return columns


def _build(kind: type[Any], columns: dict[str, Any]) -> Any:
    values = {f.name: columns[f.name] for f in fields(kind)}
    if "status" in values:
        values["status"] = Status(values["status"])
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
