"""One click grows to the whole of a structure much larger than a cube, and no further."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.grow import Answer, Growing, Growth, Known, fewest_cubes, grow
from ctsam3d.segmentation.patches import Patch

SHAPE = (200, 190, 180)
HU = np.zeros(SHAPE, dtype=np.int16)
Z, Y, X = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def ball() -> NDArray[np.bool_]:
    return (Z - 100) ** 2 + (Y - 95) ** 2 + (X - 90) ** 2 < 80**2


def tube() -> NDArray[np.bool_]:
    """A helix of 5 voxels' radius that runs through the whole height."""
    angle = Z / 200 * 2 * np.pi
    return (Y - 95 - 60 * np.sin(angle)) ** 2 + (X - 90 - 60 * np.cos(angle)) ** 2 < 5**2


def two_lobes() -> NDArray[np.bool_]:
    """Two balls, joined by a bridge 12 voxels thick."""
    one = (Z - 45) ** 2 + (Y - 95) ** 2 + (X - 90) ** 2 < 40**2
    other = (Z - 155) ** 2 + (Y - 95) ** 2 + (X - 90) ** 2 < 40**2
    bridge = ((Y - 95) ** 2 + (X - 90) ** 2 < 6**2) & (Z > 40) & (Z < 160)
    return one | other | bridge


def knowing(truth: NDArray[np.bool_], seen: NDArray[np.int64] | None = None) -> Answer:
    """A network that is always right."""

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        assert clicks[0].zyx == patch.click_zyx and truth[clicks[0].zyx]
        cube = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        of_volume, of_cube = patch.overlap(truth.shape)
        cube[of_cube] = truth[of_volume]
        if seen is not None:
            seen[of_volume] += 1
        return cube

    return answer


def mask_of(grown: Growing) -> NDArray[np.bool_]:
    return grown.canvas.probability() > 0.5


@pytest.mark.parametrize("shape", [ball, tube, two_lobes])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_every_voxel_is_reached_from_one_click_wherever_it_is(
    shape: Callable[[], NDArray[np.bool_]], at: float
) -> None:
    truth = shape()
    inside = np.argwhere(truth)
    click = VoxelClick(tuple(int(i) for i in inside[int(at * (len(inside) - 1))]))  # type: ignore[arg-type]
    seen = np.zeros(SHAPE, dtype=np.int64)
    grown = grow("liver", HU, [click], knowing(truth, seen), None, Growth())

    assert np.array_equal(mask_of(grown), truth)
    assert not grown.bounded and grown.dropped == 0
    assert fewest_cubes(truth) <= grown.cubes <= 12 * fewest_cubes(truth)
    # a stride of 7 blocks in cubes of 16: every voxel lies in a few cubes, never in dozens
    assert seen[truth].min() >= 1 and seen[truth].mean() < 20


def test_growing_is_the_same_every_time() -> None:
    truth = two_lobes()
    click = [VoxelClick((45, 95, 90))]
    runs = [grow("liver", HU, click, knowing(truth), None, Growth()) for _ in range(2)]
    assert runs[0].cubes == runs[1].cubes
    assert np.array_equal(runs[0].canvas.sums, runs[1].canvas.sums)


def test_a_part_that_no_cube_can_bridge_needs_its_own_click() -> None:
    truth = two_lobes() & ((Z < 60) | (Z > 140))
    first, second = VoxelClick((45, 95, 90)), VoxelClick((155, 95, 90))
    alone = mask_of(grow("liver", HU, [first], knowing(truth), None, Growth()))
    both = mask_of(grow("liver", HU, [first, second], knowing(truth), None, Growth()))
    assert alone[truth & (Z < 60)].all() and both[truth].all()
    assert not alone[truth & (Z > 160)].any()


def test_a_leak_is_dropped_where_cubes_disagree() -> None:
    """Past z = 120 the network takes everything for the structure unless it is clicked on within it."""
    truth = ball() & (Z < 100)

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        cube = knowing(truth)(patch, clicks, known)
        z = np.arange(CUBE_VOXELS) + patch.origin_zyx[0]
        if patch.click_zyx[0] > 90:  # near the border the answer is the complement of the truth
            cube = 1 - cube
            cube[z < 0] = 0
        return cube

    grown = grow("liver", HU, [VoxelClick((60, 95, 90))], answer, None, Growth())
    assert grown.dropped > 0
    assert not mask_of(grown)[Z[:, 0, 0] > 130].any()


@pytest.mark.parametrize(("name", "goes_on"), [("liver", False), ("lung_left", True)])
def test_a_cube_that_agrees_but_partly_is_believed_in_a_lung_alone(name: str, goes_on: bool) -> None:
    """All cubes but the first miss bands of what they see, so that they agree with what is known by 0.91 and more."""
    truth = tube()
    click = VoxelClick(tuple(int(i) for i in np.argwhere(truth)[0]))  # type: ignore[arg-type]

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        cube = knowing(truth)(patch, clicks, known)
        if patch.click_zyx != click.zyx:
            cube[np.indices(cube.shape).sum(axis=0) % 20 < 6] = 0
        return cube

    hu = np.where(truth, np.int16(-850), np.int16(40))
    grown = grow(name, hu, [click], answer, None, Growth())
    assert (mask_of(grown)[truth].mean() > 0.5) == goes_on


def test_a_lung_of_which_a_click_finds_a_bubble_grows_to_the_whole_of_it() -> None:
    """The first cube's answer is a tenth of what it shows; the others know better, and would contradict it."""
    truth = ball()
    hu = np.where(truth, np.int16(-850), np.int16(40))
    click = VoxelClick((100, 95, 90))

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        cube = knowing(truth)(patch, clicks, known)
        if patch.click_zyx == click.zyx:
            bubble = np.zeros_like(cube)
            bubble[16:48, 16:48, 16:48] = cube[16:48, 16:48, 16:48]
            return bubble
        return cube

    found = mask_of(grow("lung_left", hu, [click], answer, None, Growth()))
    assert found[truth].mean() > 0.98 and not found[~truth].any()
    assert mask_of(grow("liver", hu, [click], answer, None, Growth()))[truth].mean() < 0.2


def test_clicks_lie_deep_in_what_is_known() -> None:
    truth = ((Y - 95) ** 2 + (X - 90) ** 2 < 6**2) & (Z >= 0)
    depth = ndimage.distance_transform_edt(truth)
    depths = []

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        depths.append(depth[patch.click_zyx])
        return knowing(truth)(patch, clicks, known)

    grow("aorta", HU, [VoxelClick((100, 92, 90))], answer, None, Growth())
    assert len(depths) > 4 and min(depths[1:]) >= 5 > depths[0]


def test_a_cube_that_disagrees_is_told_what_is_known_and_goes_on_with_that() -> None:
    """Alone, all cubes but the first take a whole slab for the structure; told what is known they are right."""
    truth = tube()
    click = VoxelClick((100, 95, 30))

    def answer(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        cube = knowing(truth)(patch, clicks, known)
        if known is None and patch.click_zyx != click.zyx:
            cube[20:44] = 1
        elif known is not None:
            assert ((known > 0.5) <= (cube > 0.5)).all() and known.any()
        return cube

    grown = grow("aorta", HU, [click], answer, None, Growth())
    assert np.array_equal(mask_of(grown), truth) and grown.dropped == 0


def test_what_is_of_another_tissue_is_never_added() -> None:
    """Beyond z = 100 lies air, and the network takes it for more of the structure, be it told or not."""
    hu = (
        np.where(Z < 100, np.int16(60), np.int16(-800)) + (X % 7).astype(np.int16) + np.zeros(SHAPE, np.int16)
    )

    def everything(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        return np.ones((CUBE_VOXELS,) * 3, dtype=np.float32)

    click = [VoxelClick((40, 95, 90))]
    settings = Growth(most_cubes=60)
    found = mask_of(grow("liver", hu, click, everything, None, settings))
    assert found[:90].mean() > 0.3 and not found[132:].any()  # half a cube, which may be of it by half
    assert mask_of(grow("liver", HU, click, everything, None, settings))[132:].any()


@pytest.mark.parametrize("most", [4, 5])
def test_cubes_that_are_asked_twice_count_twice(most: int) -> None:
    asked = []

    def doubtful(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        asked.append(patch)
        cube = knowing(tube())(patch, clicks, known)
        if known is None and len(asked) > 1:
            cube[20:44] = 1
        return cube

    grown = grow("aorta", HU, [VoxelClick((100, 95, 30))], doubtful, None, Growth(most_cubes=most))
    assert grown.bounded and grown.cubes == len(asked) == most


def test_growth_is_bounded() -> None:
    def everything(patch: Patch, clicks: tuple[VoxelClick, ...], known: Known | None) -> NDArray[np.float32]:
        return np.ones((CUBE_VOXELS,) * 3, dtype=np.float32)

    click = [VoxelClick((100, 95, 90))]
    by_cubes = grow("liver", HU, click, everything, None, Growth(most_cubes=5))
    by_volume = grow("liver", HU, click, everything, None, Growth(), most_voxels=10**6)
    assert by_cubes.bounded and by_cubes.cubes == 5
    assert by_volume.bounded and by_volume.canvas.mask_voxels < 2.5e6
    free = grow("liver", HU, click, everything, None, Growth(most_cubes=1000))
    assert not free.bounded and mask_of(free).all()


@pytest.mark.parametrize("slack", [1.05, 1.4])
def test_what_leaks_beyond_what_is_possible_is_cut_back_to_the_lobe_that_was_clicked_on(slack: float) -> None:
    both, lobe = two_lobes(), two_lobes() & (Z < 88)
    most = int(slack * lobe.sum())
    grown = grow("liver", HU, [VoxelClick((45, 95, 90))], knowing(both), None, Growth(), most)
    found = mask_of(grown)
    assert not grown.bounded and found[lobe & (Z < 85)].all()
    assert not found[both & (Z > 115)].any()  # of the bridge some is left
    assert grown.canvas.mask_voxels == found.sum() <= most


def test_growth_goes_on_where_it_stood_when_a_leak_was_cut_off() -> None:
    """The leak is met first, close to the click, and the structure is a long way on the other side."""
    rod = (abs(Y - 95) < 10) & (abs(X - 90) < 10) & (Z > 30)
    leak = ((Z - 45) ** 2 + (Y - 140) ** 2 + (X - 90) ** 2 < 30**2) | (
        (abs(Z - 45) < 3) & (abs(X - 90) < 3) & (Y >= 95) & (Y < 140)
    )
    most = int(1.1 * rod.sum())
    grown = grow("part", HU, [VoxelClick((45, 95, 90))], knowing(rod | leak), None, Growth(), most)
    found = mask_of(grown)
    assert not grown.bounded and found[rod].all()
    assert (found & ~rod).sum() < 0.05 * rod.sum()


def test_cross_patch_prompting_says_where_to_click_and_where_the_structure_ends() -> None:
    truth = tube()
    inside = np.argwhere(truth)
    proposals = []

    def propose(patch: Patch, probability: NDArray[np.float32], neighbour: Patch) -> NDArray[np.float32]:
        """The voxel of the truth nearest to the neighbour's centre, but nothing beyond z = 150."""
        heat = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
        of_volume, of_cube = neighbour.overlap(SHAPE)
        heat[of_cube] = truth[of_volume] & (Z[of_volume[0]] <= 150)
        if heat.any():
            where = np.argwhere(heat)
            nearest = where[np.square(where - CUBE_VOXELS // 2).sum(axis=1).argmin()]
            heat[:] = 0
            heat[tuple(nearest)] = 1
        proposals.append(neighbour.origin_zyx)
        return heat

    click = VoxelClick(tuple(int(i) for i in inside[0]))  # type: ignore[arg-type]
    grown = grow("aorta", HU, [click], knowing(truth), propose, Growth())
    mask = mask_of(grown)
    assert proposals and mask[truth & (Z < 150)].all()
    assert not mask[truth & (Z > 150 + CUBE_VOXELS // 2 + 1)].any()
