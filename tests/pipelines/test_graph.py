"""The graph on a real local cluster: every series once, whatever happens to series and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from pipelines import driver
from pipelines.config import RunConfig
from pipelines.verify import verify
from tests.phantom import Phantom, write_phantom
from tests.threshold import STRUCTURES, ThresholdSource

pipelines_cluster = pytest.importorskip("pipelines.cluster")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for the tests of this module, as a run would start it for itself."""
    with pipelines_cluster.cluster(None):
        yield


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def run(
    tmp_path: Path,
    segmenter: ThresholdSource,
) -> driver.Summary:
    stores = driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output"))
    return driver.run(stores, RunConfig(), segmenter)


def rows(tmp_path: Path, table: str) -> list[dict]:
    return pads.dataset(tmp_path / "output" / "tables" / table).to_table().to_pylist()


def segmented(notes: Path) -> Counter[int]:
    """How often a volume was segmented, by its true number of lung voxels."""
    return Counter(int(note.read_text()) for note in notes.glob("segment-*"))


def test_every_series_of_the_manifest_gets_one_row_and_a_nightly_rerun_computes_only_what_is_new(
    tmp_path: Path, notes: Path, cluster: None
) -> None:
    phantoms = [write_phantom(tmp_path / "source" / f"s{i}", i) for i in range(5)]
    refused = write_phantom(tmp_path / "source" / "refused", 9, missing_slice=True)
    (tmp_path / "source" / "notes.txt").write_text("not DICOM")

    summary = run(tmp_path, ThresholdSource(notes=notes))

    assert summary.series_by_status == {"ok": 5, "rejected": 1}
    series = {row["series_instance_uid"]: row for row in rows(tmp_path, "series")}
    assert set(series) == {p.series_uid for p in [*phantoms, refused]}
    assert series[refused.series_uid]["reason"] == "SLICES_MISSING"
    good = series[phantoms[0].series_uid]
    assert (good["slices"], good["rows"], good["columns"]) == (12, 40, 48)
    assert {"fetch", "load", "segment", "segment_total"} <= dict(good["seconds_per_stage"]).keys()
    folder = tmp_path / "source" / "s0"
    assert good["bytes_read"] == sum(file.stat().st_size for file in folder.iterdir())
    assert good["peak_memory_bytes"] > 20e6
    _check_structures(tmp_path, phantoms, refused)
    assert verify(driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output")).output).ok

    assert run(tmp_path, ThresholdSource(notes=notes)).computed == 0
    added = write_phantom(tmp_path / "source" / "added", 7)
    again = run(tmp_path, ThresholdSource(notes=notes))
    assert (again.computed, again.series_by_status) == (1, {"ok": 6, "rejected": 1})
    assert segmented(notes) == Counter(p.lung_voxels for p in [*phantoms, added])
    assert len(rows(tmp_path, "series")) == 7
    assert len(rows(tmp_path, "structures")) == 7 * len(STRUCTURES)


def _check_structures(tmp_path: Path, phantoms: list[Phantom], refused: Phantom) -> None:
    structures = rows(tmp_path, "structures")
    found = {(row["series_instance_uid"], row["structure"]): row for row in structures}
    assert len(found) == len(structures) == 6 * len(STRUCTURES)
    for phantom in phantoms:
        lungs = [found[phantom.series_uid, name] for name in ("lung_left", "lung_right")]
        assert sum(row["voxels"] for row in lungs) == phantom.lung_voxels
        assert all(row["mean_hu"] == -850 for row in lungs)
        brain = found[phantom.series_uid, "brain"]
        assert (brain["status"], brain["volume_ml"], brain["voxels"]) == ("absent", None, None)
    for name in STRUCTURES:
        assert found[refused.series_uid, name]["status"] == "rejected"
    assert len(rows(tmp_path, "masks")) == 5 * 3
