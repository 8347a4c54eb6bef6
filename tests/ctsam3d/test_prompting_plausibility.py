"""The body is found without its table, and what lies at an impossible height is not believed."""

import numpy as np
import pytest

from ctsam3d.prompting.plausibility import body_mask, implausible, out_of_place


def _trunk() -> np.ndarray:
    """An ellipse with two lungs and, below it, a table: two thin shells with foam between them."""
    y, x = np.mgrid[:60, :70]
    hu = np.full((8, 60, 70), -1000.0, dtype=np.float32)
    hu[:, ((y - 25) / 16.0) ** 2 + ((x - 35) / 26.0) ** 2 <= 1] = 40
    for centre in (23, 47):
        hu[:, ((y - 25) / 9.0) ** 2 + ((x - centre) / 7.0) ** 2 <= 1] = -850
    hu[:, 45, 8:62] = hu[:, 52, 8:62] = 100
    hu[:, 46:52, 8:62] = -950
    return hu


def test_the_body_holds_its_lungs_and_not_its_table() -> None:
    body = body_mask(_trunk())
    assert body[:, 25, 20].all() and body[:, 25, 50].all() and body[:, 25, 35].all()
    assert not body[:, 44:].any() and not body[:, 25, :5].any()


def test_a_lung_open_to_the_edge_of_the_image_still_belongs() -> None:
    cropped = _trunk()[:, :, 18:]  # through the right lung
    assert body_mask(cropped)[:, 25, 6].all()


def test_a_thin_wall_at_the_edge_of_the_image_keeps_the_lung_in() -> None:
    hu = np.full((4, 40, 40), -1000.0, dtype=np.float32)
    hu[:, :36, 4:36] = 40
    hu[:, 1:30, 14:32] = -850  # one block of the wall is left, and it turns away from the edge
    hu[:, 0, 4:12] = -1000
    assert body_mask(hu)[:, 10, 20].all()


def test_slices_whose_wall_has_a_hole_are_closed_by_their_neighbours() -> None:
    torn = _trunk()
    torn[3:6, :25, 14:32] = -1000  # wider than any gap that is closed within a slice
    assert body_mask(torn)[:, 25, 20].all()


def test_lungs_behind_a_wall_as_thin_as_a_tables_shell_belong_with_it() -> None:
    y, x = np.mgrid[:60, :70]
    hu = _trunk()
    ribcage = ((y - 25) / 16.0) ** 2 + ((x - 35) / 26.0) ** 2
    hu[:, (ribcage <= 1) & (np.abs(x - 35) > 8)] = -850  # the heart and the spine are all that is thick
    hu[:, (ribcage <= 1.1) & (ribcage >= 0.95) & (hu[0] < 0)] = -200
    body = body_mask(hu)
    assert body[:, 25, 15].all() and body[:, 25, 55].all()
    assert body[:, 25, 9].all()  # the wall
    assert not body[:, 44:].any()  # the table encloses foam likewise


def test_air_has_no_body() -> None:
    assert not body_mask(np.full((4, 9, 9), -1000.0, dtype=np.float32)).any()


def test_a_thigh_beside_the_liver_is_not_one() -> None:
    heights = {"liver": 100.0, "femur_left": 101.0, "lung_left": 180.0, "brainstem": 105.0, "colon": 90.0}
    weights = {"liver": 900.0, "femur_left": 12.0, "lung_left": 800.0, "brainstem": 15.0, "colon": 50.0}
    assert implausible(heights, weights) == {"femur_left", "brainstem"}


def test_a_whole_body_in_order_is_kept() -> None:
    heights = {"hip_left": 0.0, "liver": 250.0, "lung_left": 420.0, "brain": 800.0, "humerus_left": 100.0}
    assert implausible(heights, dict.fromkeys(heights, 1.0)) == set()


@pytest.mark.parametrize(
    ("name", "heart_z_mm", "goes"),
    [("small_bowel", 150.0, True), ("colon", 150.0, True), ("small_bowel", 230.0, False), ("colon", None, False),
     ("ribs", 150.0, False)],
)  # fmt: skip
def test_bowel_in_a_shoulder_is_none(name: str, heart_z_mm: float | None, goes: bool) -> None:
    mask = np.zeros((60, 30, 30), dtype=bool)
    mask[2:12, 5:20, 5:20] = True
    mask[44:50, 3:9, 3:9] = True  # 280 mm up
    high = np.zeros_like(mask)
    high[44:50] = mask[44:50] & goes
    assert np.array_equal(out_of_place(name, mask, heart_z_mm, 6.0), high)


def test_bowel_that_reaches_up_from_below_is_bowel() -> None:
    """A hernia: most of it lies where it should."""
    mask = np.zeros((60, 30, 30), dtype=bool)
    mask[2:40, 5:20, 5:20] = True
    assert not out_of_place("colon", mask, 100.0, 6.0).any()
    assert not out_of_place("colon", np.zeros_like(mask), 100.0, 6.0).any()
