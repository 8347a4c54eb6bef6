"""Bones end where the image is no longer dense, and go on where it is."""

import numpy as np

from ctsam3d.segmentation.intensity import within_intensity

_SHAPE = (40, 60, 60)


def _box(z: slice, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(_SHAPE, dtype=bool)
    mask[z, y, x] = True
    return mask


_RIB = _box(slice(18, 22), slice(5, 55), slice(8, 12))  # 6 mm thick
_SPINE = _box(slice(5, 35), slice(40, 60), slice(12, 40))  # that the rib runs into
_MARROW = _box(slice(18, 22), slice(10, 40), slice(9, 11))


def _image(*dense: np.ndarray) -> np.ndarray:
    hu = np.full(_SHAPE, 40, dtype=np.int16)
    hu[np.logical_or.reduce(dense)] = 700
    return hu


def _seen(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.float32(0.8), np.float32(0.1))


def _grown(mask: np.ndarray, voxels: int) -> np.ndarray:
    found = mask.copy()
    for axis in range(3):
        for shift in range(-voxels, voxels + 1):
            found |= np.roll(mask, shift, axis)
    return found


def test_a_rib_is_as_thick_as_it_is_dense_and_its_pieces_join() -> None:
    parts = _RIB & (
        _box(slice(None), slice(5, 15), slice(None)) | _box(slice(None), slice(30, 40), slice(None))
    )
    rib = within_intensity("ribs", _seen(_grown(parts, 2)), _image(_RIB)) > 0.5
    assert rib[20, 6:54, 10].all()  # 15 voxels were missing between, 15 beyond
    assert not (rib & ~_grown(_RIB, 1)).any()


def test_a_rib_ends_at_the_spine() -> None:
    rib = within_intensity("ribs", _seen(_RIB & ~_SPINE), _image(_RIB, _SPINE)) > 0.5
    beyond = rib & _SPINE & ~_grown(_RIB, 5)
    assert np.count_nonzero(beyond) < 0.03 * np.count_nonzero(_SPINE)  # along its edges, which are thin


def test_marrow_belongs_to_a_thick_bone_and_soft_tissue_beside_it_does_not() -> None:
    hollow = _image(_SPINE)
    hollow[10:30, 45:55, 20:32] = 40
    bone = within_intensity("vertebrae", _seen(_grown(_SPINE, 3)), hollow) > 0.5
    assert bone[20, 50, 26] and bone[_SPINE].mean() > 0.98
    assert not (bone & ~_grown(_SPINE, 1)).any()


def test_between_vertebrae_is_no_bone_and_marrow_is_however_soft() -> None:
    across = slice(20, 44), slice(16, 44)
    bodies = _box(slice(3, 17), *across) | _box(slice(24, 38), *across)
    disc = _box(slice(17, 24), *across)
    hollow = _box(slice(None), slice(22, 42), slice(18, 42))
    marrow = hollow & (_box(slice(5, 15), *across) | _box(slice(26, 36), *across))
    rim = _box(slice(17, 19), *across) & ~hollow
    hu = _image(bodies | rim)
    hu[disc & ~rim] = 90
    for marrow_hu in (200, 85):  # of the young and the old
        hu[marrow] = marrow_hu
        bone = within_intensity("vertebrae", _seen(_grown(bodies | disc, 3)), hu) > 0.5
        assert bone[bodies].mean() > 0.98
        assert bone[rim].mean() > 0.9
        assert not bone[18:23, 25:40, 20:40].any()


def test_where_little_is_dense_the_mask_stays() -> None:
    probability = _seen(_grown(_RIB, 3))
    assert within_intensity("ribs", probability, _image(_MARROW)) is probability
    assert within_intensity("hip_left", probability, _image()) is probability


def test_what_was_not_seen_at_all_is_not_found() -> None:
    nothing = np.zeros(_SHAPE, dtype=np.float32)
    assert not within_intensity("ribs", nothing, _image(_RIB)).any()
    assert not within_intensity("femur_left", nothing, _image(_RIB)).any()
