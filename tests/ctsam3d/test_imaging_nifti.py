"""NIfTI files become volumes and label maps where they say they are; label maps go out without any text."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_labels, read_volume, write_labels
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.outcome import Reason, Rejected
from tests.builders import outside_circle, phantom_hu


def oblique() -> Geometry:
    direction = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    return Geometry.from_spacing((6, 7, 8), (0.7, 0.9, 2.5), (-12.5, 30.25, -700.0), direction)


def labels_of(shape: tuple[int, ...], high: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high + 1, shape)


def test_simpleitk_finds_the_same_grid_as_we_do(tmp_path: Path) -> None:
    """SimpleITK reads the affine of its own accord, in the same LPS+."""
    write_labels(tmp_path / "l.nii.gz", labels_of((6, 7, 8)), oblique())
    image = sitk.ReadImage(str(tmp_path / "l.nii.gz"))
    np.testing.assert_allclose(image.GetOrigin(), oblique().origin_xyz_mm, atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), oblique().spacing_xyz_mm, atol=1e-6)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), oblique().direction, atol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels_of((6, 7, 8)))
    labels, geometry = read_labels(tmp_path / "l.nii.gz")
    np.testing.assert_array_equal(labels, labels_of((6, 7, 8)))
    np.testing.assert_allclose(geometry.affine, oblique().affine, atol=1e-4)


@pytest.mark.parametrize(("high", "dtype"), [(5, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_labels_round_trip_in_the_smallest_type(tmp_path: Path, high: int, dtype: type) -> None:
    labels = labels_of((6, 7, 8), high)
    labels[0, 0, 0] = high
    write_labels(tmp_path / "l.nii.gz", labels, oblique())
    read, _ = read_labels(tmp_path / "l.nii.gz")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, labels)


def test_written_labels_say_nothing_but_their_grid_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("patient-name.nii.gz", "other.nii.gz"):
        write_labels(tmp_path / name, labels_of((6, 7, 8)), oblique())
    first, second = ((tmp_path / name).read_bytes() for name in ("patient-name.nii.gz", "other.nii.gz"))
    assert first == second
    assert b"patient" not in first
    header = nib.load(tmp_path / "other.nii.gz").header
    for field in ("descrip", "db_name", "aux_file", "intent_name", "data_type"):
        assert not header[field].tobytes().strip(b"\0"), field
    assert header["qform_code"] == header["sform_code"] == 1
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_unfit_labels_are_not_written(tmp_path: Path) -> None:
    for bad in (np.full((6, 7, 8), -1), np.full((6, 7, 8), 70000), np.zeros((6, 7, 9), int)):
        with pytest.raises(ValueError, match=r"labels"):
            write_labels(tmp_path / "l.nii.gz", bad, oblique())
    assert not list(tmp_path.iterdir())


def save(path: Path, data: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> Path:
    image = nib.Nifti1Image(data, np.diag([-1.0, -1.0, 2.0, 1.0]))
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, np.float32, np.float64])
def test_whole_numbers_of_any_type_become_int16(tmp_path: Path, dtype: type) -> None:
    hu = np.maximum(phantom_hu((6, 7, 8)), AIR_HU)
    offset = 2000 if dtype == np.uint16 else 0
    volume = read_volume(save(tmp_path / "v.nii.gz", (hu.astype(np.int64) + offset).T.astype(dtype)))
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, hu + offset)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    hu = np.maximum(phantom_hu((6, 7, 8)), AIR_HU)
    stored = ((hu + 1024.0) / 2).round().astype(np.uint16).T
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_data_dtype(np.uint16)
    nib.save(image, tmp_path / "v.nii")
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    raw[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()
    (tmp_path / "v.nii").write_bytes(bytes(raw))
    volume = read_volume(tmp_path / "v.nii")
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, stored.T.astype(int) * 2 - 1024)


def test_fractions_stay_float32_and_what_is_not_finite_is_padding(tmp_path: Path) -> None:
    values = phantom_hu((6, 7, 8)).astype(np.float32) + 0.25
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = read_volume(save(tmp_path / "v.nii.gz", values.T))
    assert volume.hu.dtype == np.float32
    assert volume.padding is not None
    assert np.argwhere(volume.padding).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    assert (volume.hu[0, 0, :3] == AIR_HU).all()
    np.testing.assert_array_equal(volume.hu[1], np.maximum(values[1], AIR_HU))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_corners_outside_the_field_of_view_are_padding_in_any_storage_order(
    tmp_path: Path, axis: int
) -> None:
    hu = phantom_hu((6, 40, 48)).astype(np.int16)
    ring = np.broadcast_to(outside_circle((40, 48)), hu.shape)
    hu[ring] = -2048
    hu[2, 18:22, 24] = -1800  # a streak in the body
    stored, affine = np.moveaxis(hu, 0, axis), np.eye(4)
    columns = [a for a in range(3) if a != axis]
    affine[:3, :3] = 0
    affine[2, 2 - axis] = 2.0
    affine[1, 2 - columns[0]] = -0.9
    affine[0, 2 - columns[1]] = -0.7
    nib.save(nib.Nifti1Image(stored.T, affine), tmp_path / "v.nii.gz")
    volume = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(np.moveaxis(volume.padding, axis, 0), ring)
    assert np.moveaxis(volume.hu, axis, 0)[2, 20, 24] == AIR_HU


def test_files_that_are_no_image_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz", phantom_hu((6, 7, 8)).T).read_bytes()
    plain = gzip.decompress(good)
    unplaced = bytearray(plain)
    unplaced[252:256] = b"\0\0\0\0"
    singular = bytearray(plain)
    singular[252:256] = np.array([0, 1], "<i2").tobytes()
    singular[280:328] = np.zeros(12, "<f4").tobytes()
    faults = {
        "cut.nii.gz": (good[: len(good) // 2], Reason.MALFORMED),
        "cut.nii": (plain[: len(plain) // 2], Reason.MALFORMED),
        "text.nii.gz": (b"hello", Reason.MALFORMED),
        "noise.nii": (np.random.default_rng(0).bytes(1000), Reason.MALFORMED),
        "empty.nii.gz": (b"", Reason.MALFORMED),
        "unplaced.nii": (bytes(unplaced), Reason.GEOMETRY_INVALID),
        "singular.nii": (bytes(singular), Reason.GEOMETRY_INVALID),
    }
    for name, (data, reason) in faults.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Rejected) as caught:
            read_volume(tmp_path / name)
        assert caught.value.reason is reason, name
    with pytest.raises(FileNotFoundError):
        read_volume(tmp_path / "absent.nii.gz")


def test_a_time_series_is_refused_and_a_fourth_axis_of_one_is_not(tmp_path: Path) -> None:
    data = phantom_hu((6, 7, 8)).T
    assert read_volume(save(tmp_path / "one.nii.gz", data[..., None])).hu.shape == (6, 7, 8)
    with pytest.raises(Rejected) as caught:
        read_volume(save(tmp_path / "two.nii.gz", np.stack([data, data], axis=-1)))
    assert caught.value.reason is Reason.MALFORMED


def test_a_header_that_promises_too_much_costs_nothing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    raw = bytearray(image.to_bytes())
    raw[40:48] = np.array([3, 20000, 20000, 20000], "<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(bytes(raw))
    with pytest.raises(Rejected) as caught:
        read_volume(tmp_path / "huge.nii")
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, 70000.0])
def test_images_are_not_taken_for_label_maps(tmp_path: Path, value: float) -> None:
    data = np.zeros((4, 5, 6), np.float32)
    data[1, 1, 1] = value
    with pytest.raises(Rejected) as caught:
        read_labels(save(tmp_path / "l.nii.gz", data))
    assert caught.value.reason is Reason.MALFORMED
