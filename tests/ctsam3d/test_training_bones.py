"""Masks that found part of a bone become the bone that the image shows, and nothing else that is dense."""

import numpy as np
import pytest
from scipy import ndimage

from ctsam3d.training.bones import as_dense, doubtful

_SHAPE = (20, 80, 80)
_SPACING_MM = np.array([3.0, 2.0, 2.0])


def _box(z: slice, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(_SHAPE, dtype=bool)
    mask[z, y, x] = True
    return mask


_ALL = slice(None)
_LEFT, _RIGHT = _box(_ALL, slice(20, 60), slice(45, 65)), _box(_ALL, slice(20, 60), slice(15, 35))
_RIB = _box(slice(8, 12), slice(20, 60), slice(68, 71))  # in the wall beside the left lung
_VEIN = _box(_ALL, slice(30, 36), slice(38, 42))  # between the lungs, full of contrast medium
_TABLE = _box(_ALL, slice(75, 78), _ALL)
_SPINE = _box(_ALL, slice(56, 66), slice(35, 44))
_CORD = _box(_ALL, slice(62, 64), slice(38, 40))
_PROCESS = _box(_ALL, slice(66, 72), slice(38, 40))


def _image(*dense: np.ndarray) -> np.ndarray:
    hu = np.full(_SHAPE, 40, dtype=np.int16)
    hu[_LEFT | _RIGHT] = -850
    hu[np.logical_or.reduce(dense)] = 600
    return hu


def _dense_alone(bone: np.ndarray) -> np.ndarray:
    return np.where(bone, 240, 40).astype(np.int16)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture
def masks() -> dict[str, np.ndarray]:
    found = {"lung_left": _LEFT, "lung_right": _RIGHT, "vertebrae": _SPINE & ~_CORD, "spinal_cord": _CORD}
    return {**found, "ribs": _RIB & _box(_ALL, slice(20, 38), _ALL)}


def test_the_rest_of_a_rib_is_found_and_no_vein_and_no_table(masks: dict[str, np.ndarray]) -> None:
    # a mask that has also taken a bit of the vein
    masks["ribs"] = masks["ribs"] | (_VEIN & _box(slice(4, 16), _ALL, _ALL))
    ribs = as_dense("ribs", _image(_RIB, _VEIN, _TABLE, _SPINE), masks, _SPACING_MM)
    assert (ribs & _RIB).sum() > 0.95 * _RIB.sum()
    assert not (ribs & ~ndimage.binary_dilation(_RIB, iterations=2)).any()  # blurred edges


def test_marrow_belongs_to_a_rib(masks: dict[str, np.ndarray]) -> None:
    marrow = _box(slice(9, 11), slice(30, 50), slice(69, 70))
    ribs = as_dense("ribs", _image(_RIB & ~marrow, _SPINE), masks, _SPACING_MM)
    assert (ribs & marrow).sum() > 0.9 * marrow.sum()


def test_a_shoulder_blade_ends_where_a_rib_begins(masks: dict[str, np.ndarray]) -> None:
    blade = _box(slice(6, 14), slice(40, 70), slice(71, 73))
    found = blade & _box(_ALL, slice(40, 50), _ALL)
    bone = as_dense(
        "scapula_left", _image(_RIB, blade), {**masks, "ribs": _RIB, "scapula_left": found}, _SPACING_MM
    )
    assert (bone & blade)[:, 40:62].sum() > 0.9 * blade[:, 40:62].sum()  # 25 mm beyond what was found
    assert not (bone & _RIB).any()


def test_a_vertebra_has_its_process_and_not_its_canal(masks: dict[str, np.ndarray]) -> None:
    bone = as_dense("vertebrae", _image(_SPINE & ~_CORD, _PROCESS), masks, _SPACING_MM)
    assert (bone & _PROCESS).sum() > 0.9 * _PROCESS.sum()
    assert not (bone & _CORD).any()


def test_a_thick_bone_is_its_shell_and_its_marrow_without_a_rim_around_it() -> None:
    whole = _box(_ALL, slice(20, 40), slice(20, 40))
    ring = whole & ~_box(_ALL, slice(25, 35), slice(25, 35))
    ring[:, 20:25, 29] = False  # one voxel open
    found = ndimage.binary_dilation(whole, np.ones((1, 7, 7)))
    bone = as_dense("femur_left", _dense_alone(ring), {"femur_left": found}, _SPACING_MM)
    assert _dice(bone, whole) > 0.99


def _two_bodies() -> tuple[np.ndarray, np.ndarray]:
    """Two vertebral bodies, hollow, and the disc between them, which their rims enclose in one of its slices."""
    across = slice(20, 40), slice(20, 40)
    within = slice(22, 38), slice(22, 38)
    bodies = _box(slice(2, 9), *across) | _box(slice(11, 18), *across)
    marrow = _box(slice(3, 8), *within) | _box(slice(12, 17), *within)
    rim = _box(slice(9, 10), *across) & ~_box(slice(9, 10), *within)
    return (bodies & ~marrow) | rim, bodies | rim


def test_marrow_is_of_a_vertebra_and_a_disc_is_not() -> None:
    shell, bone = _two_bodies()
    found = _box(slice(2, 18), slice(18, 42), slice(18, 42))
    canal = np.zeros_like(found)
    vertebrae = as_dense(
        "vertebrae", _dense_alone(shell), {"vertebrae": found, "spinal_cord": canal}, _SPACING_MM
    )
    assert not vertebrae[9:11, 23:37, 23:37].any()
    assert _dice(vertebrae, bone) > 0.95


def test_what_is_softer_is_no_bone_and_the_rest_of_a_mask_doubtful() -> None:
    shell, _ = _two_bodies()
    found = _box(slice(2, 18), slice(14, 46), slice(14, 46))
    hu = _dense_alone(shell)
    hu[9:11] = np.where(shell[9:11], 240, 80)  # the disc and what lies around it
    hu[:, 14:18] = -100
    bone = as_dense("vertebrae", hu, {"vertebrae": found, "spinal_cord": np.zeros_like(found)}, _SPACING_MM)

    def certain(soft_hu: float) -> np.ndarray:
        maybe = doubtful(found, bone, hu, _SPACING_MM, soft_hu)
        assert not (maybe & (bone | ~found)).any()
        return found & ~bone & ~maybe

    fat = certain(0.0)
    assert fat[:, 15].sum() > 0.9 * found[:, 15].sum()
    assert not fat[:, 22:].any()
    soft = certain(60.0)
    assert not soft[9:11, 25:35, 25:35].any()
    assert soft[2:9, 43:46, 20:40].all()
    assert certain(120.0)[9:11, 25:35, 25:35].all()
