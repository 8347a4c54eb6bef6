"""What a GPU resamples is what a CPU does: the same code is run on both, and held against the CPU's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctsam3d.imaging import device_resample, resample
from ctsam3d.imaging.geometry import Geometry
from tests.ctsam3d.devices import DEVICES, on_cuda

RNG = np.random.default_rng(3)


def oblique(shape: tuple[int, int, int]) -> Geometry:
    """A grid of oblong voxels, turned by 0.2 rad about x and 0.1 about z."""
    (c, s), (d, t) = ((np.cos(a), np.sin(a)) for a in (0.2, 0.1))
    direction = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[d, -t, 0], [t, d, 0], [0, 0, 1]])
    return Geometry.from_spacing(shape, (0.7, 0.9, 2.5), (-20.505, -31.255, 100.125), direction)


GRIDS = [oblique((11, 24, 27)), oblique((1, 24, 27)), Geometry.from_spacing((9, 31, 30), (0.8, 0.8, 3.0))]


@pytest.fixture(autouse=True)
def in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_resample, "_VOXELS_AT_A_TIME", 1000)


def image_on(source: Geometry) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    hu = RNG.integers(-1000, 2000, source.shape_zyx).astype(np.int16)
    return hu, (hu > 500).astype(np.uint8)


@pytest.mark.parametrize("source", GRIDS)
def test_values_are_interpolated_as_simpleitk_does(source: Geometry) -> None:
    pytest.importorskip("SimpleITK")
    hu, padding = image_on(source)
    target, here = resample.model_geometry(source), torch.device("cpu")
    found = device_resample.linear(hu, source, target, -1024, here)
    assert found.dtype == np.float32
    assert np.abs(found - resample._resampled(hu, source, target, -1024)).max() < 1e-3
    outside = device_resample.nearest(padding, source, target, 1, here)
    assert np.array_equal(outside, resample._resampled(padding, source, target, 1, nearest=True))


@on_cuda
@pytest.mark.parametrize("source", GRIDS)
def test_a_gpu_interpolates_alike(source: Geometry) -> None:
    hu, padding = image_on(source)
    target = resample.model_geometry(source)
    expected, found = (
        device_resample.linear(hu, source, target, -1024, torch.device(d)) for d in ("cpu", "cuda")
    )
    assert np.abs(found - expected).max() < 1e-3
    expected, found = (
        device_resample.nearest(padding, source, target, 1, torch.device(d)) for d in ("cpu", "cuda")
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", GRIDS)
def test_labels_are_those_of_a_cpu(source: Geometry, device: str) -> None:
    rounded = resample._rounded(source)
    model = resample.model_geometry(source)
    labels = RNG.integers(0, 4, model.shape_zyx).astype(np.uint8).repeat(2, 0)[: model.shape_zyx[0]]
    found = device_resample.heaviest_labels(labels, model, rounded, torch.device(device))
    assert found.dtype == np.uint8 and len(np.unique(found)) == 4
    assert np.array_equal(found, resample.labels_to_source(labels, model, source))


@on_cuda
def test_a_gpu_is_used_where_it_is_given() -> None:
    """Of an image as it is stored, head first or not."""
    from ctsam3d.imaging.volume import Volume

    source = GRIDS[0]
    hu = RNG.integers(-1000, 2000, source.shape_zyx).astype(np.int16)
    flipped = source.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, len(hu) - 1], [0, 0, 0, 1.0]])
    there = torch.device("cuda")
    upright = resample.to_model_grid(Volume(hu, source, hu < -900), device=there)
    turned = resample.to_model_grid(
        Volume(hu[::-1], Geometry(source.shape_zyx, flipped), hu[::-1] < -900), device=there
    )
    assert np.array_equal(upright.hu, turned.hu) and np.array_equal(upright.padding, turned.padding)
