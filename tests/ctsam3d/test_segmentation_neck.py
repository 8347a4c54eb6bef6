"""Where a leak begins: at the narrowest place of the widest way between what is right and what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ctsam3d.segmentation.neck import beyond_the_neck

SHAPE = (50, 50, 130)
ORGAN, LEAK = (25, 25, 25), (25, 25, 95)


def _ball(centre: tuple[int, int, int], radius: int) -> NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2  # type: ignore[return-value]


def _tube(radius: int) -> NDArray[np.bool_]:
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return ((z - 25) ** 2 + (y - 25) ** 2 <= radius**2) & (x > 25) & (x < 95)


@pytest.mark.parametrize("radius", [1, 4, 7])
@pytest.mark.parametrize("clicked", [LEAK, (25, 25, 90), (27, 22, 97)])
def test_a_leak_is_cut_off_at_its_neck_wherever_in_it_the_click_lies(
    radius: int, clicked: tuple[int, int, int]
) -> None:
    organ, leak, neck = _ball(ORGAN, 20), _ball(LEAK, 18), _tube(radius)
    cut = beyond_the_neck(organ | leak | neck, [(25, 25, 20), (20, 30, 30)], clicked)
    assert not (cut & organ).any()
    assert (cut & leak).sum() == leak.sum()
    assert not (cut & ~leak & ~neck).any()


def test_nothing_is_cut_where_there_is_no_neck() -> None:
    organ = _ball(ORGAN, 20)
    for at_the_rim in ((25, 25, 44), (25, 36, 36), (42, 25, 25)):
        assert not beyond_the_neck(organ, [ORGAN], at_the_rim).any()
    # nor where the click lies so near the rim that it may be the rim alone that is wrong
    assert not beyond_the_neck(organ | _ball(LEAK, 18) | _tube(4), [ORGAN], (25, 25, 108)).any()
    bulge = organ | _ball((25, 25, 40), 16)  # nearly as wide where they meet
    assert not beyond_the_neck(bulge, [ORGAN], (25, 25, 46)).any()


def test_a_leak_from_a_part_costs_that_part_nothing() -> None:
    """A wide waist of the organ lies on the way too: the narrow one is the neck."""
    lobe, other, leak = _ball(ORGAN, 20), _ball((25, 25, 52), 14), _ball((25, 25, 100), 14)
    mask = lobe | other | leak | _tube(3)
    cut = beyond_the_neck(mask, [ORGAN], (25, 25, 100))
    assert not (cut & (lobe | other)).any() and (cut & leak).sum() == leak.sum()


def test_clicks_that_are_not_joined_by_the_mask_cut_nothing() -> None:
    mask = _ball(ORGAN, 20) | _ball(LEAK, 18)
    assert not beyond_the_neck(mask, [ORGAN], LEAK).any()  # in pieces already
    assert not beyond_the_neck(mask, [ORGAN], (0, 0, 0)).any()  # beside the mask
    assert not beyond_the_neck(mask | _tube(3), [(0, 0, 0)], LEAK).any()  # nothing says what is right
    assert not beyond_the_neck(mask | _tube(3), [], LEAK).any()


def test_a_click_in_what_is_as_thin_as_the_neck_keeps_what_is_around_it() -> None:
    """A vessel that leaked into an organ, with another piece of mask, as deep as the leak, behind that."""
    vessel, leak = _tube(4) & (np.arange(SHAPE[2]) < 60), _ball((25, 25, 78), 20)
    behind = _ball((25, 25, 112), 12) | (_tube(3) & (np.arange(SHAPE[2]) > 80))
    mask = vessel | leak | behind
    click = (25, 25, 32)
    cut = beyond_the_neck(mask, [click], (25, 25, 78))
    assert not cut[23:28, 23:28, 28:40].any() and cut[_ball((25, 25, 78), 18)].all()
