"""Faults C10 and C19: a driver that is killed, or told to stop, and the run that continues what it left."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import open_store
from pipelines.verify import verify
from tests.faults.cohort import uid_of
from tests.faults.place import Place
from tests.faults.process import command_of, runs, until
from tests.faults.troubled import attempts

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SERIES = 8
ONE = {"replicas": 1}  # where it is all the same how many there are: each is a process that imports torch


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, SERIES)
    yield made
    made.end()


def test_C10_a_killed_driver_leaves_a_run_that_ends_with_every_series_once(place: Place) -> None:
    first = place.start(0.7, ONE)
    first.wait_until(place.has_records(2))
    replicas = {pid for pid in first.children if "Replica" in command_of(pid)}
    assert replicas
    first.process.kill()
    first.process.wait()
    assert first.process.returncode == -signal.SIGKILL
    until(lambda: not any(map(runs, replicas)))  # weights are not kept from the next run
    first.end()
    before = place.records()  # workers may have outlived the driver a little
    assert 2 <= len(before) < SERIES  # it was killed in the middle of its work
    tried = attempts(place.notes)

    code, out, err = place.start(0.0, ONE).ended()

    assert code == 0, err
    assert json.loads(out) == {"ok": SERIES}
    again = attempts(place.notes) - tried
    assert sum(again.values()) == SERIES - len(before)  # nothing that was recorded is computed again
    output = open_store(str(place.output))
    rows = [
        row
        for shard in SERIES_FILES.shards(output)
        for row in read_shard(output, SERIES_FILES, shard).to_pylist()
    ]
    assert sorted(row["series_instance_uid"] for row in rows) == sorted(map(uid_of, range(SERIES)))
    assert before < place.records() and len(place.records()) == SERIES
    assert verify(output).ok
    assert not place.left("pending-*")  # nor is anything of the killed one left


def test_C19_a_driver_told_to_stop_finishes_what_it_has_begun_and_ends_with_code_3(place: Place) -> None:
    run = place.start(1.0)
    run.wait_until(place.has_records(1))
    run.process.terminate()
    code, out, err = run.ended(120)
    assert code == 3
    assert "Traceback" not in err and not out
    last = err.splitlines()[-1]
    assert last.startswith("ctsam3d: told to stop: "), err
    assert last.endswith(" series are left; the same command continues where this one stopped")
    records = len(place.records())
    begun = sum(attempts(place.notes).values())
    assert 1 <= records == begun < SERIES  # what was begun was finished, and no more was begun
    assert last.split()[4] == str(SERIES - records)
    assert not place.left("pending-*")
    assert not place.left("load-*") and not place.left("segment-*")  # nor does anything count as an attempt


def test_C19_a_driver_told_twice_ends_at_once(place: Place) -> None:
    run = place.start(60.0, ONE)
    run.wait_until(lambda: bool(attempts(place.notes)))
    run.process.terminate()
    time.sleep(0.5)
    assert run.process.poll() is None  # it waits for what it has begun
    run.process.terminate()
    code, _, err = run.ended(40)
    assert code == 3
    assert err.splitlines()[-1] == "ctsam3d: interrupted; the same command continues where this one stopped"
    assert not place.records()
