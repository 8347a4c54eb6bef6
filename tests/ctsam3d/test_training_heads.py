"""What a closed ring of bone holds is brain, the ring is skull, and neither goes on where the ring is open."""

import numpy as np

from ctsam3d.training.heads import vault

_SPACING_MM = np.array([3.0, 4.0, 4.0])


def _head(open_below: int) -> tuple[np.ndarray, np.ndarray]:
    """HU of a skull of 5 mm around a ball of brain, open in front below a slice; where brain is."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (30, 60, 60)), indexing="ij")
    off_mm = np.sqrt(((z - 5) * 3.0) ** 2 + ((y - 30) * 4.0) ** 2 + ((x - 30) * 4.0) ** 2)
    hu = np.full(off_mm.shape, -1000, dtype=np.int16)
    hu[off_mm < 66] = 1000
    brain = off_mm < 60
    hu[brain] = 35
    hu[:open_below, :30, 20:40] = -1000  # 80 mm wide
    return hu, brain


def test_brain_and_skull_down_to_where_the_ring_opens() -> None:
    hu, truth = _head(open_below=12)
    brain, skull = vault(hu, _SPACING_MM)
    assert not brain[:12].any() and not skull[:12].any()
    known = slice(12, 24)
    assert np.count_nonzero(brain[known] & truth[known]) > 0.9 * np.count_nonzero(truth[known])
    assert not (brain & ~truth).any()
    assert (skull & (hu == 1000))[known].sum() > 0.9 * (hu == 1000)[known].sum()


def test_marrow_belongs_to_the_skull() -> None:
    hu, _ = _head(open_below=0)
    hu[5, 29:32, 45:48] = 1000  # thicker there, around a voxel of marrow
    hu[5, 30, 46] = 100
    _, skull = vault(hu, _SPACING_MM)
    assert skull[5, 30, 46]


def test_a_ring_full_of_air_is_no_head() -> None:
    hu, truth = _head(open_below=0)
    hu[truth] = -900
    brain, skull = vault(hu, _SPACING_MM)
    assert not brain.any() and not skull.any()


def test_an_image_without_a_crown_holds_neither() -> None:
    hu, _ = _head(open_below=30)
    brain, skull = vault(hu, _SPACING_MM)
    assert not brain.any() and not skull.any()
