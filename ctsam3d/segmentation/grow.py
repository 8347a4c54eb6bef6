"""Grow one structure from cube to cube: first clicks in, the mask of the whole structure out.

1. Each first click is the centre of a cube; its answer is merged into the structure's canvas, that of a lung with the
   air around it.
2. Where the mask reaches beyond what cubes have seen well (more than `reach_blocks` blocks from every centre), the
   structure may go on. The block around which most of this frontier lies is where to look next; the frontier's voxel
   there that lies deepest in the mask is clicked on, for beside its border a click invites the neighbour in.
3. A proposer may say where to click there instead (cross-patch prompting): a peak in the cube around that block. No
   peak worth the name: the frontier around it is closed, the structure ends there.
4. The new cube's answer is believed as it is if it agrees with what is known of the part that they share, and if what
   it adds is as dense as the structure may be. If it does not, it is asked again and told what is known, and then goes
   on with that more carefully: half of each counts where the two agree well, the second answer alone where they do
   not. What disagrees even so, or is of another tissue, is dropped and its frontier closed.
5. A mask that is larger than its structure can be has leaked: what lies beyond a neck that leaves few enough is taken
   from it, and never gone to again.
6. Until the frontier is empty, the number of cubes reaches its bound, or the mask is far too large and has no neck.

The order of steps depends on the volume and the clicks alone, so the same input gives the same mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.segmentation.agreement import Tissue, agreement
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.frontier import Frontier
from ctsam3d.segmentation.intensity import AERATED, within_intensity
from ctsam3d.segmentation.neck import beyond_what_is_possible
from ctsam3d.segmentation.patches import Patch, patch_around, peak, within
from ctsam3d.segmentation.stitch import Canvas

_SURE_WEIGHT = 0.02  # of a cube's vote: its outermost voxels have less
_AIR_ROUNDS = 4  # of 12 voxels each: through half a cube
_SUSPICIOUS_AGAIN = 1.1  # times the volume at which no neck was found, at which one is looked for again
_GIVEN_UP = 1.5  # times the largest volume that is thought possible, beyond which growing ends


@dataclass(frozen=True, slots=True)
class Growth:
    """How far and how boldly a structure may grow.

    Attributes:
        reach_blocks: a block of 4^3 voxels is seen well by a cube whose centre is within so many blocks along each
            axis; the cube itself reaches 8.
        most_cubes: decoded at most; one that is asked twice counts twice.
        sure_agreement: of a new cube and what is known of the part that they share, from which on it is believed.
        least_agreement: below which it counts only as far as it was told what is known.
        agreement_in_air: both of them of a structure full of air, whose border is so plain that it hardly leaks.
        least_peak: of a proposed heat map, below which the structure is taken to end.
        cross_patch: ask the cross-patch predictor where to click next, with weights in which it was trained; else the
            deepest voxel of the frontier is clicked on.
    """

    reach_blocks: int = 6
    most_cubes: int = 200
    sure_agreement: float = 0.96
    least_agreement: float = 0.92
    agreement_in_air: float = 0.86
    least_peak: float = 0.15
    cross_patch: bool = True


Known = NDArray[np.float32]
Answer = Callable[[Patch, tuple[VoxelClick, ...], Known | None], NDArray[np.float32]]
"""(cube, clicks, what is known of the structure there, if it is to be told) -> probabilities (64, 64, 64)."""

Propose = Callable[[Patch, NDArray[np.float32], Patch], NDArray[np.float32]]
"""(segmented cube, its probabilities, neighbouring cube) -> heat map (64, 64, 64) in the neighbour's frame."""


def grow(
    name: str,
    hu: NDArray[Any],
    clicks: Sequence[VoxelClick],
    answer: Answer,
    propose: Propose | None,
    settings: Growth,
    most_voxels: int | None = None,
) -> Growing:
    """The whole structure that the clicks point at.

    Args:
        name: of the structure.
        hu: the image on the model grid, (z, y, x).
        clicks: at least one positive; each positive one starts a cube, all count in every cube they lie in.
        answer: decodes one cube.
        propose: cross-patch prompting, or None to click on the frontier itself.
        settings: bounds and gates.
        most_voxels: that the structure can have, as far as is known: with more, the mask has leaked.
    """
    growing = Growing(name, hu, answer, propose, settings, most_voxels)
    growing.start(clicks)
    return growing


class Growing:
    """A structure that grows, and can be made to go on: what is known of it, and where it may go on.

    Attributes:
        canvas: its probability by now, over the whole grid.
        cubes: decoded by now.
        dropped: of those, how many disagreed with what was known.
        bounded: it met a bound, so that there may be more of it.
    """

    def __init__(
        self,
        name: str,
        hu: NDArray[Any],
        answer: Answer,
        propose: Propose | None,
        settings: Growth,
        most_voxels: int | None = None,
    ) -> None:
        """Nothing is known yet; arguments as of `grow`."""
        self.name, self.answer, self.propose, self.settings = name, answer, propose, settings
        self.hu, self.shape = hu, (hu.shape[0], hu.shape[1], hu.shape[2])
        self.most = math.inf if most_voxels is None else most_voxels
        self.clicks: tuple[VoxelClick, ...] = ()
        self.canvas, self.tissue = Canvas(self.shape), Tissue()
        self.frontier = Frontier(self.shape, settings.reach_blocks)
        # voxels that were cut back: what cubes say of them is wrong
        self.cut: NDArray[np.bool_] | None = None
        self.merged: dict[Patch, NDArray[np.bool_]] = {}  # with each cube's own mask
        self.cubes = self.dropped = self.most_cubes = 0
        self.bounded = False
        self.sure, self.least = settings.sure_agreement, settings.least_agreement
        if name in AERATED:
            self.sure = self.least = settings.agreement_in_air

    def start(self, clicks: Sequence[VoxelClick]) -> None:
        """Grow from where clicks are that no cube has seen yet.

        Args:
            clicks: all that have been made by now; they count in every cube they lie in.
        """
        self._look_again(clicks)
        self.most_cubes = self.cubes + self.settings.most_cubes
        for click in clicks:
            if click.positive and not self.is_covered(click.zyx):
                self.take(click.zyx, trusted=True)
        self._grow()

    def go_on(self, clicks: Sequence[VoxelClick], patch: Patch) -> None:
        """Grow on from a cube that somebody has corrected: what was closed around it is open again.

        Args:
            clicks: all that have been made by now.
            patch: the cube, as it is on the canvas.
        """
        self._look_again(clicks)
        self.merged[patch] = mask = self.canvas.over(patch) > 0.5
        self._learn_tissue(patch, mask)
        self.frontier.cover(patch.click_zyx)
        self.frontier.reopen(patch.click_zyx)
        self.most_cubes = self.cubes + self.settings.most_cubes
        self._grow()

    def _look_again(self, clicks: Sequence[VoxelClick]) -> None:
        """Clicks and canvas may have changed since."""
        self.clicks = tuple(clicks)
        if self.merged:
            box = self.canvas.touched().box
            self.canvas.mask_voxels = int(np.count_nonzero(self.canvas.mask(box)))
            self.frontier.update(self.canvas, box)

    def is_covered(self, zyx: tuple[int, int, int]) -> bool:
        """Whether a cube has seen a voxel well."""
        return self.frontier.is_covered(zyx)

    def _grow(self) -> None:
        suspicious = self.most
        while (block := self.frontier.next_block()) is not None:
            voxels = self.canvas.mask_voxels
            if voxels > suspicious:
                if self.cut_back(int(self.most)):
                    continue
                suspicious = _SUSPICIOUS_AGAIN * voxels
            if self.cubes >= self.most_cubes or voxels > _GIVEN_UP * self.most:
                self.bounded = True
                break
            deepest = self.frontier.deepest(block, self.canvas)
            centre = deepest if self.propose is None else self.proposed(deepest, self.propose)
            # nothing to click on there, or it contradicts what is known
            if centre is None or not self.take(centre, trusted=False):
                self.frontier.close(block)
        if self.canvas.mask_voxels > suspicious:
            self.cut_back(int(self.most))

    def cut_back(self, most_voxels: int) -> bool:
        """Take from the mask what lies beyond the neck that leaves so few voxels; False where there is none."""
        box = self.canvas.touched().box
        inside = [
            within(box, click.zyx) for click in self.clicks if click.positive and self.is_covered(click.zyx)
        ]
        leak = beyond_what_is_possible(self.canvas.mask(box), inside, most_voxels)
        if not leak.any():
            return False
        self.canvas.clear(box, leak)
        if self.cut is None:
            self.cut = np.zeros(self.shape, dtype=bool)
        self.cut[box] |= leak
        self.frontier.update(self.canvas, box)
        self.frontier.close_voxels(np.argwhere(leak) + np.array([s.start for s in box]))
        return True

    def proposed(self, centre: tuple[int, int, int], propose: Propose) -> tuple[int, int, int] | None:
        """Where cross-patch prompting clicks in the cube around a voxel, seen from the cube nearest to it.

        Only what no cube has seen well counts: what is known already draws the peak to itself. None if nowhere.
        """
        neighbour = patch_around(self.name, centre)
        gaps = [
            max(abs(a - b) for a, b in zip(p.origin_zyx, neighbour.origin_zyx, strict=True))
            for p in self.merged
        ]
        patch, mask = list(self.merged.items())[int(np.argmin(gaps))]
        heat = propose(patch, mask.astype(np.float32), neighbour)
        of_volume, of_cube = neighbour.overlap(self.shape)
        inside = np.where(self.frontier.unseen(of_volume), heat[of_cube], -np.inf)
        if inside.max() < self.settings.least_peak:
            return None
        return peak(of_volume, inside)

    def take(self, centre: tuple[int, int, int], *, trusted: bool) -> bool:
        """Decode the cube around a click and merge it; False if it contradicts what is known."""
        patch = patch_around(self.name, centre)
        clicks = (VoxelClick(centre), *(c for c in self.clicks if c.zyx != centre))
        probability = self.answer(patch, clicks, None)
        self.cubes += 1
        if trusted and self.name in AERATED:
            probability = self._air_around(patch, probability)
        believed = probability if trusted else self._reconciled(patch, clicks, probability)
        if believed is None:
            self.dropped += 1
            return False
        touched = self.canvas.add(patch, believed)
        self.merged[patch] = mask = believed > 0.5
        if trusted:
            self._learn_tissue(patch, mask)
        self.frontier.update(self.canvas, touched)
        self.frontier.cover(centre)
        return True

    def _air_around(self, patch: Patch, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a cube shows of a lung, and the air around that: in emphysema a click finds a bubble and no more."""
        of_volume, of_cube = patch.overlap(self.shape)
        lung = np.zeros_like(probability)
        lung[of_cube] = probability[of_cube]
        for _ in range(_AIR_ROUNDS):
            lung[of_cube] = within_intensity(self.name, lung[of_cube], self.hu[of_volume])
        return lung

    def _reconciled(
        self, patch: Patch, clicks: tuple[VoxelClick, ...], alone: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """A cube's answer, the more told of what is known the less it agrees with that; None if it contradicts it."""
        agrees, may_be = self._agreement(patch, alone), self._may_be(patch, alone)
        if may_be and agrees >= self.sure:
            return alone
        if self.cubes >= self.most_cubes:
            self.bounded = True
            return None
        told = self.answer(patch, clicks, self.canvas.over(patch))
        self.cubes += 1
        merged = np.float32(0.5) * (alone + told) if may_be and agrees >= self.least else told
        return (
            merged if self._agreement(patch, merged) >= self.least and self._may_be(patch, merged) else None
        )

    def _agreement(self, patch: Patch, probability: NDArray[np.float32]) -> float:
        """Of a cube and the canvas where both are to be believed; 1 where they share nothing."""
        of_volume, of_cube = patch.overlap(self.shape)
        known = self.canvas.weights[of_volume] > _SURE_WEIGHT
        if self.cut is not None:
            known &= ~self.cut[of_volume]
        known &= self.canvas.own_weight[of_cube] > _SURE_WEIGHT
        if not known.any():
            return 1.0
        return agreement(self.canvas.mask(of_volume), probability[of_cube] > 0.5, known)

    def _learn_tissue(self, patch: Patch, mask: NDArray[np.bool_]) -> None:
        """Take in what a cube shows in which somebody has clicked: what others add may be a leak."""
        of_volume, of_cube = patch.overlap(self.shape)
        self.tissue.learn(self.hu[of_volume][mask[of_cube]])

    def _may_be(self, patch: Patch, probability: NDArray[np.float32]) -> bool:
        """Whether what a cube adds to what was looked at is of the structure's tissue."""
        of_volume, of_cube = patch.overlap(self.shape)
        added = (probability[of_cube] > 0.5) & (self.canvas.weights[of_volume] == 0)
        return self.tissue.may_be(self.hu[of_volume][added])


def fewest_cubes(mask: NDArray[np.bool_]) -> int:
    """A lower bound on the cubes that cover a mask (z, y, x): what its voxels need, or its extent along an axis."""
    if not mask.any():
        return 0
    extents = [
        np.ptp(np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))) + 1
        for axis in range(3)
    ]
    return max(-(-int(mask.sum()) // CUBE_VOXELS**3), *(-(-int(n) // CUBE_VOXELS) for n in extents))
