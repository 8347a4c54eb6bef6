"""Segment one structure by clicking: clicks on a volume in, one after another or together, the structure out.

1. A structure begins as the mask that there is of it, or grows from its first click, cube by cube (`grow`).
2. A further click corrects: the network is asked once, about one cube that holds the click, with all clicks made there
   and the mask as it stands. Its answer takes the mask's place there, less and less towards the cube's faces. The cube
   is that of the nearest positive click that holds the new one well, as in training; else it is centred on the new one.
   In a mask that was there a negative click with no positive one in its cube gets one for company, where the mask near
   it is deepest. In training it hardly ever is alone, and alone it takes from the mask what is right as well.
3. A positive click with nothing of the structure around it begins another part, which grows likewise. One where growth
   has not come, or has been given up, makes it go on from there.
4. A structure that grew from clicks hangs together with them: a negative click in a leak undoes all of it, up to the
   leak's neck (`neck`), and what a correction cuts off goes. Of a mask that was there it is not known which part is
   meant: there each click counts in its cube alone.
5. Where it is known whose the surroundings are (`owners`), nothing grows into what surely is another structure, unless
   somebody clicks there.

A click so costs one cube, whose embedding may be there already, and changes nothing farther away than that but a leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.grow import Growing, Growth
from ctsam3d.segmentation.neck import beyond_the_neck
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import Box, Patch, patch_around, peak, squared_distance, within
from ctsam3d.segmentation.stitch import Canvas

_HELD_WELL = 24  # voxels from a cube's centre along any axis
_APART = 10  # voxels between a negative click and the positive one that keeps it company, at least
_THICK = 2.0  # voxels deep, for a mask to be clicked on


class ClickedStructure:
    """One structure of one volume that is being clicked on.

    Attributes:
        canvas: its probability by now, over the whole grid.
        clicks: all by now, in order.
        decoded: how many cubes were asked of the network by now.
        bounded: growing met a bound, so that there may be more of it.
    """

    def __init__(
        self,
        name: str,
        hu: NDArray[np.generic],
        decoder: CubeDecoder,
        growth: Growth,
        *,
        cross_patch: bool,
        most_voxels: int | None = None,
        begun: tuple[Box, NDArray[np.float32]] | None = None,
        others: SureOwners | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            name: of the structure.
            hu: (z, y, x) on the model grid.
            decoder: with the weights.
            growth: bounds and gates.
            cross_patch: the weights hold a cross-patch predictor that was trained.
            most_voxels: that the structure can have, as far as is known.
            begun: a box of the grid and the probability there, to be corrected; else it grows from clicks alone.
            others: whose the surroundings are, this structure's own aside.
        """
        self.name, self.hu, self.decoder, self.growth = name, hu, decoder, growth
        self.others = others
        self.cross_patch, self.most_voxels = cross_patch and growth.cross_patch, most_voxels
        self.grown = begun is None
        self.growing = self._nothing_grown()
        self.canvas = self.growing.canvas
        if begun is not None:
            self.canvas = Canvas(hu.shape)
            self.canvas.lay(*begun)
        self.clicks: tuple[VoxelClick, ...] = ()
        self.decoded = 0
        self.bounded = False

    def click(self, clicks: Sequence[VoxelClick]) -> Canvas:
        """The structure by all clicks up to these.

        Of clicks that are made together the positive ones count first: there must be a mask before it can be wrong.

        Raises:
            ModelOutputInvalid: an answer was not finite.
        """
        for click in sorted(clicks, key=lambda c: not c.positive):
            if click in self.clicks:  # says nothing new
                continue
            self.clicks = (*self.clicks, click)
            around = patch_around(self.name, click.zyx)
            if self.canvas.is_empty(around):
                if click.positive:
                    self._grow(click)
            else:
                self._correct(click)
        return self.canvas

    def _nothing_grown(self) -> Growing:
        propose = self._propose if self.cross_patch else None
        return Growing(self.name, self.hu, self._answer, propose, self.growth, self.most_voxels)

    def _grow(self, click: VoxelClick) -> None:
        if self.grown:
            self.growing.start(self.clicks)
        else:
            self.growing = self._nothing_grown()
            self.growing.start([click])
            part = self.growing.canvas.touched()
            self.canvas.join(part.box, part.probability())
        self.bounded |= self.growing.bounded

    def _correct(self, click: VoxelClick) -> None:
        if not click.positive and self.grown:
            self._cut_off_what_it_hangs_on(click)
        clicks, patch = self.clicks, self._cube_for(click)
        alone = not self.grown and not any(c.positive and patch.holds(c.zyx) for c in clicks)
        if alone and (beside := self._company(click)):
            clicks, patch = (*clicks, beside), patch_around(self.name, beside.zyx)
        # the cube's own click first, then in the order in which they were made
        inside = sorted((c for c in clicks if patch.holds(c.zyx)), key=lambda c: c.zyx != patch.click_zyx)
        answer = self._ask(Question(patch, tuple(inside), self.canvas.over(patch)))
        self.canvas.overrule(patch, answer)
        if not self.grown:
            return
        if not click.positive:
            self._drop_what_is_cut_off()
        elif not self.growing.is_covered(click.zyx):
            self.growing.go_on(self.clicks, patch)
            self.bounded |= self.growing.bounded

    def _cube_for(self, click: VoxelClick) -> Patch:
        """The cube of the nearest positive click that holds this one well, or a cube of its own."""
        centres = [c.zyx for c in self.clicks if c.positive and c != click]
        distances = [max(abs(a - b) for a, b in zip(centre, click.zyx, strict=True)) for centre in centres]
        nearest = int(np.argmin(distances)) if distances else -1
        held = nearest >= 0 and distances[nearest] <= _HELD_WELL
        return patch_around(self.name, centres[nearest] if held else click.zyx)

    def _company(self, click: VoxelClick) -> VoxelClick | None:
        """A positive click whose cube holds another one well, on the mask's deepest voxel; None of a thin mask."""
        z, y, x = (
            slice(max(0, i - _HELD_WELL), min(n, i + _HELD_WELL + 1))
            for i, n in zip(click.zyx, self.canvas.shape, strict=True)
        )
        depth = edt.edt(self.canvas.mask((z, y, x)))
        depth[squared_distance((z, y, x), click.zyx) <= _APART**2] = 0
        if depth.max() < _THICK:
            return None
        return VoxelClick(peak((z, y, x), depth))

    def _cut_off_what_it_hangs_on(self, click: VoxelClick) -> None:
        """Clear the leak that a negative click lies in, up to its neck."""
        box = self.canvas.touched().box
        if not all(part.start <= i < part.stop for i, part in zip(click.zyx, box, strict=True)):
            return
        right = [within(box, c.zyx) for c in self.clicks if c.positive]
        leak = beyond_the_neck(self.canvas.mask(box), right, within(box, click.zyx))
        self.canvas.clear(box, leak)

    def _drop_what_is_cut_off(self) -> None:
        """Keep the pieces of the mask that a positive click lies in; all of them where none does."""
        box = self.canvas.touched().box
        pieces = cc3d.connected_components(self.canvas.mask(box).view(np.uint8), connectivity=26)
        own = {int(pieces[within(box, c.zyx)]) for c in self.clicks if c.positive} - {0}
        if own:
            self.canvas.clear(box, ~np.isin(pieces, [0, *own]))

    def _answer(
        self, patch: Patch, clicks: tuple[VoxelClick, ...], known: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Of a growing structure's cube, told what is known of it, or nothing; without what is surely another's.

        As in training, one click comes first and others as corrections of its answer.
        """
        first, *more = (click for click in clicks if patch.holds(click.zyx))
        previous = self._ask(Question(patch, (first,))) if more and known is None else known
        answer = self._ask(Question(patch, (first, *more), previous))
        if self.others is None:
            return answer
        theirs = self.others.elsewhere(patch, (c.zyx for c in self.clicks if c.positive))
        return np.where(theirs, np.float32(0), answer)

    def _ask(self, question: Question) -> NDArray[np.float32]:
        self.decoded += 1
        answer: NDArray[np.float32] = self.decoder.answer(self.hu, [question])[0]
        return answer

    def _propose(self, patch: Patch, mask: NDArray[np.float32], neighbour: Patch) -> NDArray[np.float32]:
        heat: NDArray[np.float32] = self.decoder.heat(self.hu, patch, mask, [neighbour])[0]
        return heat
