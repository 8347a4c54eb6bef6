"""Refine coarse masks: where structures are said to be in, the merged answers of the cubes that cover them out.

Every structure is covered with cubes, each centred on a click deep inside it. They are asked in batches that run across
structures, with the coarse probability as the previous mask where the weights were trained to take it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.prompting.seeds import covering_seeds
from ctsam3d.segmentation.correct import correcting_clicks
from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.patches import Patch, lay_over, patch_at
from ctsam3d.segmentation.settings import Settings
from ctsam3d.segmentation.stitch import Canvas


def covering_patches(name: str, coarse: CoarseStructure, reach_blocks: int) -> list[Patch]:
    """Cubes that cover a coarse mask: each of its blocks lies within so many of a cube's centre, along each axis."""
    return [patch_at(name, seed, COARSE_FACTOR) for seed in covering_seeds(coarse.mask, reach_blocks)]


class Coverer:
    """Covers coarse masks with cubes, and has the network answer them.

    Args:
        decoder: with the weights; as many cubes are asked as it decodes at a time.
        settings: how densely cubes lie.
        coarse_prompt: the weights were trained to take a coarse mask with the first click; others would take it for
            an answer of their own to be corrected.
    """

    def __init__(self, decoder: CubeDecoder, settings: Settings, *, coarse_prompt: bool) -> None:
        self.decoder, self.settings, self.coarse_prompt = decoder, settings, coarse_prompt

    def cover(
        self, hu: NDArray[np.generic], coarse: Mapping[str, CoarseStructure]
    ) -> Iterator[tuple[str, Canvas, int]]:
        """Each structure with its merged cubes and how many they are, as soon as the last of them is decoded.

        Args:
            hu: (z, y, x) on the model grid.
            coarse: by name; those of one study.

        Raises:
            ModelOutputInvalid: an answer was not finite.
        """
        patches = {
            name: covering_patches(name, structure, self.settings.reach_blocks)
            for name, structure in coarse.items()
        }
        jobs = [patch for of_one in patches.values() for patch in of_one]
        owners = SureOwners.of(coarse) if self.settings.correct else None
        canvases: dict[str, Canvas] = {}
        left = deque(jobs)
        while left:
            batch = [left.popleft() for _ in range(min(self.decoder.batch, len(left)))]
            questions = [self._question(coarse[patch.structure], patch) for patch in batch]
            answers = self.decoder.answer(hu, questions)
            if owners is not None:
                answers = self._corrected(hu, owners, questions, answers)
            for patch, answer in zip(batch, answers, strict=True):
                name = patch.structure
                mine = patches[name]
                if patch is mine[0]:
                    probability = coarse[name].probability
                    canvases[name] = Canvas.around(probability, mine, hu.shape, COARSE_FACTOR)
                canvases[name].add(patch, answer)
                if patch is mine[-1]:
                    yield name, canvases.pop(name), len(mine)

    def _corrected(
        self,
        hu: NDArray[np.generic],
        owners: SureOwners,
        questions: Sequence[Question],
        answers: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Answers (n, 64, 64, 64), those that contradict sure coarse masks given anew."""
        clicks = [correcting_clicks(owners, q.patch, a) for q, a in zip(questions, answers, strict=True)]
        again = [i for i, found in enumerate(clicks) if found]
        if again:
            asked = [
                Question(questions[i].patch, (*questions[i].clicks, *clicks[i]), answers[i]) for i in again
            ]
            answers[again] = self.decoder.answer(hu, asked)
        return answers

    def _question(self, coarse: CoarseStructure, patch: Patch) -> Question:
        previous = None
        if self.coarse_prompt:
            previous = lay_over(torch.from_numpy(coarse.probability), patch, COARSE_FACTOR)[0].numpy()
        return Question(patch, (VoxelClick(patch.click_zyx),), previous)
