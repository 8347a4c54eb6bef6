"""Believe a refined mask, or keep the coarse one that asked for it: merged cubes in, what was found out.

A refined mask is believed where it agrees with the coarse one. How far it must was fitted for some structures, for the
weights at hand, on labelled cases (`ctsam3d.training.calibrate`), and is part of their facts. So is how sure the
network must be of a voxel (`ctsam3d.training.thresholds`): what it was trained with weighs a voxel that is missed more
than one too many, and masks at one half are too large all around.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
THRESHOLDS_FACT = "thresholds"
OTHERS = "default"  # the threshold of structures without one of their own
_BLOCK_PROBABILITY = np.float32(0.51)  # of a coarse block that interpolation would lose


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One structure before it shares the grid with others.

    Attributes:
        box: the part of the model grid that it spans.
        probability: over the box, above one half in the structure.
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


@dataclass(frozen=True, slots=True)
class Belief:
    """How far the weights' refined masks of a structure are to be believed.

    Attributes:
        least_agreement: Dice of refined and coarse mask below which the coarse one is kept.
        threshold: of probability, above which a voxel belongs to the refined mask.
    """

    least_agreement: float
    threshold: float = 0.5


def least_agreements(facts: Mapping[str, object]) -> dict[str, float]:
    """Of structures for which it was fitted: the Dice of refined and coarse mask below which the coarse one is kept.

    Raises:
        ValueError: weights hold something else there than numbers in [0, 1] by structure.
    """
    return _by_structure(facts, FACT, lambda least: 0 <= least <= 1, "[0, 1]")


def thresholds(facts: Mapping[str, object]) -> dict[str, float]:
    """The probability above which a voxel of a refined mask belongs to its structure, where it is not one half.

    By structure, and under OTHERS that of those without one of their own.

    Raises:
        ValueError: weights hold something else there than numbers within (0, 1) by structure.
    """
    return _by_structure(facts, THRESHOLDS_FACT, lambda threshold: 0 < threshold < 1, "(0, 1)")


def _by_structure(
    facts: Mapping[str, object], fact: str, holds: Callable[[float], bool], within: str
) -> dict[str, float]:
    found = facts.get(fact, {})
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, int | float) and holds(value)
        for name, value in found.items()
    ):
        raise ValueError(f"expected {fact} to hold numbers in {within} by structure")
    return {name: float(value) for name, value in found.items()}


def settled(probability: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """A probability whose threshold was another, with one half for its threshold; the order of voxels stays.

    Its odds are divided by those of the threshold.
    """
    if threshold == 0.5:
        return probability
    inside, outside = probability * (1 - threshold), (1 - probability) * threshold
    return np.divide(inside, inside + outside, dtype=np.float32)


def accepted(
    coarse: CoarseStructure, canvas: Canvas, cubes: int, settings: Settings, belief: Belief
) -> Found:
    """The refined mask where it is near enough to the coarse one, else that.

    Args:
        coarse: what was known before.
        canvas: the merged cubes, over the coarse probability.
        cubes: how many they are.
        settings: which ratios of volumes are near enough.
        belief: which agreement is near enough, and how sure the network must be of a voxel. Masks are compared at one
            half, as they were when both were fitted.
    """
    assert canvas.coarse is not None
    refined, before = canvas.probability(), _not_thinned(canvas.coarse, coarse, canvas.box)
    agreement, volume_ratio = _compared(refined > 0.5, before > 0.5)
    low, high = settings.volume_ratio
    if agreement >= belief.least_agreement and low <= volume_ratio <= high:
        refined = settled(refined, belief.threshold)
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
