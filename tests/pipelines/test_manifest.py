"""A manifest gives back what it was made of, however many objects its series have, and holds little of it at a time."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctsam3d.outcome import Status
from pipelines import parquet
from pipelines.manifest import Manifest, SeriesRef
from pipelines.object_lists import ObjectLists
from pipelines.schemas import MANIFEST
from pipelines.store import ObjectInfo
from tests.pipelines.outputs import series_ref


def large_series() -> list[SeriesRef]:
    """Series of so many objects that they do not fit one row group; one has none."""
    objects = tuple(
        ObjectInfo(f"é/{i:05}\n.dcm", 10**10 + i, None if i % 2 else f'"{i}"') for i in range(3000)
    )
    refs = [replace(series_ref(n), objects=objects[n:]) for n in range(1, 5)]
    refs += [replace(series_ref(9, rejected=True), objects=())]
    return sorted(refs, key=lambda ref: ref.series_key)


def test_many_objects_come_back_a_few_series_at_a_time() -> None:
    refs = large_series()
    manifest = Manifest.of(refs)
    assert pq.ParquetFile(pa.BufferReader(manifest.encode())).metadata.num_row_groups > 1
    assert sum(group.num_rows for group in manifest.groups()) == len(manifest) == len(refs)
    assert list(manifest) == refs == list(Manifest.decode(manifest.encode()))
    assert manifest.column("series_key") == [ref.series_key for ref in refs]


def test_other_names_and_prompts_change_nothing_else() -> None:
    refs = large_series()
    kept = next(ref for ref in refs if ref.status is Status.OK)
    named = {str(ref.series_instance_uid): "d" * 32 for ref in (kept, series_ref(9, rejected=True))}
    changed = Manifest.of(refs).renamed(str.upper).prompted(named)
    upper = [
        replace(ref, objects=tuple(replace(entry, key=entry.key.upper()) for entry in ref.objects))
        for ref in refs
    ]
    assert list(changed) == [
        replace(ref, prompts_digest="d" * 32 if ref.series_key == kept.series_key else None) for ref in upper
    ]


def test_a_manifest_of_one_row_group_is_read_as_before() -> None:
    refs = large_series()
    older = parquet.write([pa.concat_tables(Manifest.of(refs).groups())], MANIFEST)
    assert pq.ParquetFile(pa.BufferReader(older)).metadata.num_row_groups == 1
    assert list(Manifest.decode(older)) == refs
    assert Manifest.decode(older).manifest_id == Manifest.of(refs).manifest_id


@pytest.mark.parametrize("order", [(1, 0), (0, 0)])
def test_series_out_of_order_or_of_one_key_are_no_manifest(order: tuple[int, int]) -> None:
    refs = sorted([series_ref(1), series_ref(2)], key=lambda ref: ref.series_key)
    with pytest.raises(ValueError, match="key"):
        Manifest.of([refs[k] for k in order])


def test_objects_found_in_any_order_are_those_of_their_series() -> None:
    lists: ObjectLists[tuple[str, int]] = ObjectLists()
    entries = [ObjectInfo(f"ü/{n * 7919 % 10_007}\n", n, None if n % 3 else f'"{n}"') for n in range(10_007)]
    for entry in entries:
        lists.add(("series", entry.size % 5), entry)
    for rest in range(5):
        expected = sorted((e for e in entries if e.size % 5 == rest), key=lambda entry: entry.key)
        assert lists.take(("series", rest)) == tuple(expected)
        assert lists.take(("series", rest)) == ()
