"""Real series, each with its own way of being stored, agree with other readers of the same files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctsam3d.imaging.dicom import Limits, read_folder
from ctsam3d.imaging.nifti import read_labels, read_volume
from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.outcome import Reason, Rejected

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def folder(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"shared data {name} is not beside this checkout")
    return path


def with_simpleitk(path: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


@pytest.mark.parametrize("name", ["dicom/cptac_pda_c3n-00249_chest", "dicom/tcga_ov_09-2043_abdomen"])
def test_series_agree_with_simpleitk(name: str) -> None:
    path = folder(name)
    series = read_folder(path)
    image = with_simpleitk(path)
    np.testing.assert_allclose(series.volume.geometry.origin_xyz_mm, image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(series.volume.geometry.spacing_xyz_mm, image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(series.volume.geometry.direction.ravel(), image.GetDirection(), atol=1e-6)
    theirs = np.maximum(sitk.GetArrayViewFromImage(image), AIR_HU)
    np.testing.assert_array_equal(series.volume.hu, theirs)
    assert series.facts.slices == series.facts.instances_used > 20
    assert series.facts.instances_set_aside == 1  # the licence


def test_padding_of_the_toshiba_series_is_its_round_field_of_view() -> None:
    volume = read_folder(folder("dicom/tcga_ov_09-2043_abdomen")).volume
    assert volume.padding is not None
    share = volume.padding.mean(axis=(1, 2))
    assert np.ptp(share) < 0.01
    # The rest of a circle in a square is 1 - pi/4; this one is larger than the reconstruction circle.
    assert 0.2 < share.mean() < 0.35
    assert (volume.hu[volume.padding] == AIR_HU).all()


def test_labels_drawn_on_the_jpeg_2000_series_lie_on_its_grid() -> None:
    series = read_folder(folder("dicom/totalseg_example"))
    labels, geometry = read_labels(DATA / "dicom" / "totalseg_example.labels.nii.gz")
    assert geometry.is_close(series.volume.geometry) or geometry.shape_zyx == series.volume.geometry.shape_zyx
    assert (series.facts.study_instance_uid, series.facts.series_instance_uid) == (None, None)
    # The labels are stored with rows the other way round: compare where voxels lie, not how they are kept.
    places = geometry.to_world_xyz_mm(np.argwhere(labels == 5))
    index = series.volume.geometry.to_index_zyx(places)
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    liver = series.volume.hu[tuple(np.rint(index).astype(int).T)]
    assert 60 < np.median(liver) < 160
    assert liver.std() < 60


def test_a_nifti_of_the_series_and_its_flipped_copy_give_the_same_model_grid(tmp_path: Path) -> None:
    volume = read_folder(folder("dicom/totalseg_example")).volume
    model = to_model_grid(volume)
    labels = (model.hu > 150).astype(np.uint8)
    drawn = labels_to_source(labels, model.geometry, volume.geometry)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    image = nib.Nifti1Image(volume.hu.T, affine)
    flipped = nib.as_closest_canonical(image)  # RAS+: left-right and front-back turned
    for name, copy in (("same", image), ("flipped", flipped)):
        nib.save(copy, tmp_path / f"{name}.nii.gz")
        other = read_volume(tmp_path / f"{name}.nii.gz")
        other_model = to_model_grid(other)
        np.testing.assert_array_equal(other_model.geometry.affine, model.geometry.affine)
        np.testing.assert_array_equal(other_model.hu, model.hu)
        back = labels_to_source(labels, other_model.geometry, other.geometry)
        np.testing.assert_array_equal(back, drawn if name == "same" else drawn[:, ::-1, ::-1])


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_a_legacy_converted_enhanced_object_equals_the_slices_it_was_made_of(name: str) -> None:
    path = folder(f"quirks/legacy_converted_enhanced_ct/{name}")
    tiny = Limits(min_extent_mm=0, check_hounsfield=False)  # three slices of zeros and ones
    whole, slices = read_folder(path / "multiframe", tiny), read_folder(path / "image", tiny)
    assert (whole.facts.instances_used, slices.facts.instances_used) == (1, 3)
    np.testing.assert_array_equal(whole.volume.hu, slices.volume.hu)
    np.testing.assert_array_equal(whole.volume.geometry.affine, slices.volume.geometry.affine)
    assert whole.volume.hu.max() == 1
    with pytest.raises(Rejected) as caught:
        read_folder(path / "multiframe")
    assert caught.value.reason is Reason.TOO_FEW_SLICES
