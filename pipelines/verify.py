"""Check an output: records, masks and tables in, a report of everything that does not agree out.

1. Every series of every published run has one readable record: its name, checksums and structures are right.
2. Every mask decodes, lies on a plausible grid, and holds the voxels and the volume its row says.
3. The tables hold, for every series, the rows of its newest published run's record, once, and no others.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from pipelines import parquet
from pipelines.identity import record_path
from pipelines.masks import MaskDamaged, MaskRow, count_voxels
from pipelines.prefetch import prefetch
from pipelines.records import RecordDamaged, RecordTables, read_record
from pipelines.runs import Expected, Run, RunDamaged, list_runs, load_run
from pipelines.shards import (
    MASK_FILES,
    RUN_FILES,
    SERIES_FILES,
    STRUCTURE_FILES,
    Layout,
    SeriesIndex,
    read_shard,
)
from pipelines.store import NotFound, Store

_READERS = 8
_VOLUME_TOLERANCE = 1e-6  # relative: volume and voxels are two roundings of one product


class Problem(StrEnum):
    """What verification can find. Codes are stable."""

    NO_RUN = "NO_RUN"  # no run was ever published here
    RUN_DAMAGED = "RUN_DAMAGED"
    RUN_NOT_PUBLISHED = "RUN_NOT_PUBLISHED"  # the run that was asked about
    RECORD_MISSING = "RECORD_MISSING"
    RECORD_DAMAGED = "RECORD_DAMAGED"
    RECORD_FOREIGN = "RECORD_FOREIGN"  # whole, but not what its name or the run says
    MASK_DAMAGED = "MASK_DAMAGED"
    MASK_DISAGREES = "MASK_DISAGREES"  # with the statistics beside it
    TABLE_DAMAGED = "TABLE_DAMAGED"
    ROWS_MISSING = "ROWS_MISSING"
    ROWS_DUPLICATED = "ROWS_DUPLICATED"
    ROWS_DIFFER = "ROWS_DIFFER"  # a table says other than the record
    ROWS_UNKNOWN = "ROWS_UNKNOWN"  # a table holds what no published run does


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its kind, the object or series it concerns, and what was found."""

    problem: Problem
    key: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.problem} {self.key}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Report:
    """What verification saw.

    Attributes:
        runs: names of the runs looked at.
        unpublished: names of runs that were started and never published; they promise nothing yet.
        series: series of all these runs, each counted once.
        records: records read whole.
        masks: masks decoded.
        series_by_status: outcomes of the newest published run of each series.
        findings: everything that is wrong; empty where all is well.
    """

    runs: tuple[str, ...]
    unpublished: tuple[str, ...]
    series: int
    records: int
    masks: int
    series_by_status: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify(output: Store, run_id: str | None = None) -> Report:
    """Check the records of all published runs (or of one run) and the tables that should be made of them.

    Raises:
        StoreError: the store cannot be read; that says nothing about the output.
    """
    findings: list[Finding] = []
    published = _sequences(output, findings)
    saved = list(list_runs(output))
    unpublished = tuple(name for name in saved if name not in published)
    names = [run_id] if run_id else sorted(published)
    if not names:
        findings.append(Finding(Problem.NO_RUN, output.uri, f"{len(saved)} runs started, none published"))
    # Asked about one run, the tables can be held to it only if no other was published after it.
    latest = max(published, key=lambda name: published[name], default=None)
    in_tables = set(published) if run_id is None else {run_id} & {latest}
    newest: dict[str, Expected] = {}
    to_read: dict[str, tuple[Run, Expected]] = {}
    for name in sorted(names, key=lambda name: published.get(name, 0)):
        run = _load(output, name, findings)
        if run is None:
            continue
        if name not in published:
            findings.append(Finding(Problem.RUN_NOT_PUBLISHED, name))
        for expected in run.expected():
            to_read.setdefault(expected.record_key, (run, expected))
            if name in in_tables:
                newest[expected.series_key] = expected
    masks = records = 0
    statuses: Counter[str] = Counter()
    tables = _Tables(output, findings)
    work = sorted(to_read.items(), key=lambda item: (item[1][1].series_key, item[0]))
    read = prefetch(lambda item: _fetch(output, *item[1]), work, _READERS)
    for (key, (_, expected)), result in zip(work, read, strict=True):
        if isinstance(result, Finding):
            findings.append(result)
            continue
        records += 1
        masks += _check_masks(key, result, findings)
        latest_of_all = newest.get(expected.series_key)
        if latest_of_all is not None and latest_of_all.record_key == key:
            statuses[str(result.series["status"][0])] += 1
            tables.compare(result)
    if run_id is None:
        tables.look_for_unknown(set(newest))
    series = len({expected.series_key for _, expected in to_read.values()})
    return Report(
        runs=tuple(names),
        unpublished=unpublished,
        series=series,
        records=records,
        masks=masks,
        series_by_status=dict(sorted(statuses.items())),
        findings=tuple(findings),
    )


def _sequences(output: Store, findings: list[Finding]) -> dict[str, int]:
    """Published runs and their order."""
    try:
        rows = read_shard(output, RUN_FILES, "0", ["run_id", "sequence"]).to_pylist()
    except parquet.ParquetDamaged as damage:
        findings.append(Finding(Problem.TABLE_DAMAGED, RUN_FILES.path("0"), str(damage)))
        return {}
    return {row["run_id"]: int(row["sequence"]) for row in rows}


def _load(output: Store, name: str, findings: list[Finding]) -> Run | None:
    try:
        return load_run(output, name)
    except (RunDamaged, NotFound) as damage:
        findings.append(Finding(Problem.RUN_DAMAGED, name, str(damage)))
        return None


def check_record(data: bytes, run: Run, expected: Expected) -> tuple[RecordTables | None, list[Finding]]:
    """A record as rows, None where it is not readable or not the one expected, and all that is wrong with it."""
    read = _read(data, run, expected)
    if isinstance(read, Finding):
        return None, [read]
    findings: list[Finding] = []
    _check_masks(expected.record_key, read, findings)
    return read, findings


def _fetch(output: Store, run: Run, expected: Expected) -> RecordTables | Finding:
    """The record, or what is wrong with it."""
    key = expected.record_key
    try:
        return _read(output.get(record_path(key)), run, expected)
    except NotFound:
        return Finding(Problem.RECORD_MISSING, key, f"series {expected.series_key}")


def _read(data: bytes, run: Run, expected: Expected) -> RecordTables | Finding:
    key, made = expected.record_key, expected.provenance
    try:
        record = read_record(data)
    except RecordDamaged as damage:
        return Finding(Problem.RECORD_DAMAGED, key, str(damage))
    row = record.series.select(["record_key", "series_key", "input_digest", "config_hash", "weights_sha256"])
    said = [key, expected.series_key, made.input_digest, made.config_hash, made.weights_sha256]
    if list(row.to_pylist()[0].values()) != said:
        return Finding(Problem.RECORD_FOREIGN, key, "it says it was made of something else")
    if sorted(record.structures["structure"].to_pylist()) != sorted(run.structures):
        return Finding(Problem.RECORD_FOREIGN, key, "its structures are not the run's")
    return record


def _check_masks(key: str, record: RecordTables, findings: list[Finding]) -> int:
    """Decode every mask of a record and compare it with the statistics beside it; count them."""
    columns = ["structure", "voxels", "bbox", "volume_ml"]
    statistics = {row["structure"]: row for row in record.structures.select(columns).to_pylist()}
    masked = 0
    for row in record.masks.to_pylist():
        masked += 1
        name = f"{key}/{row['structure']}"
        said = statistics.pop(row["structure"])
        try:
            mask = MaskRow.from_columns(row)
            voxels, volume_ml = count_voxels(mask), mask.voxels * mask.geometry.voxel_volume_ml
        except (MaskDamaged, ValueError) as damage:
            findings.append(Finding(Problem.MASK_DAMAGED, name, str(damage)))
            continue
        if not voxels == mask.voxels == said["voxels"] or list(mask.bbox) != said["bbox"]:
            findings.append(
                Finding(Problem.MASK_DISAGREES, name, f"{voxels} voxels, {said['voxels']} expected")
            )
        if not math.isclose(said["volume_ml"] or 0.0, volume_ml, rel_tol=_VOLUME_TOLERANCE):
            findings.append(
                Finding(Problem.MASK_DISAGREES, name, f"{volume_ml:.6g} ml, its row says otherwise")
            )
    for structure, said in statistics.items():
        if said["voxels"]:
            findings.append(Finding(Problem.MASK_DISAGREES, f"{key}/{structure}", "voxels without a mask"))
    return masked


class _Tables:
    """The published tables beside the records, file by file as the series' keys go by in order."""

    def __init__(self, output: Store, findings: list[Finding]) -> None:
        self._output = output
        self._findings = findings
        self._open: dict[str, tuple[str, SeriesIndex | None]] = {}

    def compare(self, record: RecordTables) -> None:
        """Find whether each table holds exactly the record's rows for its series."""
        for layout, expected in (
            (STRUCTURE_FILES, record.structures),
            (SERIES_FILES, record.series),
            (MASK_FILES, record.masks),
        ):
            index = self._shard(layout, layout.shard(record.series_key))
            if index is not None:
                problem = _difference(index.rows(record.series_key), expected)
                if problem is not None:
                    self._findings.append(Finding(problem, f"{layout.prefix} {record.series_key}"))

    def look_for_unknown(self, known: set[str]) -> None:
        """Find rows of series that no published run holds, and rows in a file that is not theirs."""
        for layout in (STRUCTURE_FILES, SERIES_FILES, MASK_FILES):
            for shard in layout.shards(self._output):
                index = self._shard(layout, shard, ["series_key"])
                for series in sorted(index.series if index else ()):
                    if series not in known or layout.shard(series) != shard:
                        self._findings.append(Finding(Problem.ROWS_UNKNOWN, f"{layout.path(shard)} {series}"))

    def _shard(self, layout: Layout, shard: str, columns: list[str] | None = None) -> SeriesIndex | None:
        """The file's rows; None, after one finding, where it cannot be read."""
        name = f"{shard} {columns}"
        if self._open.get(layout.name, ("", None))[0] != name:
            try:
                index = SeriesIndex(read_shard(self._output, layout, shard, columns))
            except parquet.ParquetDamaged as damage:
                index = None
                finding = Finding(Problem.TABLE_DAMAGED, layout.path(shard), str(damage))
                if finding not in self._findings:
                    self._findings.append(finding)
            self._open[layout.name] = (name, index)
        return self._open[layout.name][1]


def _difference(found: pa.Table, expected: pa.Table) -> Problem | None:
    """How the rows of one series in a table differ from its record's, in whatever order they are."""
    if "structure" in expected.column_names:
        found, expected = found.sort_by("structure"), expected.sort_by("structure")
    if found.equals(expected):
        return None
    names = found["structure"].to_pylist() if "structure" in found.column_names else [""] * found.num_rows
    if len(set(names)) < len(names):
        return Problem.ROWS_DUPLICATED
    return Problem.ROWS_MISSING if found.num_rows < expected.num_rows else Problem.ROWS_DIFFER
