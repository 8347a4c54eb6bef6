"""The same run from a real S3 server and from disk: the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import driver
from pipelines.config import Resources, RunConfig
from pipelines.shards import MASK_FILES, SERIES_FILES, STRUCTURE_FILES, Layout, read_shard
from pipelines.store import Store, open_store
from pipelines.verify import verify
from tests.phantom import write_phantom
from tests.s3_server import S3Server
from tests.threshold import ThresholdSource

pipelines_cluster = pytest.importorskip("pipelines.cluster")
pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(300)]

# What tells two stores or two moments apart, and not two results.
OF_THE_MOMENT = {"record_key", "run_id", "input_digest", "seconds_per_stage", "peak_memory_bytes"}


@pytest.fixture
def cluster(aws_environment: S3Server) -> Iterator[None]:
    """Started when the AWS variables are set: its workers inherit them."""
    with pipelines_cluster.cluster(None):
        yield


def rows(output: Store, layout: Layout) -> list[dict]:
    found = [row for shard in layout.shards(output) for row in read_shard(output, layout, shard).to_pylist()]
    plain = [{k: v for k, v in row.items() if k not in OF_THE_MOMENT} for row in found]
    return sorted(plain, key=lambda row: (row["series_key"], row.get("structure", "")))


def test_rows_from_a_bucket_are_the_rows_from_disk(
    tmp_path: Path, aws_environment: S3Server, cluster: None
) -> None:
    bucket = f"s3://{aws_environment.bucket}/run-on-s3"
    upload = open_store(f"{bucket}/source")
    for number in range(3):
        write_phantom(tmp_path / "source" / f"s{number}", number, missing_slice=number == 2)
    for file in sorted((tmp_path / "source").rglob("*.dcm")):
        upload.put(file.relative_to(tmp_path / "source").as_posix(), file.read_bytes())

    outputs = []
    for source, output in (
        (f"{bucket}/source", f"{bucket}/output"),
        (tmp_path / "source", tmp_path / "output"),
    ):
        stores = driver.open_stores(str(source), str(output))
        summary = driver.run(stores, RunConfig(resources=Resources(replicas=1)), ThresholdSource())
        assert (summary.computed, summary.series_by_status) == (3, {"ok": 2, "rejected": 1})
        assert verify(stores.output).ok
        assert not [entry for entry in stores.output.list("runs") if "pending" in entry.key]
        outputs.append(stores.output)
    for layout, count in ((STRUCTURE_FILES, 12), (SERIES_FILES, 3), (MASK_FILES, 6)):
        remote, local = (rows(output, layout) for output in outputs)
        assert len(remote) == count
        assert remote == local
