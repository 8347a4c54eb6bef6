"""Exported label maps hold the masks of the tables, on the source grid, under names that are safe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctsam3d.imaging.nifti import read_labels
from pipelines.export import ExportError, export_nifti
from pipelines.shards import MASK_FILES, SERIES_FILES, Layout
from pipelines.store import Store, open_store
from pipelines.tables import publish
from tests.pipelines.dicom_objects import uid
from tests.pipelines.outputs import GRID, commit, make_run, masks_of, series_ref

REFS = [series_ref(1), series_ref(2), series_ref(3, rejected=True)]


@pytest.fixture
def output(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"), create=True)
    run = make_run(REFS)
    commit(store, run)
    publish(store, run)
    return store


def test_every_series_with_masks_is_a_folder_with_its_label_map(output: Store, tmp_path: Path) -> None:
    folders = list(export_nifti(output, tmp_path / "nifti"))
    assert {folder.name for folder in folders} == {uid(7, 1, 1), uid(7, 2, 1)}
    for ref in REFS[:2]:
        assert ref.series_instance_uid is not None
        folder = tmp_path / "nifti" / ref.series_instance_uid
        labels, geometry = read_labels(folder / "labels.nii.gz")
        assert geometry.is_close(GRID)
        names = json.loads((folder / "labels.json").read_text())
        assert sorted(names.values()) == ["liver", "lung_left"]
        masks = masks_of(ref)
        for label, name in names.items():
            assert np.array_equal(labels == int(label), masks[name])


def test_one_series_may_be_asked_for(output: Store, tmp_path: Path) -> None:
    (folder,) = export_nifti(output, tmp_path / "nifti", uid(7, 2, 1))
    assert [path.name for path in (tmp_path / "nifti").iterdir()] == [folder.name] == [uid(7, 2, 1)]


@pytest.mark.parametrize("wrong", ["../../x", "1.2.3", uid(7, 3, 1), "", "."])
def test_what_is_not_there_is_an_error_of_one_line(output: Store, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ExportError) as error:
        list(export_nifti(output, tmp_path / "nifti", wrong))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nifti").exists()


@pytest.mark.parametrize("layout", [MASK_FILES, SERIES_FILES])
def test_damaged_tables_are_an_error_of_one_line(output: Store, tmp_path: Path, layout: Layout) -> None:
    path = layout.path(min(layout.shards(output)))
    output.put(path, output.get(path)[:-9])
    with pytest.raises(ExportError, match=path) as error:
        list(export_nifti(output, tmp_path / "nifti"))
    assert "\n" not in str(error.value)


def test_series_without_or_with_the_same_uid_get_folders_of_their_own(tmp_path: Path) -> None:
    output = open_store(str(tmp_path / "out"), create=True)
    first, second = series_ref(1), replace(series_ref(2), series_instance_uid=uid(7, 1, 1))
    blank = replace(series_ref(3), series_instance_uid=None)
    run = make_run([first, second, blank])
    commit(output, run)
    publish(output, run)
    folders = list(export_nifti(output, tmp_path / "nifti"))
    assert len({folder.name for folder in folders}) == 3
    for ref in (first, second, blank):
        labels = [read_labels(folder / "labels.nii.gz")[0] for folder in folders]
        assert any(np.array_equal(found > 0, np.logical_or(*masks_of(ref).values())) for found in labels)
