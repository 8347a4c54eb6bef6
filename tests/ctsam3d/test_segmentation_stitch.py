"""Cubes land where they were cut from, merge by weight, and structures share voxels by probability alone."""

import itertools

import numpy as np
import pytest
import torch

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.patches import Patch, cut, lay_over, patch_around, patch_at
from ctsam3d.segmentation.stitch import Canvas, LabelMap

FACTOR = 4


def _volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(-1000, 1000, (70, 81, 90)).astype(np.int16)


@pytest.mark.parametrize("origin", [(0, 0, 0), (-20, 30, 60), (40, -63, 5), (3, 4, 5)])
def test_a_cube_holds_the_volume_inside_and_air_outside(origin: tuple[int, int, int]) -> None:
    hu = _volume()
    cube = cut(hu, Patch("liver", origin))
    padded = np.pad(hu, CUBE_VOXELS, constant_values=-1024)
    expected = padded[tuple(slice(o + CUBE_VOXELS, o + 2 * CUBE_VOXELS) for o in origin)]
    assert np.array_equal(cube, expected)


def test_the_click_is_the_centre_of_its_coarse_voxel() -> None:
    patch = patch_at("liver", np.array([9, 10, 11]), FACTOR)
    assert patch.click_zyx == (38, 42, 46) == patch_around("liver", (38, 42, 46)).click_zyx


def test_coarse_probabilities_lie_over_a_cube_where_they_lie_in_the_volume() -> None:
    """A linear ramp is reproduced exactly by linear interpolation, so any shift would show."""
    blocks = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (40, 40, 40)], indexing="ij")
    for axis, ramp in enumerate(blocks):
        patch = Patch("liver", (20, 30, 40))
        laid = lay_over(torch.from_numpy(ramp), patch, FACTOR)[0].numpy()
        voxels = np.arange(CUBE_VOXELS) + patch.origin_zyx[axis]
        expected = (voxels + 0.5) / FACTOR - 0.5  # block i is centred on voxel 4 i + 1.5
        along = np.moveaxis(laid, axis, 0)
        assert np.allclose(along, expected[:, None, None], atol=1e-3)


def test_merged_cubes_reproduce_a_field_they_all_saw() -> None:
    shape = (100, 90, 80)
    field = np.random.default_rng(1).random(shape).astype(np.float32)
    coarse = np.zeros((25, 23, 20), dtype=np.float32)
    coarse[5:20, 5:18, 5:15] = 1
    patches = [Patch("liver", o) for o in itertools.product((0, 40), (0, 30), (-5, 30))]
    canvas = Canvas.around(coarse, patches, shape, FACTOR)
    for patch in patches:
        of_volume, of_cube = patch.overlap(shape)
        cube = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        cube[of_cube] = field[of_volume]
        canvas.add(patch, cube)
    seen = canvas.weights > 0.01
    assert np.abs(canvas.probability() - field[canvas.box])[seen].max() < 0.1
    assert np.abs(canvas.probability() - field[canvas.box])[canvas.weights > 0.5].max() < 2e-3


def test_where_no_cube_reaches_the_coarse_mask_holds() -> None:
    coarse = np.zeros((40, 10, 10), dtype=np.float32)
    coarse[2:38] = 1
    patch = Patch("aorta", (0, 0, 0))
    canvas = Canvas.around(coarse, [patch], (160, 40, 40), FACTOR)
    canvas.add(patch, np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32))
    merged = canvas.probability()
    assert merged[100 - canvas.box[0].start].min() == pytest.approx(1)
    assert merged[20 - canvas.box[0].start].max() < 0.05


def test_the_more_probable_structure_has_the_voxel_in_any_order() -> None:
    rng = np.random.default_rng(2)
    claims = {i: rng.random((12, 12, 12)).astype(np.float32) for i in (1, 2, 3)}
    claims[3] = claims[1].copy()  # a tie everywhere
    box = (slice(0, 12),) * 3
    results = []
    for order in itertools.permutations(claims):
        label_map = LabelMap((12, 12, 12))
        for label in order:
            label_map.claim(label, box, claims[label], claims[label] > 0.5)
        results.append(label_map.labels)
    assert all(np.array_equal(results[0], other) for other in results)
    assert set(np.unique(results[0])) == {0, 1, 2}  # of the tied, the lower label
    surely_2 = claims[2] > np.maximum(claims[1], 0.5) + 0.01
    assert (results[0][surely_2] == 2).all()


def test_a_canvas_may_be_cut_to_what_cubes_reach() -> None:
    canvas = Canvas((200, 180, 160))
    assert canvas.touched() is canvas
    ones = np.ones((64, 64, 64), dtype=np.float32)
    canvas.add(patch_around("liver", (10, 90, 80)), ones)  # partly outside the volume
    canvas.add(patch_around("liver", (60, 90, 80)), ones)
    part = canvas.touched()
    assert [(s.start, s.stop) for s in part.box] == [(0, 92), (58, 122), (48, 112)]
    assert np.array_equal(part.probability(), canvas.probability()[part.box])
    assert part.mask_voxels == canvas.mask_voxels == 92 * 64 * 64
