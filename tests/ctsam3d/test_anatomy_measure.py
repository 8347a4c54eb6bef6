"""Volumes, Hounsfield statistics and truncation of structures, measured on the grid of the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctsam3d.anatomy.measure import FIELD_OF_VIEW, Measurement, measure
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import AIR_HU, Volume

SHAPE = (40, 50, 60)
SPACING = (0.7, 0.9, 2.5)


def volume_of(direction: np.ndarray | None = None, padding: np.ndarray | None = None) -> Volume:
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    geometry = Geometry.from_spacing(SHAPE, SPACING, (-20.0, 10.0, -300.0), direction)
    return Volume(np.rint(hu).astype(np.int16), geometry, padding)


def box(*slices: tuple[int, int], label: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(slice(*s) for s in slices)] = label
    return labels


def only(volume: Volume, labels: np.ndarray) -> Measurement:
    return measure(volume, labels, {"thing": 1})["thing"]


def test_volume_of_a_ball_matches_its_formula_within_one_percent() -> None:
    volume = volume_of()
    centre, radius = np.array([2.0, 31.0, -252.0]), 15.0
    world = volume.geometry.to_world_xyz_mm(np.moveaxis(np.indices(SHAPE), 0, -1))
    inside = ((world - centre) ** 2).sum(axis=-1) < radius**2
    found = only(volume, inside.astype(np.uint8))
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.01)
    assert found.volume_ml == pytest.approx(found.voxels * 0.7 * 0.9 * 2.5 / 1000)
    np.testing.assert_allclose(found.centroid_xyz_mm, centre, atol=0.1)
    assert found.truncated_faces == ()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_number_equals_the_direct_computation(dtype: type, data: st.DataObject) -> None:
    shape = (4, 5, 6)
    hu = data.draw(arrays(np.int16, shape, elements=st.integers(-1024, 3000))).astype(dtype)
    labels = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))
    padding = data.draw(arrays(bool, shape, elements=st.booleans()))
    volume = Volume(hu, Geometry.from_spacing(shape, SPACING), padding)
    found = measure(volume, labels, {"a": 1, "b": 2, "d": 9})
    assert set(found) == {name for name, label in (("a", 1), ("b", 2)) if (labels == label).any()}
    for name, label in (("a", 1), ("b", 2)):
        if name not in found:
            continue
        one, mask = found[name], labels == label
        values = hu[mask & ~padding].astype(np.float64)
        index = np.argwhere(mask)
        assert one.voxels == mask.sum()
        assert one.bbox_zyx == (*index.min(axis=0), *(index.max(axis=0) + 1))
        centre = volume.geometry.to_world_xyz_mm(index.mean(axis=0))
        np.testing.assert_allclose(one.centroid_xyz_mm, centre, atol=1e-9)
        statistics = (one.mean_hu, one.sd_hu, one.p05_hu, one.p50_hu, one.p95_hu)
        if values.size == 0:
            assert statistics == (None,) * 5
        else:
            expected = (values.mean(), values.std(), *np.percentile(values, (5, 50, 95)))
            np.testing.assert_allclose(np.array(statistics, dtype=float), expected, atol=1e-6)


def test_a_structure_that_is_not_there_is_not_in_the_result() -> None:
    found = measure(
        volume_of(), box((5, 9), (5, 9), (5, 9), label=4), {"here": 4, "absent": 2, "beyond": 200}
    )
    assert list(found) == ["here"]
    assert found["here"].bbox_zyx == (5, 5, 5, 9, 9, 9)
    assert measure(volume_of(), np.zeros(SHAPE, np.uint8), {"a": 1}) == {}
    assert measure(volume_of(), np.zeros(SHAPE, np.uint8), {}) == {}


def test_faces_of_a_head_first_supine_series() -> None:
    def faces(*slices: tuple[int, int]) -> tuple[str, ...]:
        return only(volume_of(), box(*slices)).truncated_faces

    assert faces((0, 5), (5, 9), (5, 9)) == ("inferior",)
    assert faces((35, 40), (5, 9), (5, 9)) == ("superior",)
    assert faces((5, 9), (0, 9), (5, 9)) == ("anterior",)
    assert faces((5, 9), (45, 50), (5, 9)) == ("posterior",)
    assert faces((5, 9), (5, 9), (0, 9)) == ("right",)
    assert faces((5, 9), (5, 9), (50, 60)) == ("left",)
    everywhere = ("left", "right", "anterior", "posterior", "superior", "inferior")
    assert faces((0, 40), (0, 50), (0, 60)) == everywhere
    assert faces((1, 39), (1, 49), (1, 59)) == ()


def test_faces_follow_the_patient_not_the_array() -> None:
    feet_first = np.diag([-1.0, 1.0, -1.0])
    assert only(volume_of(feet_first), box((0, 5), (5, 9), (0, 9))).truncated_faces == ("left", "superior")
    coronal = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # rows towards the feet, slices towards the back
    assert only(volume_of(coronal), box((0, 5), (0, 9), (5, 9))).truncated_faces == ("anterior", "superior")
    c, s = np.cos(0.5), np.sin(0.5)
    oblique = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    assert only(volume_of(oblique), box((5, 9), (5, 9), (50, 60))).truncated_faces == ("left",)


def test_padding_is_left_out_of_hounsfield_statistics_and_named() -> None:
    padding = np.zeros(SHAPE, bool)
    padding[:, :, 40:] = True
    clean = volume_of()
    padded = Volume(np.where(padding, np.int16(AIR_HU), clean.hu), clean.geometry, padding)
    overlapping = only(padded, box((5, 9), (5, 9), (30, 45)))
    inner = only(clean, box((5, 9), (5, 9), (30, 40)))
    assert overlapping.mean_hu == inner.mean_hu
    assert overlapping.p05_hu == inner.p05_hu
    assert overlapping.voxels == 4 * 4 * 15
    assert overlapping.truncated_faces == (FIELD_OF_VIEW,)
    assert only(padded, box((5, 9), (5, 9), (30, 40))).truncated_faces == (FIELD_OF_VIEW,)
    assert only(padded, box((5, 9), (5, 9), (30, 39))).truncated_faces == ()
    wholly = only(padded, box((5, 9), (5, 9), (50, 55)))
    assert (wholly.mean_hu, wholly.sd_hu, wholly.p50_hu) == (None, None, None)


def test_padding_beyond_a_box_corner_does_not_count() -> None:
    """Only a voxel that the structure itself lies beside does, not one beside its bounding box."""
    labels = box((5, 9), (5, 9), (5, 9))
    labels[8, 8, 8] = 0
    padding = np.zeros(SHAPE, bool)
    padding[9, 8, 8] = padding[9, 9, 9] = True
    volume = volume_of(padding=padding)
    assert only(volume, labels).truncated_faces == ()
    padding[4, 5, 5] = True
    assert only(volume, labels).truncated_faces == (FIELD_OF_VIEW,)


def test_metal_does_not_overflow() -> None:
    volume = volume_of()
    hu = volume.hu.copy()
    hu[:20] = 32767
    found = only(Volume(hu, volume.geometry), box((0, 20), (0, 50), (0, 60)))
    assert (found.mean_hu, found.sd_hu, found.p95_hu) == (32767.0, 0.0, 32767.0)


def test_labels_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        measure(volume_of(), np.zeros((3, 3, 3), np.uint8), {"a": 1})
    with pytest.raises(ValueError, match="float"):
        measure(volume_of(), np.zeros(SHAPE, np.float32), {"a": 1})
    with pytest.raises(ValueError, match="start at 1"):
        measure(volume_of(), np.zeros(SHAPE, np.uint8), {"a": 0})
