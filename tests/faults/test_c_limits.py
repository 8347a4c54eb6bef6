"""Faults C15-C18, C20, C22: a full disk, a small object store, too few CPUs, a clock that jumps, other people's Ray."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsam3d.imaging.dicom import read_series
from pipelines import tables
from pipelines.cohort.shape import Node, replica_shape, spare_cpus
from pipelines.config import ConfigError, Resources
from pipelines.driver import Stores
from pipelines.shards import MASK_FILES, RUN_FILES, SERIES_FILES, STRUCTURE_FILES, Layout, read_shard
from pipelines.store import Store, open_store
from pipelines.verify import verify
from tests.builders import ct_series
from tests.faults.cohort import Scripted, run, write_series
from tests.faults.place import Place
from tests.faults.run_troubled import Asked
from tests.faults.stores import MortalStore
from tests.faults.ward import CONFIG

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "ctsam3d", ROOT / "pipelines"]


def run_without_ray(
    place: Place, limit_kib: int | None, stderr: int | Any = subprocess.PIPE
) -> tuple[int, str, str]:
    """A run in a process that may write no file larger than so much."""
    asked = Asked(
        str(place.source), str(place.output), str(place.notes), CONFIG, options={"in_process": True}
    )
    script = f'ulimit -f {limit_kib or "unlimited"}; exec "$@"'
    command = [sys.executable, str(ROOT / "tests" / "faults" / "run_troubled.py"), asked.to_argument()]
    done = subprocess.run(
        ["bash", "-c", script, "-", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr or ""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, 2)
    yield made
    made.end()


def test_C15_an_output_that_takes_no_record_ends_the_run_and_the_next_one_continues(place: Place) -> None:
    """A disk that is full, as a limit on the size of files: the error is another number, met at the same place."""
    code, _, err = run_without_ray(place, 4)
    assert code == 3, err
    assert err.splitlines()[-1] == (
        f"ctsam3d: {place.output}: did not take the records of 2 series; "
        "the same command continues where this one stopped"
    )
    assert not place.records() and "Traceback" not in err
    code, out, _ = run_without_ray(place, None)
    assert (code, json.loads(out)) == (0, {"ok": 2})
    assert verify(open_store(str(place.output))).ok


def test_C15_words_for_people_that_cannot_be_written_end_nothing(place: Place) -> None:
    with Path("/dev/full").open("w") as full:
        code, out, _ = run_without_ray(place, None, full)
    assert (code, json.loads(out)) == (0, {"ok": 2})


@pytest.mark.ray
def test_C16_volumes_larger_together_than_the_store_of_objects_pass_through_it(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    store_bytes, series, shape = 80_000_000, 4, (40, 512, 512)
    hu = np.full(shape, -1000, np.int16)
    hu[:, 100:400, 100:400] = 40
    hu[:, 200:300, 150:250] = -850
    for number in range(series):
        for name, data in ct_series(n=shape[0], shape=shape[1:], image_hu=hu + number, seed=number):
            (tmp_path / "source" / str(number)).mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / str(number) / name).write_bytes(data)
    assert series * hu.nbytes > store_bytes
    (tmp_path / "output").mkdir()
    stores = Stores(*(open_store(str(tmp_path / name)) for name in ("source", "output")))
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=3,
            object_store_memory=store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            assert ray.cluster_resources()["object_store_memory"] <= store_bytes
            summary = run(stores, Scripted(), in_process=False)  # joins the cluster that is there
        finally:
            ray.shutdown()
    assert summary.series_by_status == {"ok": series}
    assert verify(stores.output).ok


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 8)), max_size=8),
    st.integers(1, 1000),
    st.integers(1, 16) | st.none(),
)
def test_C17_replicas_never_take_every_cpu_or_the_run_is_refused(
    nodes: list[tuple[int, int]], series: int, replicas: int | None
) -> None:
    cluster = [Node(*node) for node in nodes]
    cpus, gpus = (sum(values) for values in zip(*nodes, strict=True)) if nodes else (0, 0)
    try:
        shape = replica_shape(cluster, Resources(replicas=replicas), series)
    except ConfigError:
        assert cpus < 1 + (not gpus) or not gpus
        return
    assert cpus - shape.count * shape.cpus >= min(spare_cpus(cpus), 1)
    assert 1 <= shape.count <= series


def rows(output: Store, layout: Layout) -> list[dict]:
    return [
        row
        for shard in sorted(layout.shards(output))
        for row in read_shard(output, layout, shard).to_pylist()
    ]


# What a run measures of itself, and the one fact it takes from the clock.
MEASURED = ("seconds_per_stage", "peak_memory_bytes", "published_at")


def told(output: Store) -> list[dict]:
    """All rows of all tables, but for what a run measures of itself."""
    layouts = (STRUCTURE_FILES, SERIES_FILES, MASK_FILES, RUN_FILES)
    found = [row for layout in layouts for row in rows(output, layout)]
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found]


def test_C18_a_clock_that_jumps_changes_no_result_and_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    source, calm, wild = (MortalStore(name) for name in ("source", "calm", "wild"))
    write_series(source, 0)
    write_series(source, 1, drop=(2,))
    jumps: list[float] = []

    def jumping() -> float:
        jumps.append(0.0)
        return 1.7e9 + (-3600.0 if len(jumps) % 2 else 3e7)

    class Backwards(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            jumps.append(0.0)
            return datetime(2030, 1, 1, tzinfo=UTC).replace(year=2030 - len(jumps) % 20)

    for hu in (-500, -400):
        run(Stores(source, calm), Scripted(threshold_hu=hu))
    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(tables, "datetime", Backwards)
    for hu in (-500, -400):
        run(Stores(source, wild), Scripted(threshold_hu=hu))
    assert jumps
    assert told(wild) == told(calm)
    assert verify(wild).ok
    newest = max(rows(wild, RUN_FILES), key=lambda row: row["sequence"])
    assert newest["run_id"] == max(rows(calm, RUN_FILES), key=lambda row: row["sequence"])["run_id"]


def test_C18_the_wall_clock_is_asked_for_one_fact_alone() -> None:
    asked = [
        (file.name, name) for file, name, _ in calls() if name in ("time.time", "datetime.now", "date.today")
    ]
    assert asked == [("tables.py", "datetime.now")]


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Every call in the packages whose function has a plain name: file, name, call."""
    for file in sorted(path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


def test_C20_the_same_study_gives_the_same_bits_whatever_came_before_it() -> None:
    """With the project's own network, on the CPU and one number of threads; another number rounds in another order."""
    from ctsam3d.segmentation.segmenter import Segmenter

    segmenter, asked = Segmenter.load("nano", device="cpu"), ("lung_left",)
    study, other = (
        read_series(ct_series(n=10, spacing_xyz_mm=(4.0, 4.0, 9.0), seed=seed)).volume for seed in (0, 1)
    )
    first = segmenter.segment(study, asked)
    segmenter.segment(other, asked)
    again = segmenter.segment(study, asked)
    assert first.labels.any()
    assert np.array_equal(first.labels, again.labels)
    assert first.findings == again.findings


def test_C22_nobody_elses_ray_is_joined_or_stopped() -> None:
    """Ray is started in two ways: as a cluster of one's own or at an address given. Its stop command ends all."""
    starts = [(file.name, ast.unparse(call)) for file, name, call in calls() if name == "ray.init"]
    assert starts == [("cluster.py", "ray.init(address=address, **options)")]
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init":
                assert any(
                    word.arg == "address" and ast.unparse(word.value) == "'local'" for word in node.keywords
                )
    banned = " ".join(("ray", "stop"))
    texts = [
        ROOT / "Makefile",
        ROOT / "ray_cluster.yaml",
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "demo").rglob("*.py"),
    ]
    texts += [path for package in PACKAGES for path in package.rglob("*.py")]
    said = {
        file.name for file in texts if f"{banned}\n" in file.read_text() or f'"{banned}' in file.read_text()
    }
    assert said == set()
