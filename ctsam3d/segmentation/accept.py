"""Believe a refined mask, or keep the coarse one that asked for it: merged cubes in, what was found out.

A refined mask is believed where it agrees with the coarse one. How far it must was fitted for some structures, for the
weights at hand, on labelled cases (`ctsam3d.training.calibrate`), and is part of their facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsam3d.outcome import Status
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.patches import Box
from ctsam3d.segmentation.settings import Settings
from ctsam3d.segmentation.stitch import Canvas

FACT = "acceptance"
_BLOCK_PROBABILITY = np.float32(0.51)  # of a coarse block that interpolation would lose


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One structure before it shares the grid with others.

    Attributes:
        box: the part of the model grid that it spans.
        probability: over the box.
        cubes: decoded for it.
        status, reason: of it so far.
        agreement: Dice of refined and coarse mask.
        localized: how sure the localizer was.
        clicks: that somebody made, on the model grid.
    """

    box: Box
    probability: NDArray[np.float32]
    cubes: int
    status: Status = Status.OK
    reason: str | None = None
    agreement: float | None = None
    localized: float | None = None
    clicks: tuple[VoxelClick, ...] = ()


def least_agreements(facts: Mapping[str, object]) -> dict[str, float]:
    """Of structures for which it was fitted: the Dice of refined and coarse mask below which the coarse one is kept.

    Raises:
        ValueError: weights hold something else there than numbers in [0, 1] by structure.
    """
    found = facts.get(FACT, {})
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(least, int | float) and 0 <= least <= 1
        for name, least in found.items()
    ):
        raise ValueError(f"expected {FACT} to hold numbers in [0, 1] by structure")
    return {name: float(least) for name, least in found.items()}


def accepted(
    coarse: CoarseStructure, canvas: Canvas, cubes: int, settings: Settings, least_agreement: float
) -> Found:
    """The refined mask where it is near enough to the coarse one, else that.

    Args:
        coarse: what was known before.
        canvas: the merged cubes, over the coarse probability.
        cubes: how many they are.
        settings: which ratios of volumes are near enough.
        least_agreement: Dice of refined and coarse mask that is near enough.
    """
    assert canvas.coarse is not None
    refined, before = canvas.probability(), _not_thinned(canvas.coarse, coarse, canvas.box)
    agreement, volume_ratio = _compared(refined > 0.5, before > 0.5)
    low, high = settings.volume_ratio
    if agreement >= least_agreement and low <= volume_ratio <= high:
        return Found(canvas.box, refined, cubes, Status.OK, None, agreement, coarse.confidence)
    return Found(
        canvas.box, before, cubes, Status.COARSE, "REFINEMENT_REJECTED", agreement, coarse.confidence
    )


def _not_thinned(upsampled: NDArray[np.float32], coarse: CoarseStructure, box: Box) -> NDArray[np.float32]:
    """An upsampled coarse probability; where interpolation took most of a thin structure away, its very blocks.

    Without them a refinement of a rib or a vessel would have nothing to be compared with, and any leak be believed.
    """
    blocks = coarse.mask
    for axis, part in enumerate(box):
        blocks = np.take(blocks, np.arange(part.start, part.stop) // COARSE_FACTOR, axis=axis)
    if 2 * np.count_nonzero(upsampled > 0.5) >= np.count_nonzero(blocks):
        return upsampled
    return np.where(blocks, np.maximum(upsampled, _BLOCK_PROBABILITY), upsampled)


def _compared(refined: NDArray[np.bool_], coarse: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice of a refined and a coarse mask, and the ratio of their volumes; 1 and 1 without a coarse one."""
    overlap, mine, localized = int((refined & coarse).sum()), int(refined.sum()), int(coarse.sum())
    return (2 * overlap / (mine + localized), mine / localized) if localized else (1.0, 1.0)
