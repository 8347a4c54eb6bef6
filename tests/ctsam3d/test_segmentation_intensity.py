"""Lungs end at the chest wall and keep their vessels; other structures are left alone."""

import numpy as np

from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.intensity import within_intensity


def _chest() -> np.ndarray:
    hu = np.full((30, 40, 40), 50, dtype=np.int16)
    hu[:, 8:32, 8:32] = -850
    hu[:, 18:21, 18:21] = 30  # a vessel of 4.5 mm
    hu[10:22, 22:32, 22:32] = 40  # a tumour
    return hu


def test_wall_and_tumour_go_and_the_vessel_stays() -> None:
    hu = _chest()
    rounded = np.zeros(hu.shape, dtype=np.float32)
    rounded[:, 6:34, 6:34] = 0.9  # two voxels into the wall
    lung = within_intensity("lung_left", rounded, hu) > 0.5
    expected = np.zeros(hu.shape, dtype=bool)
    expected[:, 8:32, 8:32] = True
    expected[10:22, 22:32, 22:32] = False
    assert lung[:, 19, 19].all()
    # edges of thick parts are rounded by the opening, nothing else differs
    assert (lung != expected).mean() < 0.01
    assert not lung[:, 6:8].any() and not lung[:, :, 32:].any()


def test_a_lung_goes_on_into_its_air_for_a_short_way_and_not_through_a_wall() -> None:
    hu = _chest()
    hu[:, :4] = -1000  # air beyond the wall
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 8:32, 8:16] = 0.9
    lung = within_intensity("lung_right", seen, hu) > 0.5
    assert lung[5, 12, 16:28].all() and not lung[5, 12, 30:].any()
    assert not lung[:, :6].any()


def test_other_structures_are_left_alone() -> None:
    probability = np.full((30, 40, 40), 0.7, dtype=np.float32)
    assert within_intensity("liver", probability, _chest()) is probability


def test_a_lung_has_the_rim_that_it_shares_with_the_wall() -> None:
    hu = _chest()
    hu[:, 8] = hu[:, :, 8] = -350  # more lung than wall
    hu[:, 31] = -200  # more wall than lung
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 10:30, 10:20] = 0.9
    lung = within_intensity("lung_left", seen, hu) > 0.5
    assert lung[5, 8, 12:20].all() and lung[5, 12:20, 8].all()
    assert not lung[:, 31].any() and not lung[:, :8].any()


def test_gas_under_the_diaphragm_is_no_lung_but_air_in_an_empty_lung_is() -> None:
    hu = _chest()
    hu[:, 33:38, 8:32] = -980  # beyond a wall of one voxel
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 8:38, 8:32] = 0.9
    lung = within_intensity("lung_left", seen, hu) > 0.5
    assert lung[:, 10:30, 10:17].all() and not lung[:, 33:].any()
    hu[hu == -850] = -930
    assert (within_intensity("lung_left", seen, hu) > 0.5)[:, 34:37, 10:30].all()


def test_a_click_that_the_network_heard_outranks_the_rule() -> None:
    hu = _chest()
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 8:32, 8:32] = 0.9
    in_tumour, far_off = VoxelClick((16, 27, 27)), VoxelClick((16, 200, 27))
    ruled = within_intensity("lung_left", seen, hu) > 0.5
    clicked = within_intensity("lung_left", seen, hu, [in_tumour, far_off]) > 0.5
    assert not ruled[12:20, 24:30, 24:30].any() and clicked[12:20, 24:30, 24:30].all()
    assert np.array_equal(ruled[:, :20], clicked[:, :20])


def test_a_click_that_the_network_did_not_hear_leaves_the_rule_as_it_is() -> None:
    hu = _chest()
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 8:32, 8:16] = 0.9
    ruled = within_intensity("lung_left", seen, hu) > 0.5
    # the rule went on into air, as this click wants it; the other is of what neither says
    agreeing, unheard = VoxelClick((5, 12, 20)), VoxelClick((5, 2, 20))
    assert ruled[agreeing.zyx] and not seen[agreeing.zyx]
    assert np.array_equal(ruled, within_intensity("lung_left", seen, hu, [agreeing, unheard]) > 0.5)


def test_a_negative_click_in_air_that_the_rule_added_takes_it_back_around_the_click() -> None:
    hu = _chest()
    seen = np.zeros(hu.shape, dtype=np.float32)
    seen[:, 8:32, 8:16] = 0.9
    ruled = within_intensity("lung_left", seen, hu) > 0.5
    click = VoxelClick((15, 12, 18), positive=False)
    clicked = within_intensity("lung_left", seen, hu, [click]) > 0.5
    assert ruled[click.zyx] and not clicked[13:18, 11:14, 16:22].any()
    assert np.array_equal(clicked[:, 8:32, 8:16], ruled[:, 8:32, 8:16])  # where the network itself saw a lung
    assert ruled[15, 28, 17] and clicked[15, 28, 17]  # far from the click
