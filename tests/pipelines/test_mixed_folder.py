"""`ctsam3d run` on a folder of everything: exit code 2, one row a series, the right reasons, and no traceback."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from tests.faults.outcome import SHARED_DATA, shared_data, told_nothing
from tests.pipelines.mixed_folder import Mixed, add_real, mixed_folder
from tests.pipelines.test_cli import ctsam3d

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def check(mixed: Mixed, output: Path, weights: Path) -> None:
    done = ctsam3d("run", mixed.folder, output, "--weights", weights, "--structures", "spleen,kidney_left")
    assert done.code == 2, done.err
    assert "Traceback" not in done.out + done.err
    assert " series  ok " in done.err.splitlines()[-1]
    rows = pads.dataset(output / "tables" / "series").to_table().to_pylist()
    named = {row["series_instance_uid"]: row["reason"] for row in rows if row["series_instance_uid"]}
    assert Counter(row["series_instance_uid"] for row in rows if row["series_instance_uid"]) == Counter(
        mixed.reasons.keys()
    )
    assert named == mixed.reasons
    nameless = Counter(row["reason"] for row in rows if not row["series_instance_uid"])
    assert nameless == mixed.nameless
    assert {row["status"] for row in rows} == {"ok", "rejected"}
    assert all((row["status"] == "ok") == (row["reason"] is None) for row in rows)
    table = dict(line.rsplit(maxsplit=1) for line in done.out.splitlines())
    read = sum(reason is None for reason in mixed.reasons.values()) + mixed.nameless[None]
    assert (int(table["ok"]), int(table["rejected"])) == (read, len(rows) - read)
    structures = pads.dataset(output / "tables" / "structures").to_table().to_pylist()
    assert len(structures) == 2 * len(rows)
    told_nothing(done.out, done.err, rows, structures)
    checked = ctsam3d("verify", output)
    assert (checked.code, checked.err) == (0, "")


@pytest.mark.filterwarnings("ignore:Expected explicit VR:UserWarning")  # of pydicom, in the corpus
@pytest.mark.parametrize("real", [False, True], ids=["builders and corpus", "with real series"])
def test_a_mixed_folder(tmp_path: Path, weights: Path, real: bool) -> None:
    if not real and SHARED_DATA.is_dir():
        pytest.skip("the run with real series has all of this")
    data = shared_data("dicom").parent if real else None
    mixed = mixed_folder(tmp_path / "source")
    assert len(mixed.reasons) > 50 and len(set(mixed.reasons.values())) >= 10
    if data is not None:
        add_real(mixed, data)
        assert mixed.nameless[None] == 1 and mixed.nameless["PIXEL_DATA_TRUNCATED"] == 1
    check(mixed, tmp_path / "output", weights)
