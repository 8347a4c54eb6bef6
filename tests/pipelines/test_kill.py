"""A run as a process: killed half way it continues, terminated it says so, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from pipelines import driver
from pipelines.verify import verify
from tests.phantom import write_phantom

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SERIES = 8


class Started:
    """A run in a process of its own, and all the processes it has started."""

    def __init__(self, folder: Path, seconds: float) -> None:
        script = ROOT / "tests" / "pipelines" / "run_threshold.py"
        self.records = folder / "output" / "records"
        (folder / "notes").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, script, folder / "source", folder / "output", folder / "notes", str(seconds)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children: set[int] = set()

    def wait_for_records(self, count: int) -> None:
        """Until so many records exist; fails if the run ends before."""
        while len(list(self.records.rglob("*.parquet"))) < count:
            assert self.process.poll() is None, self.process.communicate()[1]
            self.children |= descendants(self.process.pid)
            time.sleep(0.05)
        self.children |= descendants(self.process.pid)

    def end(self) -> None:
        """End what is left of the run: this process and those it started, by their ids."""
        for pid in [self.process.pid, *self.children]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()


def descendants(pid: int) -> set[int]:
    """Ids of the processes started by a process, and by those."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            ids = {int(word) for word in children.read_text().split()}
        except OSError:
            continue
        found |= ids.union(*(descendants(child) for child in ids))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(SERIES):
        write_phantom(tmp_path / "source" / f"s{number}", number)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator:
    runs: list[Started] = []

    def launch(seconds: float) -> Started:
        runs.append(Started(folder, seconds))
        return runs[-1]

    yield launch
    for run in runs:
        run.end()


def test_a_driver_killed_half_way_leaves_a_run_that_ends_with_every_series_once(folder: Path, start) -> None:
    first = start(0.7)
    first.wait_for_records(2)
    first.process.kill()
    first.process.wait()
    before = {file.name for file in first.records.rglob("*.parquet")}
    assert first.process.returncode == -signal.SIGKILL
    assert 2 <= len(before) < SERIES  # it was killed in the middle of its work
    first.end()
    before = {
        file.name for file in first.records.rglob("*.parquet")
    }  # workers may have outlived the driver a little

    done = start(0.0)
    out, err = done.process.communicate(timeout=250)

    assert done.process.returncode == 0, err
    assert f"{SERIES - len(before)}/{SERIES - len(before)} series" in err  # no series was asked for twice
    series = pads.dataset(folder / "output" / "tables" / "series").to_table().to_pylist()
    assert sorted(Counter(row["series_instance_uid"] for row in series).values()) == [1] * SERIES
    assert {row["status"] for row in series} == {"ok"}
    assert len(list(first.records.rglob("*.parquet"))) == SERIES
    assert verify(driver.open_stores(str(folder / "source"), str(folder / "output")).output).ok


def test_a_driver_that_is_terminated_finishes_what_it_has_begun_and_ends_with_one_line_and_code_3(
    folder: Path, start
) -> None:
    run = start(1.0)
    run.wait_for_records(1)
    run.process.terminate()
    _, err = run.process.communicate(timeout=120)
    assert run.process.returncode == 3
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("ctsam3d: told to stop: "), err
    assert last.endswith(" series are left; the same command continues where this one stopped")
    records = len(list(run.records.rglob("*.parquet")))
    begun = len(list((folder / "notes").glob("segment-*")))
    assert 1 <= records == begun < SERIES  # what was begun was finished, and no more was begun
    assert last.split()[4] == str(SERIES - records)
    assert not list((folder / "output" / "runs").rglob("pending-*"))
    assert not list((folder / "output" / "attempts").rglob("*-1"))  # nor does anything count as an attempt


def test_a_driver_that_is_terminated_twice_ends_at_once(folder: Path, start) -> None:
    run = start(30.0)
    notes = folder / "notes"
    while not list(notes.glob("segment-*")):
        assert run.process.poll() is None, run.process.communicate()[1]
        run.children |= descendants(run.process.pid)
        time.sleep(0.05)
    run.process.terminate()
    time.sleep(0.5)
    assert run.process.poll() is None  # it waits for what it has begun
    run.process.terminate()
    _, err = run.process.communicate(timeout=25)
    assert run.process.returncode == 3
    assert err.splitlines()[-1] == "ctsam3d: interrupted; the same command continues where this one stopped"
    assert not list(run.records.rglob("*.parquet"))
