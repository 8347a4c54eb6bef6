"""One CT without a cluster: the same masks and numbers from DICOM, from its NIfTI, and from a run."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.nifti import read_labels
from pipelines.config import RunConfig
from pipelines.faults import UsageError
from pipelines.schemas import STRUCTURES as SCHEMA
from pipelines.single import segment_file
from tests.anatomy import anatomy_series
from tests.phantom import phantom_hu, write_phantom
from tests.threshold import STRUCTURES, ThresholdSource

MEASURED = [f.name for f in SCHEMA if f.name not in ("series_key", "record_key", "run_id", "input_digest")]


def write_nifti(file: Path, folder: Path) -> None:
    """The folder's series as NIfTI: (x, y, z), RAS+, a float32 affine."""
    volume = read_folder(folder).volume
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    nib.save(nib.Nifti1Image(volume.hu.T, affine.astype(np.float32)), file)


def test_a_dicom_folder_and_its_nifti_give_the_same_files(tmp_path: Path) -> None:
    phantom = write_phantom(tmp_path / "dicom", 4)
    write_nifti(tmp_path / "ct.nii.gz", tmp_path / "dicom")
    for source, name in (("dicom", "from_dicom"), ("ct.nii.gz", "from_nifti")):
        rows = segment_file(tmp_path / source, tmp_path / name, RunConfig(), ThresholdSource())
        assert [row.structure for row in rows] == list(STRUCTURES)
    dicom, geometry = read_labels(tmp_path / "from_dicom" / "labels.nii.gz")
    nifti, _ = read_labels(tmp_path / "from_nifti" / "labels.nii.gz")
    assert np.array_equal(dicom, nifti)
    assert geometry.is_close(read_folder(tmp_path / "dicom").volume.geometry)
    names = json.loads((tmp_path / "from_dicom" / "labels.json").read_text())
    lungs = [int(label) for label, name in names.items() if name.startswith("lung")]
    assert np.array_equal(np.isin(dicom, lungs), phantom_hu(4) == -850)

    tables = [pq.read_table(tmp_path / name / "structures.parquet") for name in ("from_dicom", "from_nifti")]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    first, second = (table.select(MEASURED).to_pylist() for table in tables)
    for row in first:
        assert row.pop("study_instance_uid") == phantom.study_uid
        assert row.pop("series_instance_uid") == phantom.series_uid
    for row in second:
        assert row.pop("study_instance_uid") is None
        assert row.pop("series_instance_uid") is None
    assert first == second


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    write_phantom(tmp_path / "dicom", 4)
    for name in ("one", "two"):
        segment_file(tmp_path / "dicom", tmp_path / name, RunConfig(), ThresholdSource())
    for file in ("labels.nii.gz", "labels.json", "series.json", "structures.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_was_dealt_with_in_the_geometry_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    folder.mkdir()
    for name, data in anatomy_series(tilt_deg=12.0):
        (folder / name).write_bytes(data)
    segment_file(folder, tmp_path / "out", RunConfig(), ThresholdSource())
    told = json.loads((tmp_path / "out" / "series.json").read_text())
    assert (told["geometry_fix"], told["frame_slices"]) == (["gantry_tilt"], None)
    assert (told["shape_zyx"], told["orientation"]) == ([25, 34, 40], "LPS")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nothing", "found nothing"),
        ("refused", "SLICES_MISSING"),
        ("two", "2 CT series"),
        ("text", "MALFORMED"),
    ],
)
def test_an_input_that_cannot_be_used_is_named(tmp_path: Path, fault: str, words: str) -> None:
    source = tmp_path / "input.nii"
    if fault == "refused":
        write_phantom(source, 1, missing_slice=True)
    elif fault == "two":
        write_phantom(source, 1)
        for file in source.iterdir():
            file.rename(source / f"first-{file.name}")
        write_phantom(source, 2)
    elif fault == "text":
        source.write_text("not an image")
    with pytest.raises(UsageError, match=words) as caught:
        segment_file(source, tmp_path / "out", RunConfig(), ThresholdSource())
    assert str(source) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_structure_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_phantom(tmp_path / "dicom", 4)
    with pytest.raises(UsageError, match="lung_left"):
        segment_file(
            tmp_path / "dicom", tmp_path / "out", RunConfig(structures=("lung_lft",)), ThresholdSource()
        )
