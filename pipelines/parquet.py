"""Parquet with checksums: Arrow tables of a fixed schema in, the bytes of one file out, and back, verified.

Reading trusts nothing: page checksums are verified, the columns must be those of the expected schema, and
extension types, which may name code to load, are left alone: what a file says of Arrow's types is not even read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from ctsam3d.arrow_schema import without_arrow_schema

_ROWS_PER_GROUP = 131_072
_ROWS_FOR_THREADS = 10_000  # fewer are read sooner than a busy machine wakes threads
_BLOB_LEVEL = (
    8  # of zstd: a seventh less than at its default, read as fast; beyond it time grows, size hardly falls
)
# Lists that are the same for all masks of a series.
_ALIKE = ("shape_zyx.list.element", "affine.list.element")
# Columns that files of the same schema version may lack: any other that is missing is damage.
ADDED_COLUMNS = frozenset(
    {
        *("flags", "prompter", "geometry_fix", "frame_slices", "study_date", "orientation_suspect"),
        "prompts_digest",
    }
)
_VERSION_KEY = b"ctsam3d.schema_version"


class ParquetDamaged(Exception):
    """Bytes that are not a whole Parquet file of the expected schema. The message is one line."""


def write(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    metadata: Mapping[bytes, bytes] | None = None,
    *,
    arrow_schema: bool = True,
) -> bytes:
    """The bytes of one file; each table starts a row group of its own.

    Where there are blobs nothing else is compressed: it is little beside them, and to set up zstd for each column takes
    a reader longer than to read it. `arrow_schema` adds Arrow's own schema, which gives the columns' units to others
    and is not read here; many small files are better off without.
    """
    full = schema.with_metadata({**(schema.metadata or {}), **(metadata or {})})
    blobs = [f.name for f in schema if pa.types.is_large_binary(f.type)]
    sink = io.BytesIO()  # whose value is no second copy
    with pq.ParquetWriter(
        sink,
        full,
        compression=dict.fromkeys(blobs, "zstd") if blobs else "zstd",
        compression_level=dict.fromkeys(blobs, _BLOB_LEVEL) if blobs else None,
        use_dictionary=[*(f.name for f in schema if pa.types.is_string(f.type)), *_ALIKE],
        write_statistics=[f.name for f in schema if f.name not in blobs],
        write_page_checksum=True,
        store_schema=arrow_schema,
    ) as writer:
        for table in tables:
            if table.num_rows:
                writer.write_table(table.cast(schema).replace_schema_metadata(full.metadata), _ROWS_PER_GROUP)
        if not arrow_schema:  # with it they are written, too
            writer.add_key_value_metadata(full.metadata)
    return sink.getvalue()


def read(
    data: bytes, schema: pa.Schema, columns: Sequence[str] | None = None
) -> tuple[pa.Table, Mapping[bytes, bytes]]:
    """The rows (the given columns, or all) and the file's metadata; null where an older file lacks a column.

    Raises:
        ParquetDamaged: not Parquet, another schema or schema version, or a page whose checksum is wrong.
    """
    file = open_verified(data, schema)
    counted = sum(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    if counted != file.metadata.num_rows:
        raise ParquetDamaged("the file's row counts contradict each other")
    threads = file.metadata.num_rows > _ROWS_FOR_THREADS
    table = _rows(file.read, file.metadata.num_rows, schema, columns, file.schema_arrow, use_threads=threads)
    return table, file.schema_arrow.metadata


def read_groups(data: bytes, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of one row group after the other, as `read` gives those of all.

    Raises:
        ParquetDamaged: as `read`.
    """
    file = open_verified(data, schema)
    for i in range(file.metadata.num_row_groups):
        read_group, count = partial(file.read_row_group, i), file.metadata.row_group(i).num_rows
        yield _rows(read_group, count, schema, columns, file.schema_arrow, use_threads=False)


def open_verified(data: bytes, schema: pa.Schema) -> pq.ParquetFile:
    """The file behind the bytes, its schema checked; pages are verified as they are read."""
    try:
        file = pq.ParquetFile(
            pa.BufferReader(without_arrow_schema(data)),
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        found = file.schema_arrow
    except Exception as fault:  # damaged bytes raise whatever they happen to hit
        raise ParquetDamaged(_explain(fault)) from None
    version = (found.metadata or {}).get(_VERSION_KEY)
    if version != schema.metadata[_VERSION_KEY] or not _is_same_or_older(found, schema):
        raise ParquetDamaged("the file's schema or schema version is not the expected one")
    return file


def _rows(
    read_them: Callable[..., pa.Table],
    count: int,
    schema: pa.Schema,
    columns: Sequence[str] | None,
    found: pa.Schema,
    *,
    use_threads: bool,
) -> pa.Table:
    """What is read, with the columns that were asked for; ParquetDamaged where it is not so many good rows."""
    there = frozenset(found.names)
    try:
        table = read_them(
            columns=[name for name in columns if name in there] if columns is not None else None,
            use_threads=use_threads,
        )
        table.validate(full=True)
    except Exception as fault:  # damaged bytes raise whatever they happen to hit
        raise ParquetDamaged(_explain(fault)) from None
    if table.num_rows != count:
        raise ParquetDamaged("the file's row counts contradict each other")
    wanted = (
        schema if columns is None else pa.schema([schema.field(name) for name in columns], schema.metadata)
    )
    arrays = [
        table[field.name].cast(field.type) if field.name in there else pa.nulls(table.num_rows, field.type)
        for field in wanted
    ]
    return pa.table(arrays, schema=wanted)


def _is_same_or_older(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a file has the columns of the schema, in order, but for those that were added later.

    Columns are added to a schema and never taken away or changed without a new version.
    """
    names = frozenset(found.names)
    known = [_as_stored(field) for field in schema if field.name in names]
    added = [field for field in schema if field.name not in names]
    return found.equals(pa.schema(known)) and all(field.name in ADDED_COLUMNS for field in added)


def _as_stored(field: pa.Field) -> pa.Field:
    """The column as Parquet has it, which knows one kind of binary."""
    return field.with_type(pa.binary()) if pa.types.is_large_binary(field.type) else field


def _explain(fault: Exception) -> str:
    if "checksum" in str(fault).lower() or "crc" in str(fault).lower():
        return "a page's checksum is wrong"
    return f"not a whole Parquet file ({type(fault).__name__})"
