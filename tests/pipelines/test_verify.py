"""Verification finds whatever was taken from, added to or changed in an output, and only that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import parquet
from pipelines.identity import record_path
from pipelines.manifest import SeriesRef
from pipelines.masks import encode_mask
from pipelines.records import encode_record
from pipelines.runs import Run, RunDamaged, load_run, save_run
from pipelines.shards import MASK_FILES, SERIES_FILES, STRUCTURE_FILES, Layout, read_shard, write_shard
from pipelines.store import NotFound, Store, open_store
from pipelines.tables import publish
from pipelines.verify import Problem, verify
from tests.pipelines.outputs import GRID, commit, make_run, masks_of, record_of, series_ref

REFS = [*(series_ref(n) for n in range(4)), series_ref(4, rejected=True)]
VICTIM = REFS[1]
RUN = make_run(REFS)


@pytest.fixture
def output(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"), create=True)
    commit(store, RUN)
    publish(store, RUN)
    return store


def problems(output: Store) -> dict[Problem, int]:
    report = verify(output)
    found = [finding.problem for finding in report.findings]
    assert report.ok == (not found)
    assert all("\n" not in str(finding) for finding in report.findings)
    return {problem: found.count(problem) for problem in found}


def replace_record(output: Store, ref: SeriesRef, data: bytes, run: Run = RUN) -> None:
    output.put(record_path(run.record_key(ref)), data)


def change_table(output: Store, layout: Layout, change: Callable[[pa.Table], pa.Table]) -> None:
    shard = layout.shard(VICTIM.series_key)
    write_shard(output, layout, shard, [change(read_shard(output, layout, shard))])


def rows_of_victim(table: pa.Table) -> pa.Table:
    return table.filter(pa.compute.equal(table["series_key"], VICTIM.series_key))


def test_a_whole_output_has_no_problems(output: Store) -> None:
    report = verify(output)
    assert report.findings == ()
    assert (report.runs, report.series, report.records, report.masks) == ((RUN.run_id,), 5, 5, 8)
    assert report.series_by_status == {"ok": 4, "rejected": 1}


def test_a_missing_record(output: Store) -> None:
    output.delete(record_path(RUN.record_key(VICTIM)))
    assert problems(output) == {Problem.RECORD_MISSING: 1}


@pytest.mark.parametrize("where", [0.2, 0.9])
def test_a_damaged_record(output: Store, where: float) -> None:
    key = record_path(RUN.record_key(VICTIM))
    data = bytearray(output.get(key))
    at = int(len(data) * where)
    data[at : at + 8] = bytes(b ^ 0xFF for b in data[at : at + 8])
    output.put(key, bytes(data))
    assert problems(output) == {Problem.RECORD_DAMAGED: 1}


def test_a_record_cut_short(output: Store) -> None:
    key = record_path(RUN.record_key(VICTIM))
    output.put(key, output.get(key)[:-7])
    assert problems(output) == {Problem.RECORD_DAMAGED: 1}


def test_a_record_of_another_series_under_this_name(output: Store) -> None:
    replace_record(output, VICTIM, output.get(record_path(RUN.record_key(REFS[0]))))
    assert problems(output) == {Problem.RECORD_FOREIGN: 1}


def test_a_record_that_lacks_a_requested_structure(output: Store) -> None:
    record = record_of(RUN, VICTIM)
    replace_record(output, VICTIM, encode_record(replace(record, structures=record.structures[:2])))
    assert problems(output) == {Problem.RECORD_FOREIGN: 1}


def test_a_record_whose_mask_is_not_what_was_measured(output: Store) -> None:
    record = record_of(RUN, VICTIM)
    mask = masks_of(VICTIM)["liver"].copy()
    z, y, x = (int(axis[len(axis) // 2]) for axis in mask.nonzero())
    mask[z, y, x] = False  # one voxel, inside: the box stays
    row = encode_mask(mask, GRID)
    assert row is not None
    lying = replace(record.structures[0], mask=replace(row, voxels=row.voxels + 1), bbox=row.bbox)
    data = encode_record(replace(record, structures=(lying, *record.structures[1:])))
    replace_record(output, VICTIM, data)
    publish(output, RUN, rebuild=True)
    assert problems(output) == {Problem.MASK_DISAGREES: 1}


def test_a_record_whose_volume_is_not_that_of_its_voxels(output: Store) -> None:
    record = record_of(RUN, VICTIM)
    first = record.structures[0]
    assert first.volume_ml is not None
    lying = replace(first, volume_ml=first.volume_ml * 1.001)
    replace_record(output, VICTIM, encode_record(replace(record, structures=(lying, *record.structures[1:]))))
    publish(output, RUN, rebuild=True)
    assert problems(output) == {Problem.MASK_DISAGREES: 1}


def test_voxels_without_a_mask(output: Store) -> None:
    record = record_of(RUN, VICTIM)
    bare = replace(record.structures[0], mask=None)
    replace_record(output, VICTIM, encode_record(replace(record, structures=(bare, *record.structures[1:]))))
    publish(output, RUN, rebuild=True)
    assert problems(output) == {Problem.MASK_DISAGREES: 1}


@pytest.mark.parametrize("layout", [STRUCTURE_FILES, SERIES_FILES, MASK_FILES])
def test_a_table_that_lost_rows(output: Store, layout: Layout) -> None:
    change_table(output, layout, lambda t: t.filter(pa.compute.not_equal(t["series_key"], VICTIM.series_key)))
    assert problems(output) == {Problem.ROWS_MISSING: 1}


@pytest.mark.parametrize("layout", [STRUCTURE_FILES, SERIES_FILES, MASK_FILES])
def test_a_table_with_rows_twice(output: Store, layout: Layout) -> None:
    change_table(output, layout, lambda t: pa.concat_tables([t, rows_of_victim(t)]))
    assert problems(output) == {Problem.ROWS_DUPLICATED: 1}


def test_a_table_with_another_number(output: Store) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("mean_hu")
        values = pa.compute.if_else(
            pa.compute.equal(table["series_key"], VICTIM.series_key), 42.0, table["mean_hu"]
        )
        return table.set_column(at, table.schema.field(at), values)

    change_table(output, STRUCTURE_FILES, change)
    assert problems(output) == {Problem.ROWS_DIFFER: 1}


@pytest.mark.parametrize("layout", [STRUCTURE_FILES, SERIES_FILES, MASK_FILES])
def test_a_table_with_rows_of_nobody(output: Store, layout: Layout) -> None:
    key = ("0" if VICTIM.series_key[0] != "0" else "1") * 32
    rows = rows_of_victim(read_shard(output, layout, layout.shard(VICTIM.series_key)))
    stranger = rows.set_column(0, rows.schema.field(0), pa.array([key] * rows.num_rows))
    shard = layout.shard(key)
    write_shard(output, layout, shard, [read_shard(output, layout, shard), stranger])
    assert problems(output) == {Problem.ROWS_UNKNOWN: 1}


@pytest.mark.parametrize("layout", [STRUCTURE_FILES, SERIES_FILES, MASK_FILES])
def test_a_damaged_table(output: Store, layout: Layout) -> None:
    path = layout.path(layout.shard(VICTIM.series_key))
    whole = output.get(path)
    output.put(path, whole[: len(whole) // 2])
    assert set(problems(output)) == {Problem.TABLE_DAMAGED}
    output.delete(path)
    assert set(problems(output)) == {Problem.ROWS_MISSING}
    publish(output, RUN, rebuild=True)
    assert problems(output) == {}


def test_an_output_without_a_published_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert problems(store) == {Problem.NO_RUN: 1}
    commit(store, RUN)
    assert problems(store) == {Problem.NO_RUN: 1}


def test_a_run_that_was_begun_and_left_does_not_count_against_the_others(output: Store) -> None:
    begun = make_run([series_ref(9)])
    save_run(output, begun)
    report = verify(output)
    assert report.ok and report.unpublished == (begun.run_id,)
    asked = {finding.problem for finding in verify(output, begun.run_id).findings}
    assert asked == {Problem.RUN_NOT_PUBLISHED, Problem.RECORD_MISSING}


def test_a_run_that_is_gone_or_forged(output: Store) -> None:
    other = make_run([series_ref(9)])
    save_run(output, other)
    output.put(f"runs/{RUN.run_id}/manifest.parquet", output.get(f"runs/{other.run_id}/manifest.parquet"))
    assert problems(output)[Problem.RUN_DAMAGED] == 1
    output.delete(f"runs/{RUN.run_id}/run.json")
    assert problems(output)[Problem.RUN_DAMAGED] == 1
    with pytest.raises(RunDamaged):
        load_run(output, "../../etc")
    with pytest.raises(NotFound):
        load_run(output, "0" * 32)


def test_a_saved_run_knows_the_same_names(output: Store) -> None:
    loaded = load_run(output, RUN.run_id)
    assert loaded.run_id == RUN.run_id and loaded.structures == RUN.structures
    assert [loaded.record_key(ref) for ref in loaded.manifest] == [
        RUN.record_key(ref) for ref in RUN.manifest
    ]
    assert dict(loaded.config) == dict(RUN.config)


def test_a_schema_of_another_version_is_refused(output: Store) -> None:
    layout = STRUCTURE_FILES
    newer = layout.schema.with_metadata({b"ctsam3d.schema_version": b"2"})
    data = parquet.write([layout.schema.empty_table()], newer)
    with pytest.raises(parquet.ParquetDamaged, match="schema"):
        parquet.read(data, layout.schema)
