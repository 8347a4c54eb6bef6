"""Publish a run: its records in, the tables (structures, series, masks, runs) out, one writer at a time.

1. The run knows the name of each series' record, and `record_key` in the published rows says what they were
   made of. Series where the two agree are left alone, and so are files without a series that differs.
2. Shard by shard, the records of the others are read, their masks written first, then their structures, then
   their series rows. A publication that is killed and repeated finds the same differences again.
3. Last comes the run's row. The run published last is the newest; its records stand for all its series.

A series without a readable record gets rows too: `lost`. In memory at a time: the structure rows of one
sixteenth of the series, and the masks of one of the 4096 files.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

import pyarrow as pa

from ctsam3d.outcome import Status
from pipelines.identity import record_path
from pipelines.prefetch import prefetch
from pipelines.reasons import RETRIABLE, Failure
from pipelines.records import Record, RecordDamaged, RecordTables, StructureRow, encode_record, read_record
from pipelines.runs import Expected, Run
from pipelines.shards import (
    MASK_FILES,
    RUN_FILES,
    SERIES_FILES,
    STRUCTURE_FILES,
    Layout,
    SeriesIndex,
    read_shard,
    without_series,
    write_shard,
)
from pipelines.store import NotFound, Store

_READERS = 8
_TABLES = 64


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did: the run's series by status, and how many series' rows it had to replace."""

    series_by_status: dict[str, int]
    replaced: int


def publish(
    output: Store, run: Run, *, rebuild: bool = False, suspects: frozenset[str] = frozenset()
) -> Published:
    """Bring the tables to the run's records. One publisher at a time; repeating it changes nothing.

    `suspects` names records that were made again: rows of that name may be those of the former record.
    `rebuild` writes every series of the run again: the repair after a published file was damaged and deleted.

    Raises:
        StoreError: the store could not be read or written.
        ParquetDamaged: a published file cannot be read (delete it and publish again with `rebuild`).
    """
    totals: Counter[str] = Counter()
    replaced = 0
    for shard, group in groupby(run.expected(), lambda one: STRUCTURE_FILES.shard(one.series_key)):
        statuses, changed = _publish_shard(output, run, shard, list(group), rebuild, suspects)
        totals.update(statuses)
        replaced += changed
    for layout in (STRUCTURE_FILES, SERIES_FILES, MASK_FILES):
        if next(layout.shards(output), None) is None:  # a glob over a table without a file would fail
            write_shard(output, layout, "0" * layout.digits, [])
    _publish_run(output, run, dict(sorted(totals.items())))
    return Published(dict(sorted(totals.items())), replaced)


def read_tables_of(output: Store, run: Run, expected: Expected) -> RecordTables:
    """The rows the tables should hold for a series of the run: its record's, or `lost` ones without one."""
    try:
        tables = read_record(output.get(record_path(expected.record_key)))
        if tables.record_key == expected.record_key:
            return tables
    except (NotFound, RecordDamaged):
        pass
    return _lost(run, expected)


def _publish_shard(
    output: Store, run: Run, shard: str, all_expected: list[Expected], rebuild: bool, suspects: frozenset[str]
) -> tuple[Counter[str], int]:
    """Publish the series of one file of `structures` and `series`: their statuses, how many were replaced."""
    series = read_shard(output, SERIES_FILES, shard)
    structures = read_shard(output, STRUCTURE_FILES, shard)
    current = _current(series, structures)
    statuses: Counter[str] = Counter()
    stale = []
    for expected in all_expected:
        key, status = current.get(expected.series_key, (None, ""))
        settled = status not in RETRIABLE and key not in suspects
        if not rebuild and key == expected.record_key and settled:
            statuses[status] += 1
        else:
            stale.append(expected)
    if not stale:
        return statuses, 0
    old_series, old_structures = SeriesIndex(series), SeriesIndex(structures)
    keys: list[str] = []
    new_series: list[pa.Table] = []
    new_structures: list[pa.Table] = []
    for mask_shard, group in groupby(stale, lambda one: MASK_FILES.shard(one.series_key)):
        records = list(prefetch(lambda one: read_tables_of(output, run, one), group, _READERS))
        statuses.update(str(record.series["status"][0]) for record in records)
        if not rebuild:
            records = [record for record in records if not _published(record, old_series, old_structures)]
        _replace_masks(output, mask_shard, records)
        keys += [record.series_key for record in records]
        new_series = _gathered(new_series, [record.series for record in records])
        new_structures = _gathered(new_structures, [record.structures for record in records])
    if keys:
        _write_merged(output, STRUCTURE_FILES, shard, without_series(structures, keys), new_structures)
        _write_merged(output, SERIES_FILES, shard, without_series(series, keys), new_series)
    return statuses, len(keys)


def _gathered(tables: list[pa.Table], more: list[pa.Table]) -> list[pa.Table]:
    """All of them, many as one: a table of a few rows takes forty times the memory that its rows do."""
    tables = [*tables, *more]
    return tables if len(tables) < _TABLES else [pa.concat_tables(tables).combine_chunks()]


def _published(record: RecordTables, series: SeriesIndex, structures: SeriesIndex) -> bool:
    """Whether the tables hold the record's very rows; a retried record keeps its name but not its content."""
    return bool(
        series.rows(record.series_key).equals(record.series)
        and structures.rows(record.series_key).equals(record.structures)
    )


def _current(series: pa.Table, structures: pa.Table) -> dict[str, tuple[str, str]]:
    """Series key -> (record key, status) of the series whose rows in both tables come from one record."""
    names = ["series_key", "record_key"]
    pairs = structures.select(names).group_by(names).aggregate([])
    made_of = set(zip(pairs["series_key"].to_pylist(), pairs["record_key"].to_pylist(), strict=True))
    rows = series.select(["series_key", "record_key", "status"]).to_pylist()
    return {
        row["series_key"]: (row["record_key"], row["status"])
        for row in rows
        if (row["series_key"], row["record_key"]) in made_of
    }


def _replace_masks(output: Store, shard: str, records: list[RecordTables]) -> None:
    """Replace the masks of the records' series in one file, unless there are none before and after."""
    former = read_shard(output, MASK_FILES, shard)
    kept = without_series(former, [record.series_key for record in records])
    new = [record.masks for record in records if record.masks.num_rows]
    if new or kept.num_rows < former.num_rows:
        _write_merged(output, MASK_FILES, shard, kept, new)


def _write_merged(output: Store, layout: Layout, shard: str, kept: pa.Table, new: list[pa.Table]) -> None:
    """Write the rows in order of their series: the same rows are the same bytes."""
    rows = pa.concat_tables([kept, *new])
    if layout is MASK_FILES:
        write_shard(output, layout, shard, SeriesIndex(rows).slices())
    else:
        order = pa.compute.sort_indices(rows["series_key"])  # of one series they stay as they were
        write_shard(output, layout, shard, [rows.take(order).combine_chunks()])


def _publish_run(output: Store, run: Run, series_by_status: dict[str, int]) -> None:
    """Add the run's row with the highest sequence, unless it already is the newest and says the same."""
    former = read_shard(output, RUN_FILES, "0").to_pylist()
    newest = max(former, key=lambda row: int(row["sequence"]), default=None)
    if newest and newest["run_id"] == run.run_id and dict(newest["series_by_status"]) == series_by_status:
        return
    row = {
        "run_id": run.run_id,
        "sequence": int(newest["sequence"]) + 1 if newest else 1,
        "published_at": datetime.now(UTC),
        "manifest_id": run.manifest_id,
        "config_hash": run.config_hash,
        "weights_sha256": run.weights_sha256,
        "code_version": run.code_version,
        "series": len(run.manifest),
        "series_by_status": list(series_by_status.items()),
        "config_json": json.dumps(dict(run.config), sort_keys=True),
    }
    rows = [old for old in former if old["run_id"] != run.run_id] + [row]
    write_shard(output, RUN_FILES, "0", [pa.Table.from_pylist(rows, schema=RUN_FILES.schema)])


def _lost(run: Run, expected: Expected) -> RecordTables:
    """Rows for a series that has no readable record."""
    reason = str(Failure.NO_RECORD)
    series = replace(expected.row, status=Status.LOST, reason=reason, detail=None)
    rows = tuple(StructureRow(name, Status.LOST, reason) for name in run.structures)
    return read_record(encode_record(Record(series, rows, expected.provenance)))
