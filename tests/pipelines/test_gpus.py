"""Replicas on a simulated node with two GPUs: one on each, each with a device of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import driver
from pipelines.config import ConfigError, Resources, RunConfig
from tests.phantom import write_phantom
from tests.threshold import ThresholdSource

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def two_gpus() -> Iterator[str]:
    """Address of a running cluster that believes it has two GPUs: Ray hands out numbers all the same."""
    node = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


def test_each_replica_of_a_cluster_that_is_joined_sees_a_gpu_of_its_own(
    tmp_path: Path, two_gpus: str
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(4):
        write_phantom(tmp_path / "source" / f"s{number}", number)
    stores = driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output"))
    config = RunConfig(resources=Resources(address=two_gpus))
    summary = driver.run(stores, config, ThresholdSource(seconds=0.5, notes=notes))
    assert summary.series_by_status == {"ok": 4}
    assert sorted(note.read_text() for note in notes.glob("load-*")) == ["0", "1"]
    assert not ray.is_initialized()  # the cluster was left, and goes on without us


def test_an_address_where_no_cluster_is_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    write_phantom(tmp_path / "source", 1)
    stores = driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output"))
    config = RunConfig(resources=Resources(address="127.0.0.1:1"))
    with pytest.raises(ConfigError, match="resources.address: found '127.0.0.1:1'"):
        driver.run(stores, config, ThresholdSource())
    assert not [entry for entry in stores.output.list() if "pending" in entry.key]
