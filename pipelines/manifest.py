"""What a source holds, one row per series: SeriesRefs in, a Manifest as Arrow and Parquet out, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from itertools import accumulate
from typing import Any

import pyarrow as pa

from ctsam3d.outcome import Status
from pipelines import identity, parquet
from pipelines.records import SeriesRow
from pipelines.schemas import MANIFEST
from pipelines.store import ObjectInfo

_BATCH_ROWS = 1024


class ManifestDamaged(Exception):
    """Bytes that are not a manifest. The message is one line."""


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """One series of a source, or the unreadable objects of one folder; None where a value is unknown.

    Attributes:
        series_key: its stable name, the only one used in paths.
        status: OK where it is to be processed, else REJECTED with a reason.
        detail: what was found, in numbers and counts.
        objects: every object of the series, sorted by key.
        image_count: slices or frames of CT images in it, localizers left out.
        slice_thickness: mm. kvp: kV.
        prompts_digest: the name of what was said of where its structures are; None where nothing was.
    """

    series_key: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    status: Status
    objects: tuple[ObjectInfo, ...]
    reason: str | None = None
    detail: str | None = None
    image_count: int = 0
    study_date: date | None = None
    modality: str | None = None
    rows: int | None = None
    columns: int | None = None
    manufacturer: str | None = None
    kernel: str | None = None
    slice_thickness: float | None = None
    kvp: float | None = None
    contrast: bool | None = None
    lossy: bool | None = None
    prompts_digest: str | None = None

    @property
    def bytes_total(self) -> int:
        """Size of all objects together."""
        return sum(entry.size for entry in self.objects)

    @property
    def input_digest(self) -> str:
        """The name of the content: it changes when any object does, or what was said of the series."""
        objects = ((entry.size, entry.etag) for entry in self.objects)
        return identity.input_digest(objects, self.prompts_digest)

    def record_key(self, config_hash: str, weights_sha256: str) -> str:
        """The name of the record that this configuration and these weights make of the series."""
        return identity.record_key(self.series_key, self.input_digest, config_hash, weights_sha256)

    def series_row(self) -> SeriesRow:
        """The row of the series table as far as the manifest knows it."""
        return SeriesRow(
            self.series_key,
            self.study_instance_uid,
            self.series_instance_uid,
            self.status,
            reason=self.reason,
            detail=self.detail,
            study_date=self.study_date,
            modality=self.modality,
            rows=self.rows,
            columns=self.columns,
            slices=self.image_count or None,
            manufacturer=self.manufacturer,
            kernel=self.kernel,
            slice_thickness=self.slice_thickness,
            kvp=self.kvp,
            contrast=self.contrast,
            lossy=self.lossy,
            objects=len(self.objects),
        )

    def to_columns(self) -> dict[str, Any]:
        """A row of the manifest's table."""
        counts = {"object_count": len(self.objects), "bytes_total": self.bytes_total}
        return asdict(self) | counts

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> SeriesRef:
        """The series behind a row of the manifest's table."""
        values = {f.name: row[f.name] for f in fields(cls)}
        values["objects"] = tuple(ObjectInfo(o["key"], o["size"], o["etag"]) for o in row["objects"])
        values["status"] = Status(row["status"])
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """All series of a source at one moment, sorted by their keys; `table` has the schema MANIFEST."""

    table: pa.Table

    @classmethod
    def of(cls, series: Iterable[SeriesRef]) -> Manifest:
        """A manifest of these series. Raises ValueError where two have the same key."""
        table = pa.Table.from_pylist([ref.to_columns() for ref in series], schema=MANIFEST)
        if len(pa.compute.unique(table["series_key"])) != table.num_rows:
            raise ValueError("two series of the manifest have the same key")
        return cls(table.sort_by("series_key"))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[SeriesRef]:
        for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS):
            for row in batch.to_pylist():
                yield SeriesRef.from_columns(row)

    def renamed(self, rename: Callable[[str], str]) -> Manifest:
        """The same series with other names for their objects; nothing can be fetched by it."""
        batches = [_renamed(batch, rename) for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS)]
        return Manifest(pa.Table.from_batches(batches, self.table.schema))

    def prompted(self, digests: Mapping[str, str]) -> Manifest:
        """The same series; those that are to be processed with the names of their prompts, by SeriesInstanceUID."""
        uids, statuses = (self.table[name].to_pylist() for name in ("series_instance_uid", "status"))
        named = [
            digests.get(uid) if uid is not None and status == Status.OK else None
            for uid, status in zip(uids, statuses, strict=True)
        ]
        column = self.table.schema.get_field_index("prompts_digest")
        field = self.table.schema.field(column)
        return Manifest(self.table.set_column(column, field, pa.array(named, field.type)))

    @property
    def manifest_id(self) -> str:
        """The name of the manifest: the same for the same series, objects and verdicts."""
        digest = hashlib.sha256()
        for ref in self:
            objects = [(entry.key, entry.size, entry.etag) for entry in ref.objects]
            line = [ref.series_key, ref.status, ref.reason, objects]
            line += [ref.prompts_digest] if ref.prompts_digest else []
            digest.update(json.dumps(line).encode() + b"\n")
        return digest.hexdigest()[:32]

    def encode(self) -> bytes:
        """The bytes of a Parquet file, the same for the same manifest."""
        return parquet.write([self.table], MANIFEST)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """The manifest in a Parquet file. Raises ManifestDamaged."""
        try:
            return cls(parquet.read(data, MANIFEST)[0])
        except parquet.ParquetDamaged as damage:
            raise ManifestDamaged(str(damage)) from None


def _renamed(batch: pa.RecordBatch, rename: Callable[[str], str]) -> pa.RecordBatch:
    objects = batch["objects"]
    entries, kind = objects.flatten(), objects.type.value_type
    columns = [entries.field(i) for i in range(kind.num_fields)]
    at = kind.get_field_index("key")
    columns[at] = pa.array([rename(key) for key in columns[at].to_pylist()], kind.field(at).type)
    ends = accumulate(pa.compute.list_value_length(objects).to_pylist(), initial=0)
    renamed = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(kind)), type=objects.type
    )
    column = batch.schema.get_field_index("objects")
    return batch.set_column(column, batch.schema.field(column), renamed)
