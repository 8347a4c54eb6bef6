"""Ask the network about cubes of a volume: patches with their clicks in, probabilities out, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctsam3d.network import click_maps, cross_patch, windows
from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.network.model import CtSam3d, Embeddings
from ctsam3d.segmentation.batch_size import Memory, fitting_batch
from ctsam3d.segmentation.embedding_cache import EmbeddingCache
from ctsam3d.segmentation.patches import Box, Patch, cut, within

Decode = Callable[[Embeddings, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

_CUBES_KEPT = 32  # 0.6 MB each with the nano network, 2.4 MB with the published ones


class ModelOutputInvalid(Exception):
    """The network answered with numbers that are none (NaN or infinite)."""


@dataclass(frozen=True, slots=True)
class VoxelClick:
    """A click on the model grid.

    Attributes:
        zyx: model voxel, may lie outside a cube.
        positive: in the structure or beside it.
    """

    zyx: tuple[int, int, int]
    positive: bool = True

    def within(self, box: Box) -> VoxelClick:
        """The same on a part of the grid."""
        return VoxelClick(within(box, self.zyx), self.positive)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of one cube.

    Attributes:
        patch: the cube.
        clicks: on the model grid; those outside the cube are left out.
        previous: float32 (64, 64, 64), an earlier answer or a coarse probability, or None.
    """

    patch: Patch
    clicks: tuple[VoxelClick, ...]
    previous: NDArray[np.float32] | None = None

    @property
    def is_centred(self) -> bool:
        """One positive click at the cube's centre and nothing else."""
        clicks = self.inside()
        centre = (float(CUBE_VOXELS // 2),) * 3
        return self.previous is None and clicks == [(centre, click_maps.POSITIVE)]

    def inside(self) -> list[tuple[tuple[float, float, float], int]]:
        """(x, y, z) voxels of the cube and label of each click that lies in it."""
        found = []
        for click in self.clicks:
            if self.patch.holds(click.zyx):
                z, y, x = (c - o for c, o in zip(click.zyx, self.patch.origin_zyx, strict=True))
                kind = click_maps.POSITIVE if click.positive else click_maps.NEGATIVE
                found.append(((float(x), float(y), float(z)), kind))
        return found


class CubeDecoder:
    """The cube network over one volume at a time; of the last volume it keeps some cubes' embeddings.

    Args:
        model: on its device.
        device: of the model.
        batch: cubes decoded at a time, until `fit` finds how many.
        decode: as `CtSam3d.decode`, which it replaces.
        aligned: the cross-patch predictor was trained with cubes seen in the neighbour's frame.

    Attributes:
        batch: halved, down to one, each time the device has no room for so many.
        seconds: spent in the network by now.
    """

    def __init__(
        self,
        model: CtSam3d,
        device: torch.device,
        batch: int,
        decode: Decode | None = None,
        *,
        aligned: bool = False,
    ) -> None:
        self.model, self.device, self.batch, self.aligned = model, device, batch, aligned
        self._decode = decode or model.decode
        self._embedded = EmbeddingCache(_CUBES_KEPT)
        self.seconds = 0.0

    def fit(self, memory: Memory) -> None:
        """Decode as many cubes at a time as the device has room for, from now on; one where it has none just now."""
        hu = np.zeros((CUBE_VOXELS,) * 3, dtype=np.int16)
        # of prompts the whole cube's are the dearest
        unsure = np.full(hu.shape, 0.5, dtype=np.float32)

        def decode(cubes: int) -> None:
            self.batch = cubes
            patches = [Patch("", (n, 0, 0)) for n in range(cubes)]
            self.answer(
                hu.copy(), [Question(patch, (VoxelClick(patch.click_zyx),), unsure) for patch in patches]
            )

        try:
            self.batch = fitting_batch(memory, decode)
        except torch.OutOfMemoryError:
            self.batch = 1

    @torch.inference_mode()
    def answer(self, hu: NDArray[np.generic], questions: Sequence[Question]) -> NDArray[np.float32]:
        """Probabilities (n, 64, 64, 64), one cube for each question.

        Args:
            hu: (z, y, x) on the model grid.
            questions: each with at least one click in its cube or a previous answer.

        Raises:
            ModelOutputInvalid: an answer was not finite.
            torch.OutOfMemoryError: the device has no room for one cube.
        """
        started = time.monotonic()
        answers = np.empty((len(questions), *(CUBE_VOXELS,) * 3), dtype=np.float32)
        # what prompts contribute is known beforehand for a click at the centre alone: those are asked apart
        plain = [question.is_centred for question in questions]
        for kind in (True, False):
            wanted = [i for i, is_plain in enumerate(plain) if is_plain is kind]
            while wanted:
                part = wanted[: self.batch]
                if self._fitted(answers, part, hu, questions):
                    wanted = wanted[len(part) :]
        self.seconds += time.monotonic() - started
        return answers

    def _fitted(
        self,
        answers: NDArray[np.float32],
        part: Sequence[int],
        hu: NDArray[np.generic],
        questions: Sequence[Question],
    ) -> bool:
        """Whether some questions could be answered at once; if not, fewer are tried from now on."""
        try:
            answers[part] = self._answer(hu, [questions[i] for i in part])
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        else:
            return True
        # here, where no traceback holds on to what was allocated
        self.batch = max(1, len(part) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _answer(self, hu: NDArray[np.generic], questions: Sequence[Question]) -> NDArray[np.float32]:
        inside = [question.inside() for question in questions]
        most = max(1, *(len(clicks) for clicks in inside))
        clicks = torch.zeros((len(questions), most, 3))
        labels = torch.full((len(questions), most), click_maps.PADDING)
        for row, found in enumerate(inside):
            for column, (xyz, kind) in enumerate(found):
                clicks[row, column], labels[row, column] = torch.tensor(xyz), kind
        previous = None
        if any(question.previous is not None for question in questions):
            none = np.zeros((CUBE_VOXELS,) * 3, dtype=np.float32)
            laid = [none if q.previous is None else q.previous for q in questions]
            previous = torch.from_numpy(np.stack(laid))[:, None].to(self.device)
        embeddings = self._embed(hu, [question.patch for question in questions])
        answer = self._decode(embeddings, clicks, labels, previous)
        if not torch.isfinite(answer).all():
            raise ModelOutputInvalid("the network's probabilities are not finite")
        return answer[:, 0].cpu().numpy()

    def _embed(self, hu: NDArray[np.generic], patches: Sequence[Patch]) -> Embeddings:
        """Of each patch; those that are not kept from before are computed in one batch."""
        return self._embedded.of(hu, patches, lambda missing: self.model.embed(self._cubes(hu, missing)))

    @torch.inference_mode()
    def heat(
        self, hu: NDArray[np.generic], patch: Patch, mask: NDArray[np.float32], neighbours: Sequence[Patch]
    ) -> NDArray[np.float32]:
        """Where cross-patch prompting would click in each neighbour of a segmented cube: (n, 64, 64, 64).

        Args:
            hu: (z, y, x) on the model grid.
            patch: the segmented cube.
            mask: float32 (64, 64, 64), its probabilities.
            neighbours: cubes that overlap it or touch it.
        """
        cubes = self._cubes(hu, [patch, *neighbours])
        own = cubes[:1].expand(len(neighbours), -1, -1, -1, -1)
        masks = torch.from_numpy(mask).to(self.device)[None, None].expand(len(neighbours), -1, -1, -1, -1)
        if self.aligned:
            moves = [neighbour.offset_from(patch) for neighbour in neighbours]
            own, masks = (
                torch.stack([cross_patch.aligned(one, move) for one, move in zip(seen, moves, strict=True)])
                for seen in (own, masks)
            )
        return self.model.propose_click(own, masks, cubes[1:])[:, 0].cpu().numpy()

    def _cubes(self, hu: NDArray[np.generic], patches: Sequence[Patch]) -> torch.Tensor:
        """(n, C, 64, 64, 64) windows of HU."""
        cut_out = torch.from_numpy(np.stack([cut(hu, patch) for patch in patches])).to(self.device)
        return windows.apply(cut_out, self.model.config.windows_hu).transpose(0, 1)
