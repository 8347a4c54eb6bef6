"""Replicas on a simulated node with two GPUs: one on each, each with a device of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import driver
from pipelines.config import Resources, RunConfig
from tests.phantom import write_phantom
from tests.threshold import ThresholdSource

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.fixture
def two_gpus() -> Iterator[None]:
    """A cluster that believes it has two GPUs: Ray hands out their numbers all the same."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def test_each_replica_sees_a_gpu_of_its_own(tmp_path: Path, two_gpus: None) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(4):
        write_phantom(tmp_path / "source" / f"s{number}", number)
    stores = driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output"))
    config = RunConfig(resources=Resources(gpus_per_replica=1.0))
    summary = driver.run(stores, config, ThresholdSource(seconds=0.5, notes=notes))
    assert summary.series_by_status == {"ok": 4}
    assert sorted(note.read_text() for note in notes.glob("load-*")) == ["0", "1"]
