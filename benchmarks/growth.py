"""What a hundred times more series cost: seconds and memory a series, discovery, publication, queries.

Series are tiny and segmented by a threshold, so that what is measured is everything around the network.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import CLOCKS, Clock, Figure, against, peak_bytes
from pipelines.schemas import STRUCTURES

_SLICES = 8
_OBJECTS = 300  # of a real series
_QUERIES = {
    "mean by structure": "SELECT structure, avg(volume_ml), count(*) FROM {t} WHERE status = 'ok' GROUP BY 1",
    "percentiles by structure": "SELECT structure, quantile_cont(volume_ml, [0.05, 0.5, 0.95]) FROM {t} "
    "WHERE status = 'ok' GROUP BY 1",
    "series by status": "SELECT status, count(DISTINCT series_key) FROM {t} GROUP BY 1",
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", nargs="+", type=int, default=[10, 100], help="of a run")
    parser.add_argument(
        "--ray", action="store_true", help="the same runs on Ray besides: the driver's memory"
    )
    parser.add_argument("--objects", type=int, default=10_000, help="to discover")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the structures table")


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    seconds, peaks, publishing = {}, {}, {}
    for count in chosen.series:
        total, published, peak = _measured("run", count, chosen.clock)
        seconds[f"{count} series"], peaks[f"{count} series"] = total / count, peak
        publishing[f"{count} series"] = published / count
    first = f"{chosen.series[0]} series"
    yield from against("growth", seconds, "s/series", first, "run, ")
    yield from against("growth", publishing, "s/series", first, "publish, ")
    yield from against("growth", peaks, "byte", first, "run, peak memory, ")
    if chosen.ray:
        drivers = {f"{count} series": _measured("ray", count, chosen.clock)[2] for count in chosen.series}
        yield from against("growth", drivers, "byte", first, "run on Ray, the driver's peak memory, ")
    manifests = {f"{count} series": _measured("manifest", count, chosen.clock)[2] for count in chosen.series}
    yield from against(
        "growth", manifests, "byte", first, f"manifest of {_OBJECTS} objects a series, peak memory, "
    )
    idle = _measured("discover", 0, chosen.clock)[2]
    small, large = (_measured("discover", n, chosen.clock) for n in (chosen.objects // 10, chosen.objects))
    per_object = {
        f"{chosen.objects // 10} objects": small[0] / (chosen.objects // 10),
        f"{chosen.objects} objects": large[0] / chosen.objects,
    }
    yield from against("growth", per_object, "s/object", next(iter(per_object)), "discover, ")
    yield Figure("growth", f"discover, {chosen.objects} objects", large[0], "s")
    memory = {"0 objects": idle, f"{chosen.objects} objects": large[2]}
    yield from against("growth", memory, "byte", "0 objects", "discover, peak memory, ")
    yield from _queries(chosen.rows, CLOCKS[chosen.clock])


def _measured(what: str, count: int, clock: str) -> tuple[float, float, float]:
    """Seconds, seconds of them in publication, and peak bytes, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", what, str(count), clock]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    total, published, peak = map(float, done.stdout.split()[-3:])
    return total, published, peak


def _write_objects(root: Path, objects: int) -> None:
    """CT objects of 12 x 16 voxels, `_SLICES` a series, that differ in what tells them apart and nothing else."""
    from tests.pipelines.dicom_objects import ct_object, uid

    study, series = uid(7, 10_000_000), uid(8, 10_000_000)
    slices = [ct_object(study, series, n) for n in range(10, 10 + _SLICES)]
    for n in range(-(-objects // _SLICES)):
        folder = root / f"{n // 1000:04}" / f"{n:08}"
        folder.mkdir(parents=True)
        number = str(10_000_000 + n).encode()
        for i, data in enumerate(slices[: objects - n * _SLICES]):
            (folder / f"{i}.dcm").write_bytes(data.replace(b".10000000", b"." + number))


def _gather(series: int) -> None:
    """A manifest of series of real sizes, as discovery makes it and a run goes through it, without their objects."""
    from dataclasses import replace

    from ctsam3d.outcome import Status
    from pipelines.manifest import Manifest, SeriesRef
    from pipelines.object_lists import ObjectLists
    from pipelines.store import ObjectInfo

    lists: ObjectLists[str] = ObjectLists()
    refs = []
    for n in range(series):
        study, name = (f"1.2.826.0.1.3680043.10.{kind}.{n:038}" for kind in (1, 2))
        key = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        for i in range(_OBJECTS):
            etag = hashlib.md5(f"{n} {i}".encode(), usedforsecurity=False).hexdigest()
            lists.add(
                key, ObjectInfo(f"{study}/{name}/{name}.{i}.dcm", 526_000 + i * 7919 % 2000, f'"{etag}"')
            )
        refs.append(SeriesRef(key, study, name, Status.OK, (), image_count=_OBJECTS, modality="CT"))
    refs.sort(key=lambda ref: ref.series_key)
    manifest = Manifest.of(replace(ref, objects=lists.take(ref.series_key)) for ref in refs)
    assert manifest.manifest_id
    assert len({ref.record_key("c", "w") for ref in manifest}) == series


def _alone(what: str, count: int, clock: Clock) -> None:
    """In a process of its own: do it, then print seconds, seconds of publication and the process's peak in bytes."""
    from pipelines import driver
    from pipelines.cohort.discover import discover
    from pipelines.config import parse_config
    from pipelines.store import open_store
    from tests.threshold import ThresholdSource

    took = published = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        _write_objects(root / "in", count * {"discover": 1, "manifest": 0}.get(what, _SLICES))
        started = clock()
        if what == "manifest":
            _gather(count)
        elif what == "discover":
            if count:
                found = discover(open_store(str(root / "in"))).manifest
                assert len(found) == -(-count // _SLICES)
        else:
            stores = driver.open_stores(str(root / "in"), str(root / "out"))
            limits = {"min_extent_mm": 0.0, "check_hounsfield": False}
            config = parse_config({"limits": limits, "structures": "lung_left, skeletal_muscle"})
            original = driver.publish

            def publish(*args: object, **named: object) -> object:
                nonlocal published
                begun = clock()
                done = original(*args, **named)  # type: ignore[arg-type]
                published = clock() - begun
                return done

            driver.publish = publish  # type: ignore[assignment]
            summary = driver.run(stores, config, ThresholdSource(), in_process=what != "ray")
            assert summary.series_by_status == {"ok": count}, summary.series_by_status
        took = clock() - started
    print(took, published, peak_bytes())


def _queries(rows: int, clock: Clock) -> Iterator[Figure]:
    """Seconds of questions to a structures table of many rows, written as publication writes it."""
    names, random = [f"structure_{n}" for n in range(60)], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = 16
        for n in range(files):
            pq.write_table(
                _table(rows // files, n, names, random), Path(folder) / f"{n:x}.parquet", compression="zstd"
            )
        target = f"read_parquet('{folder}/*.parquet')"
        started = clock()
        count = duckdb.sql(f"SELECT count(*) FROM {target}").fetchall()  # noqa: S608
        yield Figure("growth", f"query, {rows} rows, count", clock() - started, "s")
        assert count == [(rows // files * files,)]
        for name, text in _QUERIES.items():
            started = clock()
            duckdb.sql(text.format(t=target)).fetchall()
            yield Figure("growth", f"query, {rows} rows, {name}", clock() - started, "s")


def _table(rows: int, file: int, names: list[str], random: np.random.Generator) -> pa.Table:
    series = np.arange(rows) // len(names)
    known = {
        "series_key": pa.array([f"{file:x}{n:031x}" for n in range(series[-1] + 1)]).take(pa.array(series)),
        "structure": pa.array(names).take(pa.array(np.arange(rows) % len(names))),
        "status": pa.array(["ok", "absent", "truncated"]).take(
            pa.array(random.choice(3, rows, p=[0.7, 0.2, 0.1]))
        ),
        "volume_ml": pa.array(random.gamma(2, 100, rows)),
        "mean_hu": pa.array(random.normal(40, 20, rows)),
        "voxels": pa.array(random.integers(1, 10**6, rows)),
    }
    columns = [known.get(f.name, pa.nulls(rows, f.type)).cast(f.type) for f in STRUCTURES]
    return pa.Table.from_arrays(columns, names=STRUCTURES.names)


if __name__ == "__main__":
    _alone(sys.argv[1], int(sys.argv[2]), CLOCKS[sys.argv[3]])
