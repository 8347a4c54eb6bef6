"""Faults C08, C09, C11: machines of a cluster go, with and without others in their place, and its head as well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.store import open_store
from pipelines.verify import verify
from tests.faults.place import Place
from tests.faults.troubled import attempts

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

SERIES = 8
STALL_S = 45.0  # a busy machine takes half a minute to the first series
WORKER = {"num_cpus": 3}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A head that computes nothing, and a worker, as processes of this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(**WORKER)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"), SERIES)
    yield made
    made.end()


def resources(machines: Any) -> dict[str, Any]:
    return {"address": machines.address, "stall_timeout_s": STALL_S, "max_attempts": 4}


def test_C09_a_run_that_waits_for_a_machine_that_never_comes_ends_with_code_3(
    machines: Any, place: Place
) -> None:
    run = place.start(0.7, resources(machines))
    run.wait_until(place.has_records(3))  # of the last ones the driver may never hear
    machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)
    before = place.records()
    assert 1 <= len(before) < SERIES  # there was still something to do
    start, heard_s = time.monotonic(), place.first_record_s()
    code, _, err = run.ended(200)
    ended_s = time.time()
    assert code == 3, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("the same command continues where this one stopped")
    assert "no series ended for" in err or "stopped working" in err, err  # whichever watch is the first
    assert time.monotonic() - start >= STALL_S / 2
    assert ended_s - heard_s >= STALL_S
    assert len(place.records()) < SERIES


def test_C08_a_machine_lost_and_another_in_its_place_cost_no_series(machines: Any, place: Place) -> None:
    machines.add_node(**WORKER)
    before = place.records()
    # the watch is another test's: here a machine may take its time to come
    run = place.start(0.7, resources(machines) | {"stall_timeout_s": 4 * STALL_S})
    run.wait_until(place.has_records(len(before) + 1))
    machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)
    assert len(place.records()) < SERIES
    machines.add_node(**WORKER)
    code, out, err = run.ended()
    assert code == 0, err
    assert json.loads(out) == {"ok": SERIES}
    assert len(place.records()) == SERIES and before < place.records()
    assert verify(open_store(str(place.output))).ok


def test_C11_a_run_whose_head_is_gone_ends_with_code_3_and_another_cluster_does_the_rest(
    machines: Any, tmp_path: Path
) -> None:
    place = Place(tmp_path, SERIES)
    try:
        run = place.start(0.7, resources(machines))
        run.wait_until(place.has_records(1))
        machines.head_node.kill_gcs_server(check_alive=False)
        assert len(place.records()) < SERIES
        code, _, err = run.ended(200)
        assert code == 3, err
        before = place.records()
        code, out, err = place.start(0.0, {"replicas": 1}).ended()
        assert code == 0, err
        assert json.loads(out) == {"ok": SERIES} and before <= place.records()
        assert max(attempts(place.notes).values()) <= 3
        assert verify(open_store(str(place.output))).ok
    finally:
        place.end()
