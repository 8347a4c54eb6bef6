"""The model's grid does not depend on how a volume is stored; labels come back to where they were drawn."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_volume
from ctsam3d.imaging.resample import labels_to_source, model_geometry, to_grid, to_model_grid
from ctsam3d.imaging.volume import AIR_HU, Volume
from tests.builders import phantom_hu

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(angles_rad: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        i, j = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ step
    return matrix


def volume_of(
    shape: tuple[int, int, int] = (11, 14, 17),
    angles: tuple[float, float, float] = (0.11, -0.2, 0.31),
    padding: bool = False,
) -> Volume:
    geometry = Geometry.from_spacing(shape, (0.7, 0.9, 2.5), (-20.505, -31.255, 100.125), rotation(angles))
    hu = phantom_hu(shape)
    return Volume(hu, geometry, hu < -950 if padding else None)


def stored_otherwise(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same voxels with array axes in another order and direction, the affine following them."""

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.transpose(order)[tuple(slice(None, None, s) for s in signs)])

    shape = tuple(volume.hu.shape[o] for o in order)
    affine = np.eye(4)
    affine[:3, 3] = volume.geometry.affine[:3, 3]
    for axis, (o, sign) in enumerate(zip(order, signs, strict=True)):
        column = volume.geometry.affine[:3, 2 - o]
        affine[:3, 2 - axis] = sign * column
        if sign < 0:
            affine[:3, 3] += (shape[axis] - 1) * column
    padding = turn(volume.padding) if volume.padding is not None else None
    return Volume(turn(volume.hu), Geometry(shape, affine), padding)


WAYS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.11, -0.2, 0.31), (0.0, 0.0, np.pi / 4)])
def test_all_48_storage_orders_meet_in_the_same_model_grid(angles: tuple[float, float, float]) -> None:
    volume = volume_of(angles=angles, padding=True)
    reference = to_model_grid(volume)
    labels = (reference.hu > -500).astype(np.uint8) + (reference.hu > 200)
    drawn = labels_to_source(labels, reference.geometry, volume.geometry)
    assert len(np.unique(drawn)) == 3
    for order, signs in WAYS:
        other = stored_otherwise(volume, order, signs)
        model = to_model_grid(other)
        np.testing.assert_array_equal(model.geometry.affine, reference.geometry.affine)
        np.testing.assert_array_equal(model.hu, reference.hu)
        np.testing.assert_array_equal(model.padding, reference.padding)
        back = labels_to_source(labels, model.geometry, other.geometry)
        expected = drawn.transpose(order)[tuple(slice(None, None, s) for s in signs)]
        np.testing.assert_array_equal(back, expected)
        assert back.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("signs", [(1, 1, 1), (1, 1, -1), (-1, -1, 1)])
def test_a_nifti_copy_meets_in_the_same_model_grid(
    tmp_path: Path, dtype: type, signs: tuple[int, ...]
) -> None:
    volume = volume_of()
    stored = stored_otherwise(volume, (0, 1, 2), signs)
    image = nib.Nifti1Image(stored.hu.T.astype(dtype), LPS_TO_RAS @ stored.geometry.affine)
    nib.save(image, tmp_path / "copy.nii.gz")
    read = read_volume(tmp_path / "copy.nii.gz")
    assert read.hu.dtype == np.int16
    # What a NIfTI header cannot hold of the affine is what the rounding is for.
    assert not np.array_equal(read.geometry.affine, stored.geometry.affine)
    np.testing.assert_allclose(read.geometry.affine, stored.geometry.affine, atol=1e-4)
    model, reference = to_model_grid(read), to_model_grid(volume)
    np.testing.assert_array_equal(model.geometry.affine, reference.geometry.affine)
    np.testing.assert_array_equal(model.hu, reference.hu)


def test_the_model_grid_is_isotropic_lps_and_covers_the_source() -> None:
    volume = volume_of()
    model = model_geometry(volume.geometry)
    np.testing.assert_array_equal(model.affine[:3, :3], 1.5 * np.eye(3))
    corners = np.array(list(product(*[(-0.5, n - 0.5) for n in volume.geometry.shape_zyx])))
    index = model.to_index_zyx(volume.geometry.to_world_xyz_mm(corners))
    tolerance = 0.05  # the geometry is rounded to a twentieth of a millimetre
    assert (index >= -0.5 - tolerance).all()
    assert (index <= np.array(model.shape_zyx) - 0.5 + tolerance).all()
    assert (index.min(axis=0) < 0.5).all()
    assert (index.max(axis=0) > np.array(model.shape_zyx) - 1.5).all()


def test_a_linear_ramp_keeps_its_values_and_the_outside_is_air() -> None:
    geometry = Geometry.from_spacing((20, 24, 28), (0.8, 0.9, 2.0), (-10.0, 5.0, 30.0), rotation((0, 0, 0.4)))
    weights = np.array([3.0, -2.0, 1.5])
    world = geometry.to_world_xyz_mm(np.moveaxis(np.indices(geometry.shape_zyx), 0, -1))
    volume = Volume((world @ weights).astype(np.float32), geometry)
    model = to_model_grid(volume)
    index = np.moveaxis(np.indices(model.geometry.shape_zyx), 0, -1)
    place = model.geometry.to_world_xyz_mm(index)
    inside_at = geometry.to_index_zyx(place)
    inside = ((inside_at > 0.1) & (inside_at < np.array(geometry.shape_zyx) - 1.1)).all(axis=-1)
    outside = ((inside_at < -0.6) | (inside_at > np.array(geometry.shape_zyx) - 0.4)).any(axis=-1)
    assert inside.mean() > 0.3
    assert outside.mean() > 0.1
    # Half a unit of rounding, and the rounding of the geometry (0.025 mm) along the ramp.
    assert np.abs(model.hu - place @ weights)[inside].max() < 0.75
    assert (model.hu[outside] == AIR_HU).all()
    assert abs((model.hu - place @ weights)[inside].mean()) < 0.1


def test_labels_come_back_with_smooth_borders_and_the_right_volume() -> None:
    source = Geometry.from_spacing((40, 90, 100), (0.7, 0.8, 2.0), (-35.0, -36.0, 0.0))
    model = model_geometry(source)
    centre, radius = np.array([2.0, 1.0, 40.0]), 22.0

    def ball(geometry: Geometry) -> NDArray[np.bool_]:
        world = geometry.to_world_xyz_mm(np.moveaxis(np.indices(geometry.shape_zyx), 0, -1))
        return ((world - centre) ** 2).sum(axis=-1) < radius**2

    back = labels_to_source(ball(model).astype(np.uint8) * 7, model, source)
    assert set(np.unique(back)) == {0, 7}
    truth = ball(source)
    dice = 2 * (truth & (back == 7)).sum() / (truth.sum() + (back == 7).sum())
    assert dice > 0.98
    assert (back == 7).sum() == pytest.approx(truth.sum(), rel=0.01)


def test_each_voxel_takes_the_label_of_the_heaviest_corners() -> None:
    source = Geometry.from_spacing((6, 7, 8), (0.8, 0.9, 1.1), (0.3, -0.2, 5.0), rotation((0.2, 0.1, -0.3)))
    model = model_geometry(source)
    labels = np.random.default_rng(0).integers(0, 4, model.shape_zyx).astype(np.uint16)
    back = labels_to_source(labels, model, source)
    assert back.dtype == np.uint16
    at = model.to_index_zyx(source.to_world_xyz_mm(np.moveaxis(np.indices(source.shape_zyx), 0, -1)))
    agreed = checked = 0
    for index in np.ndindex(*source.shape_zyx):
        weight = np.zeros(4)
        place = np.clip(at[index], 0, np.array(model.shape_zyx) - 1)
        low = np.minimum(place.astype(int), np.array(model.shape_zyx) - 2)
        for corner in product((0, 1), repeat=3):
            share = np.prod(np.where(corner, place - low, 1 - (place - low)))
            weight[labels[tuple(low + corner)]] += share
        best = np.sort(weight)
        if best[-1] - best[-2] > 0.2:  # beyond what the rounding of the geometry can turn
            checked += 1
            agreed += int(back[index] == weight.argmax())
    assert checked > 50
    assert agreed == checked


def test_labels_outside_the_model_grid_are_zero() -> None:
    model = Geometry.from_spacing((8, 8, 8), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0))
    source = Geometry.from_spacing((30, 30, 30), (1.0, 1.0, 1.0), (-9.0, -9.0, -9.0))
    back = labels_to_source(np.full((8, 8, 8), 3, np.uint8), model, source)
    occupied = np.argwhere(back == 3)
    assert occupied.min() == 9  # from -0.75 mm
    assert occupied.max() == 20  # to 11.25 mm
    assert (back[9:21, 9:21, 9:21] == 3).all()


def test_any_other_grid() -> None:
    volume = volume_of(angles=(0.0, 0.0, 0.0))
    same = to_grid(volume, volume.geometry)
    # The source is rounded by up to 0.025 mm against itself: flat regions stay, edges blur by that.
    assert np.median(np.abs(same.hu.astype(int) - volume.hu)) <= 1
    with pytest.raises(ValueError, match="shape"):
        labels_to_source(np.zeros((2, 2, 2), np.uint8), volume.geometry, volume.geometry)


def test_a_single_plane_of_model_voxels() -> None:
    source = Geometry.from_spacing((1, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    model = model_geometry(source)
    assert model.shape_zyx[0] == 1
    back = labels_to_source(np.ones(model.shape_zyx, np.uint8), model, source)
    assert (back == 1).all()
