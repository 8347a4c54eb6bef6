"""Publishing: every series once, the newest run's, other files untouched; and readers who look in between."""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import duckdb
import numpy as np
import pytest

from ctsam3d.outcome import Status
from pipelines import tables
from pipelines.identity import record_path
from pipelines.masks import decode_mask
from pipelines.records import encode_record
from pipelines.shards import MASK_FILES, SERIES_FILES, STRUCTURE_FILES, read_shard
from pipelines.store import Store, StoreError, open_store
from pipelines.tables import publish
from pipelines.verify import verify
from tests.pipelines.outputs import STRUCTURES, commit, make_run, masks_of, record_of, series_ref
from tests.s3_server import S3Server


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), create=True)


def query(output: Store, text: str) -> list[tuple[Any, ...]]:
    for name in ("structures", "series", "masks", "runs"):
        text = text.replace(f"<{name}>", f"read_parquet('{output.uri}/tables/{name}/*.parquet')")
    return duckdb.sql(text).fetchall()


def snapshot(output: Store) -> dict[str, str | None]:
    return {entry.key: entry.etag for entry in output.list("tables")}


def test_a_published_run_has_every_series_and_structure_once(output: Store) -> None:
    refs = [series_ref(n) for n in range(40)] + [series_ref(40, rejected=True)]
    run = make_run(refs)
    commit(output, run)
    assert publish(output, run).series_by_status == {"ok": 40, "rejected": 1}
    rows = query(output, "SELECT series_key, structure, count(*) FROM <structures> GROUP BY ALL")
    assert len(rows) == 41 * 3 and {count for *_, count in rows} == {1}
    assert query(output, "SELECT count(*), count(DISTINCT series_key) FROM <series>") == [(41, 41)]
    assert query(output, "SELECT count(*) FROM <masks>") == [(80,)]
    assert query(output, "SELECT status, count(*) FROM <structures> GROUP BY 1 ORDER BY 1") == [
        ("absent", 40),
        ("ok", 40),
        ("rejected", 3),
        ("truncated", 40),
    ]
    assert query(output, "SELECT seconds_per_stage['segment'] FROM <series> WHERE status = 'ok' LIMIT 1") == [
        (2.25,)
    ]
    assert verify(output).ok


def test_a_mask_in_the_table_is_the_mask_that_was_measured(output: Store) -> None:
    ref = series_ref(1)
    run = make_run([ref])
    commit(output, run)
    publish(output, run)
    columns = ["structure", "bbox", "shape_zyx", "affine", "encoding", "bits", "voxels"]
    for values in query(output, f"SELECT {', '.join(columns)} FROM <masks>"):
        row = dict(zip(columns, values, strict=True))
        assert np.array_equal(decode_mask(row), masks_of(ref)[row["structure"]])


def test_publishing_again_writes_nothing(output: Store) -> None:
    failed = series_ref(6)
    run = make_run([*(series_ref(n) for n in range(5)), series_ref(5, rejected=True), failed])
    commit(output, run, skip=(failed.series_key,))
    output.put(
        record_path(run.record_key(failed)),
        encode_record(record_of(run, failed, Status.FAILED, "STORE_READ")),
    )
    assert publish(output, run).replaced == 7
    before = snapshot(output)
    assert publish(output, run).replaced == 0
    assert snapshot(output) == before
    assert publish(output, run, rebuild=True).replaced == 7
    assert verify(output).ok


def test_records_held_as_one_table_are_published_as_each_for_itself(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run([series_ref(n) for n in range(40)])
    commit(output, run)
    publish(output, run)
    before = {key: output.get(key) for key in snapshot(output)}
    monkeypatch.setattr(tables, "_TABLES", 2)  # a file of 16 has the rows of more
    assert publish(output, run, rebuild=True).replaced == 40
    assert {key: output.get(key) for key in snapshot(output)} == before


def test_a_new_series_touches_only_its_own_files(output: Store) -> None:
    refs = [series_ref(n) for n in range(3)]
    first = make_run(refs)
    commit(output, first)
    publish(output, first)
    before = snapshot(output)
    second = make_run([*refs, series_ref(3)])
    commit(output, second)
    assert publish(output, second).replaced == 1
    after = snapshot(output)
    changed = {key for key in after if after[key] != before.get(key)}
    new = series_ref(3).series_key
    assert changed == {
        f"tables/structures/part-{new[0]}.parquet",
        f"tables/series/part-{new[0]}.parquet",
        f"tables/masks/part-{new[:3]}.parquet",
        "tables/runs/part-0.parquet",
    }
    assert query(output, "SELECT count(DISTINCT series_key) FROM <structures>") == [(4,)]
    assert query(output, "SELECT run_id FROM <runs> ORDER BY sequence") == [(first.run_id,), (second.run_id,)]
    assert verify(output).ok


def test_the_run_published_last_stands_for_its_series_and_no_others(output: Store) -> None:
    refs = [series_ref(n) for n in range(6)]
    first, second = make_run(refs), make_run(refs[:2], "config-b")
    for run in (first, second):
        commit(output, run)
        publish(output, run)
    held = dict(query(output, "SELECT series_key, any_value(config_hash) FROM <structures> GROUP BY 1"))
    assert held == {ref.series_key: "config-b" if ref in refs[:2] else "config-a" for ref in refs}
    assert dict(query(output, "SELECT series_key, config_hash FROM <series>")) == held
    assert verify(output).ok
    assert verify(output, first.run_id).ok and verify(output, second.run_id).ok
    publish(output, first)  # the settings of before, again: nothing is computed, the tables go back
    assert query(output, "SELECT DISTINCT config_hash FROM <structures>") == [("config-a",)]
    assert verify(output).ok


def test_a_result_that_lost_its_masks_loses_them_in_the_tables(output: Store) -> None:
    ref = series_ref(1)
    first, second = make_run([ref]), make_run([ref], "config-b")
    commit(output, first)
    publish(output, first)
    output.put(
        record_path(second.record_key(ref)), encode_record(record_of(second, ref, Status.REJECTED, "NOT_CT"))
    )
    commit(output, second)
    publish(output, second)
    assert query(output, "SELECT count(*) FROM <masks>") == [(0,)]
    assert verify(output).ok


def test_a_series_without_a_record_is_lost_until_it_has_one(output: Store) -> None:
    refs = [series_ref(n) for n in range(3)]
    run = make_run(refs)
    commit(output, run, skip=(refs[1].series_key,))
    assert publish(output, run).series_by_status == {"lost": 1, "ok": 2}
    lost = query(
        output,
        f"SELECT structure, status, reason FROM <structures> WHERE series_key = '{refs[1].series_key}'",
    )
    assert sorted(lost) == [(name, "lost", "NO_RECORD") for name in sorted(STRUCTURES)]
    commit(output, run)
    assert publish(output, run).series_by_status == {"ok": 3}
    assert query(output, "SELECT count(*) FROM <structures> WHERE status = 'lost'") == [(0,)]
    assert verify(output).ok


def test_a_run_without_masks_leaves_tables_that_can_be_read(output: Store) -> None:
    run = make_run([series_ref(1, rejected=True)])
    commit(output, run)
    publish(output, run)
    assert query(output, "SELECT count(*) FROM <masks>") == [(0,)]
    assert verify(output).ok


@pytest.mark.s3
def test_a_bucket_holds_the_same_tables_as_a_folder(output: Store, aws_environment: S3Server) -> None:
    bucket = open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}")
    run = make_run([*(series_ref(n) for n in range(5)), series_ref(5, rejected=True)])
    for store in (output, bucket):
        commit(store, run)
        publish(store, run)
        assert publish(store, run).replaced == 0
        assert verify(store).ok
    for layout in (STRUCTURE_FILES, SERIES_FILES, MASK_FILES):
        shards = sorted(layout.shards(output))
        assert shards == sorted(layout.shards(bucket)) != []
        for shard in shards:
            assert read_shard(output, layout, shard).equals(read_shard(bucket, layout, shard))


class Failing(Store):
    """A store whose power goes out after a number of writes."""

    def put(self, key: str, data: bytes) -> None:
        left = self.__dict__.setdefault("left", None)
        if left is not None:
            if left == 0:
                raise StoreError("out of power")
            self.__dict__["left"] = left - 1
        super().put(key, data)


def test_a_publication_that_stops_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    refs = [series_ref(n) for n in range(4)]
    first, second = make_run(refs[:3]), make_run(refs, "config-b")
    for writes in range(0, 40, 5):
        (tmp_path / str(writes)).mkdir()
        output = Failing(str(tmp_path / str(writes)))
        for run in (first, second):
            commit(output, run)
        publish(output, first)
        output.__dict__["left"] = writes
        try:
            publish(output, second)
            break
        except StoreError:
            duplicates = "SELECT series_key, structure FROM <structures> GROUP BY ALL HAVING count(*) > 1"
            assert query(output, duplicates) == []
            output.__dict__["left"] = None
            publish(output, second)
            assert verify(output).ok, verify(output).findings
    assert writes > 8  # it did stop, early and late


def test_a_reader_sees_every_series_whole_while_tables_are_replaced(output: Store) -> None:
    refs = [series_ref(n) for n in range(8)]
    runs = [make_run(refs, f"config-{n}") for n in range(5)]
    for run in runs:
        commit(output, run)
    publish(output, runs[0])

    done = Event()

    def look() -> int:
        looks = 0
        while not done.is_set():
            rows = query(output, "SELECT series_key, list(structure) FROM <structures> GROUP BY ALL")
            assert Counter(key for key, _ in rows) == {ref.series_key: 1 for ref in refs}
            assert all(sorted(names) == sorted(STRUCTURES) for _, names in rows)
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(look)
        try:
            for run in runs[1:]:
                assert publish(output, run).replaced == len(refs)
        finally:
            done.set()
        assert reader.result() > 4
