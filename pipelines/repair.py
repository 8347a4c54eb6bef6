"""Repair an output: damaged records and tables of a run in; set aside in `quarantine/`, to be made again, out.

What is set aside stays where people can look at it. The tables remember it too: rows made of a record that was
set aside are compared with the record made in its place, whatever they say of themselves.
"""

from __future__ import annotations

import hashlib

from pipelines.identity import is_key, record_path
from pipelines.ledger import forget_attempts
from pipelines.parquet import ParquetDamaged
from pipelines.prefetch import prefetch
from pipelines.runs import Expected, Run
from pipelines.shards import MASK_FILES, RUN_FILES, SERIES_FILES, STRUCTURE_FILES, read_shard
from pipelines.store import NotFound, Store
from pipelines.verify import check_record

_PREFIX = "quarantine"
_THREADS = 8


def set_aside_records(output: Store, run: Run) -> int:
    """Take away every record of the run that verification would find fault with; how many there were."""

    def look(expected: Expected) -> bool:
        key = expected.record_key
        try:
            data = output.get(record_path(key))
        except NotFound:
            return False
        if not check_record(data, run, expected)[1]:
            return False
        digest = hashlib.sha256(data).hexdigest()[:16]
        output.put_if_absent(f"{_PREFIX}/records/{key}-{digest}.parquet", data)
        forget_attempts(output, key)
        output.delete(record_path(key))
        return True

    return sum(prefetch(look, run.expected(), _THREADS))


def set_aside_tables(output: Store) -> int:
    """Take away every table's file that cannot be read; how many there were. Publish with `rebuild` then."""
    found = 0
    for layout in (STRUCTURE_FILES, SERIES_FILES, MASK_FILES, RUN_FILES):
        for shard in list(layout.shards(output)):
            try:
                read_shard(output, layout, shard)
            except ParquetDamaged:
                path = layout.path(shard)
                data = output.get(path)
                digest = hashlib.sha256(data).hexdigest()[:16]
                output.put_if_absent(f"{_PREFIX}/{layout.name}-{shard}-{digest}.parquet", data)
                output.delete(path)
                found += 1
    return found


def set_aside(output: Store) -> frozenset[str]:
    """Names of the records that were ever set aside."""
    names = (entry.key.rpartition("/")[2].partition("-")[0] for entry in output.list(f"{_PREFIX}/records"))
    return frozenset(name for name in names if is_key(name))
