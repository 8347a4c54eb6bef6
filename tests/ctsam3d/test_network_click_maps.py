"""Click maps: where a click writes, what replaces what, and what is refused."""

import math

import pytest
import torch

from ctsam3d.network import click_maps


def draw(*clicks, side=64):
    """Each click (x, y, z, label) of one sample."""
    table = torch.tensor([clicks], dtype=torch.float32)
    return click_maps.draw(table[..., :3], table[..., 3].long(), side)[0]


def test_a_click_is_a_gaussian_of_sigma_two_at_its_truncated_place():
    positive, negative = draw((10.9, 20.2, 30.0, 1))
    assert positive[30, 20, 10] == 1
    assert positive.sum().item() == pytest.approx((2 * math.sqrt(2 * math.pi)) ** 3, rel=1e-3)
    assert positive[30, 20, 12].item() == pytest.approx(math.exp(-0.5))
    assert positive[33, 20, 10].item() == pytest.approx(math.exp(-9 / 8))
    assert positive[30, 20, 19] == 0
    assert not negative.any()


def test_a_negative_click_writes_the_second_map_and_padding_writes_none():
    positive, negative = draw((5, 6, 7, 0), (40, 40, 40, -1))
    assert not positive.any()
    assert negative[7, 6, 5] == 1
    assert negative[40, 40, 40] == 0


def test_the_later_of_two_near_clicks_replaces_the_earlier_ones_box():
    alone = draw((34, 30, 30, 1))[0]
    both = draw((30, 30, 30, 1), (34, 30, 30, 1))[0]
    assert torch.equal(both[22:39, 22:39, 26:43], alone[22:39, 22:39, 26:43])
    assert both[30, 30, 25].item() == pytest.approx(math.exp(-25 / 8))
    assert both[30, 30, 30].item() == pytest.approx(math.exp(-2))


@pytest.mark.parametrize(
    ("outside", "inside"),
    [((-7, 20, 30), (0, 20, 30)), ((64, 20, 1e9), (63, 20, 63)), ((3, -0.5, 63.9), (3, 0, 63))],
)
@pytest.mark.parametrize("label", [1, 0])
def test_a_click_outside_the_cube_counts_as_the_nearest_voxel_inside(outside, inside, label):
    assert torch.equal(draw((*outside, label)), draw((*inside, label)))
    assert draw((*outside, label)).max() == 1


def test_a_samples_maps_do_not_depend_on_its_batch_mates():
    clicks = torch.tensor([[[3.0, 4, 5], [60, 2, 2]], [[-90.0, 4, 5], [9, 9, 9]], [[0.0, 0, 0], [0, 0, 0]]])
    labels = torch.tensor([[1, 0], [1, 1], [-1, -1]])
    together = click_maps.draw(clicks, labels, 64)
    for n in range(3):
        assert torch.equal(together[n], click_maps.draw(clicks[n : n + 1], labels[n : n + 1], 64)[0])


def test_no_clicks_at_all_are_empty_maps():
    maps = click_maps.draw(torch.zeros(2, 0, 3), torch.zeros(2, 0), 64)
    assert maps.shape == (2, 2, 64, 64, 64)
    assert not maps.any()


@pytest.mark.parametrize(
    ("clicks", "labels", "said"),
    [
        (torch.zeros(1, 2, 3), torch.zeros(1, 3), r"found \(1, 2, 3\) and \(1, 3\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "expected clicks"),
        (torch.full((1, 1, 3), math.nan), torch.ones(1, 1), "finite"),
        (torch.full((1, 1, 3), math.inf), torch.ones(1, 1), "finite"),
        (torch.zeros(1, 1, 3), torch.full((1, 1), 2), "label"),
    ],
)
def test_clicks_that_make_no_sense_are_refused(clicks, labels, said):
    with pytest.raises(ValueError, match=said):
        click_maps.draw(clicks, labels, 64)
