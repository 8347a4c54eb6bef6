"""What a source holds, one row per series: SeriesRefs in, a Manifest as Arrow and Parquet out, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from itertools import accumulate
from typing import Any

import pyarrow as pa

from ctsam3d.arrow_schema import without_arrow_schema
from ctsam3d.outcome import Status
from pipelines import identity, parquet
from pipelines.records import SeriesRow
from pipelines.schemas import MANIFEST
from pipelines.store import ObjectInfo

_GROUP_OBJECTS = 4096  # of a row group: small beside a process, large beside what a row group costs
_BATCH_ROWS = 16


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
    """All series of a source at one moment, sorted by their keys.

    It is held as the Parquet file it is stored as, and read a few series at a time: a series has hundreds of objects,
    whose keys, sizes and ETags take a tenth of the memory in there of what they take as values.
    """

    _file: bytes = field(repr=False)

    @classmethod
    def of(cls, series: Iterable[SeriesRef]) -> Manifest:
        """A manifest of these series. Raises ValueError where they are not sorted by their keys, or share one."""
        return cls._of(
            pa.Table.from_pylist([ref.to_columns() for ref in group], schema=MANIFEST)
            for group in _groups(_ascending(series))
        )

    @classmethod
    def _of(cls, groups: Iterable[pa.Table]) -> Manifest:
        return cls(parquet.write(groups, MANIFEST, arrow_schema=False))

    def __len__(self) -> int:
        return int(parquet.open_verified(self._file, MANIFEST).metadata.num_rows)

    def __iter__(self) -> Iterator[SeriesRef]:
        for group in self.groups():
            for batch in group.to_batches(max_chunksize=_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield SeriesRef.from_columns(row)

    def groups(self) -> Iterator[pa.Table]:
        """Its rows, of the schema MANIFEST, some series at a time."""
        return parquet.read_groups(self._file, MANIFEST)

    def column(self, name: str) -> list[Any]:
        """The values of one column, of every series."""
        values: list[Any] = parquet.read(self._file, MANIFEST, [name])[0][name].to_pylist()
        return values

    def renamed(self, rename: Callable[[str], str]) -> Manifest:
        """The same series with other names for their objects; nothing can be fetched by it."""
        return self._of(_renamed(group, rename) for group in self.groups())

    def prompted(self, digests: Mapping[str, str]) -> Manifest:
        """The same series; those that are to be processed with the names of their prompts, by SeriesInstanceUID."""
        return self._of(_prompted(group, digests) for group in self.groups())

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
        return self._file

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """The manifest in a Parquet file. Raises ManifestDamaged."""
        try:
            for _ in parquet.read_groups(data, MANIFEST):
                pass
        except parquet.ParquetDamaged as damage:
            raise ManifestDamaged(str(damage)) from None
        return cls(without_arrow_schema(data))


def _ascending(series: Iterable[SeriesRef]) -> Iterator[SeriesRef]:
    former = ""
    for ref in series:
        if ref.series_key <= former:
            raise ValueError(
                "two series of the manifest have the same key, or are not in order of their keys"
            )
        former = ref.series_key
        yield ref


def _groups(series: Iterable[SeriesRef]) -> Iterator[list[SeriesRef]]:
    """Series in lists of about so many objects."""
    group: list[SeriesRef] = []
    objects = 0
    for ref in series:
        group.append(ref)
        objects += 1 + len(ref.objects)
        if objects >= _GROUP_OBJECTS:
            yield group
            group, objects = [], 0
    if group:
        yield group


def _prompted(group: pa.Table, digests: Mapping[str, str]) -> pa.Table:
    uids, statuses = (group[name].to_pylist() for name in ("series_instance_uid", "status"))
    named = [
        digests.get(uid) if uid is not None and status == Status.OK else None
        for uid, status in zip(uids, statuses, strict=True)
    ]
    column = group.schema.get_field_index("prompts_digest")
    return group.set_column(column, group.schema.field(column), pa.array(named, pa.string()))


def _renamed(group: pa.Table, rename: Callable[[str], str]) -> pa.Table:
    objects = group["objects"].combine_chunks()
    entries, kind = objects.flatten(), objects.type.value_type
    columns = [entries.field(i) for i in range(kind.num_fields)]
    at = kind.get_field_index("key")
    columns[at] = pa.array([rename(key) for key in columns[at].to_pylist()], kind.field(at).type)
    ends = accumulate(pa.compute.list_value_length(objects).to_pylist(), initial=0)
    renamed = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(kind)), type=objects.type
    )
    column = group.schema.get_field_index("objects")
    return group.set_column(column, group.schema.field(column), renamed)
