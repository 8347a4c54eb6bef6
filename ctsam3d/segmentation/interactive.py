"""Segment one structure by clicking: clicks on a volume in, one after another or together, the structure out.

1. The first click is the centre of a cube from which the structure grows, cube by cube (`grow`).
2. A further click is put to every cube that holds it, with the clicks made there before and the cube's own last answer,
   which it corrects. A positive click where no cube sees well is the centre of a cube of its own.
3. The structure is put together anew from its cubes, in their order. A cube whose centre is no longer in the mask has
   lost what it grew from and goes: so one negative click undoes a whole leak. From there it grows on.

Answers are kept, so a click costs the cubes that it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.grow import Grown, Growth, Known, grow
from ctsam3d.segmentation.patches import Patch


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """The clicks that a cube was asked with, and its answer: half of float32 is precise enough and half as large."""

    clicks: tuple[VoxelClick, ...]
    probability: NDArray[np.float16]


class ClickedStructure:
    """One structure of one volume that is being clicked on.

    Attributes:
        clicks: all by now, in order.
        decoded: how many cubes were asked of the network by now.
    """

    def __init__(
        self,
        name: str,
        hu: NDArray[np.generic],
        decoder: CubeDecoder,
        growth: Growth,
        *,
        cross_patch: bool,
        carry: bool,
        most_voxels: int | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            name: of the structure.
            hu: (z, y, x) on the model grid.
            decoder: with the weights.
            growth: bounds and gates.
            cross_patch: the weights hold a cross-patch predictor that was trained.
            carry: the weights were trained to go on from what cubes beside one have found.
            most_voxels: of the mask, beyond which it has leaked for certain.
        """
        self.name, self.hu, self.decoder, self.growth = name, hu, decoder, growth
        self.cross_patch = cross_patch and growth.cross_patch
        self.carry, self.most_voxels = carry, most_voxels
        self.clicks: tuple[VoxelClick, ...] = ()
        self.decoded = 0
        self._answered: dict[Patch, _Answered] = {}
        self._centres: tuple[Patch, ...] = ()

    def click(self, clicks: Sequence[VoxelClick]) -> Grown:
        """The structure by all clicks up to these, of which the first of all must be positive.

        Raises:
            ModelOutputInvalid: an answer was not finite.
        """
        self.clicks = (*self.clicks, *clicks)
        propose = self._propose if self.cross_patch else None
        grown = grow(
            self.name, self.hu.shape, self.clicks, self._answer, propose, self.growth, self.most_voxels,
            self._centres,
        )  # fmt: skip
        self._centres = grown.centres
        return grown

    def _answer(self, patch: Patch, clicks: tuple[VoxelClick, ...], known: Known) -> NDArray[np.float32]:
        inside = tuple(click for click in clicks if patch.holds(click.zyx))
        last = self._answered.get(patch)
        if last is None or last.clicks != inside:
            previous = None if last is None else last.probability.astype(np.float32)
            if previous is None and self.carry and (found_beside := known()).any():
                previous = found_beside
            elif previous is None and len(inside) > 1:
                # as in training: one click first, then corrections of its answer
                previous = self._ask(Question(patch, inside[:1]))
            found = self._ask(Question(patch, inside, previous))
            last = self._answered[patch] = _Answered(inside, found.astype(np.float16))
        return last.probability.astype(np.float32)

    def _ask(self, question: Question) -> NDArray[np.float32]:
        self.decoded += 1
        answer: NDArray[np.float32] = self.decoder.answer(self.hu, [question])[0]
        return answer

    def _propose(self, patch: Patch, mask: NDArray[np.float32], neighbour: Patch) -> NDArray[np.float32]:
        heat: NDArray[np.float32] = self.decoder.heat(self.hu, patch, mask, [neighbour])[0]
        return heat
