"""The files of the published tables: a table and a series' key in, the one file that may hold the series out.

    structures, series    16 files, by the first hexadecimal digit of the series' key
    masks                 4096 files, by the first three
    runs                  one file

A series never changes files, so replacing one file, which is atomic, replaces the series' rows: a reader who
globs a table at any moment sees every row whole and none twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from pipelines import parquet
from pipelines.schemas import MASKS, RUNS, SERIES, STRUCTURES
from pipelines.store import NotFound, Store


@dataclass(frozen=True, slots=True)
class Layout:
    """One table: its name, its schema, and how many digits of a series' key name its files."""

    name: str
    schema: pa.Schema
    digits: int

    @property
    def prefix(self) -> str:
        """The folder of its files."""
        return f"tables/{self.name}"

    def shard(self, series_key: str) -> str:
        """The digits of the file that holds the series."""
        return series_key[: self.digits] or "0"

    def path(self, shard: str) -> str:
        """The file's key."""
        return f"{self.prefix}/part-{shard}.parquet"

    def shards(self, output: Store) -> Iterator[str]:
        """The digits of the files that exist."""
        start, end = f"{self.prefix}/part-", ".parquet"
        for entry in output.list(self.prefix):
            if entry.key.startswith(start) and entry.key.endswith(end):
                yield entry.key.removeprefix(start).removesuffix(end)


STRUCTURE_FILES = Layout("structures", STRUCTURES, 1)
SERIES_FILES = Layout("series", SERIES, 1)
MASK_FILES = Layout("masks", MASKS, 3)
RUN_FILES = Layout("runs", RUNS, 0)


def read_shard(output: Store, layout: Layout, shard: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of one file, none where it does not exist yet. Raises pipelines.parquet.ParquetDamaged."""
    try:
        data = output.get(layout.path(shard))
    except NotFound:
        empty = layout.schema.empty_table()
        return empty.select(columns) if columns else empty
    try:
        return parquet.read(data, layout.schema, columns)[0]
    except parquet.ParquetDamaged as damage:
        raise parquet.ParquetDamaged(f"{layout.path(shard)}: {damage}") from None


def write_shard(output: Store, layout: Layout, shard: str, tables: Iterable[pa.Table]) -> None:
    """Replace one file by these rows, each table a row group of its own."""
    output.put(layout.path(shard), parquet.write(tables, layout.schema))


def without_series(table: pa.Table, series: Iterable[str]) -> pa.Table:
    """The rows of all other series."""
    gone = pa.array(sorted(series), pa.string())
    return table.filter(pa.compute.invert(pa.compute.is_in(table["series_key"], value_set=gone)))


class SeriesIndex:
    """Finds a series' rows in a table; quick where they lie together, right where they do not."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._spans: dict[str, list[tuple[int, int]]] = {}
        start = 0
        for series, rows in groupby(table["series_key"].to_pylist()):
            length = sum(1 for _ in rows)
            self._spans.setdefault(series, []).append((start, length))
            start += length

    @property
    def series(self) -> set[str]:
        """The keys of all series with rows in the table."""
        return set(self._spans)

    def rows(self, series: str) -> pa.Table:
        """The rows of one series, possibly none."""
        spans = self._spans.get(series, [])
        return pa.concat_tables([self._table.slice(0, 0), *(self._table.slice(*span) for span in spans)])

    def slices(self) -> Iterator[pa.Table]:
        """One table for each series, in order of their keys."""
        for series in sorted(self._spans):
            yield self.rows(series)
