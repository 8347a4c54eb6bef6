"""Where a word may have got to: files and objects in, all that can be read of them, and who holds a word, out."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.ward import CANARY_DATE, MARK
from tests.s3_server import ACCESS_KEY, SECRET_KEY

CANARIES = (MARK, CANARY_DATE, SECRET_KEY, ACCESS_KEY)


def laid_open(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's name and content, and what compression hides of it."""
    yield f"name {name}", name.encode()
    yield name, data
    if data[:2] == b"\x1f\x8b":
        yield f"unpacked {name}", gzip.decompress(data)
    if data[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(data))
        yield f"rows of {name}", repr(table.to_pydict()).encode()
        yield f"metadata of {name}", repr(table.schema.metadata).encode()


def holding(sinks: dict[str, bytes], word: str) -> list[str]:
    """Names of what holds the word."""
    return sorted(name for name, data in sinks.items() if word.encode() in data)
