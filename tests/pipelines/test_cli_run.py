"""`ctsam3d run` and `segment` with the project's own segmenter; its network is untrained: masks are not the point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.phantom import write_phantom
from tests.pipelines.test_cli import Done, ctsam3d


def test_mistakes_of_a_run_are_named_before_a_cluster_is_started(
    tmp_path: Path, weights: Path, ctsam3d_here: Callable[..., Done]
) -> None:
    write_phantom(tmp_path / "source", 1)
    (tmp_path / "empty").mkdir()
    output = tmp_path / "output"

    unknown = ctsam3d_here("run", tmp_path / "source", output, "--weights", weights, "--structures", "livr")
    assert unknown.code == 1
    assert "'livr'" in unknown.line and "liver" in unknown.line

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-1000])
    done = ctsam3d_here("run", tmp_path / "source", output, "--weights", damaged)
    assert done.code == 1 and str(damaged) in done.line

    missing = ctsam3d_here("run", tmp_path / "source", output, "--weights", "gigantic")
    assert missing.code == 1 and "gigantic" in missing.line

    empty = ctsam3d_here("run", tmp_path / "empty", output, "--weights", weights)
    assert empty.code == 1 and "no DICOM objects" in empty.line
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_segment_writes_a_label_map_names_and_a_table(
    tmp_path: Path, weights: Path, ctsam3d_here: Callable[..., Done]
) -> None:
    write_phantom(tmp_path / "dicom", 1)
    out = tmp_path / "out"
    names = "lung_left,lung_right"
    done = ctsam3d_here("segment", tmp_path / "dicom", out, "--weights", weights, "--structures", names)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == names.split(",")
    assert set(json.loads((out / "labels.json").read_text()).values()) <= set(names.split(","))
    assert pq.read_table(out / "structures.parquet")["structure"].to_pylist() == names.split(",")
    assert (out / "labels.nii.gz").stat().st_size > 0


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_run_ends_with_a_table_on_stdout_one_line_of_progress_and_code_2_for_a_refused_series(
    tmp_path: Path, weights: Path
) -> None:
    write_phantom(tmp_path / "source" / "good", 1)
    write_phantom(tmp_path / "source" / "refused", 2, missing_slice=True)
    output = tmp_path / "output"
    command = ["run", tmp_path / "source", output, "--weights", weights, "--structures", "lung_left"]

    done = ctsam3d(*command)

    assert done.code == 2, done.err
    table = dict(line.rsplit(maxsplit=1) for line in done.out.splitlines())
    assert (table["ok"], table["rejected"], table["computed now"]) == ("1", "1", "2")
    assert all(
        list(Path(table[name]).glob("*.parquet")) for name in ("structures", "series", "masks", "runs")
    )
    assert all(" series  ok " in line for line in done.err.splitlines()), done.err
    assert done.err.splitlines()[-1].startswith("2/2 series  ok 1  rejected 1  failed 0")

    again = ctsam3d(*command)  # nothing left to do: no cluster, no progress
    assert (again.code, again.err) == (2, "")
    assert "computed now     0" in again.out
    checked = ctsam3d("verify", output)
    assert (checked.code, checked.err) == (0, "")
    assert "problems         0" in checked.out
    nothing = ctsam3d("export", output, tmp_path / "masks", "--format", "nifti", "--series", "1.2.3")
    assert nothing.code == 1 and "1.2.3" in nothing.line
