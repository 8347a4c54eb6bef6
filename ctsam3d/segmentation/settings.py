"""What shapes a result besides the weights: plain values, part of what names every result."""

from __future__ import annotations

from dataclasses import dataclass

from ctsam3d.network.precision import Precision
from ctsam3d.segmentation.grow import Growth


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a result, besides the weights.

    Attributes:
        reach_blocks: every 6 mm block of a structure lies within so many blocks of a click, along each axis.
        least_dice: of refined and coarse mask, below which the coarse one is kept; the weights may say another for
            some structures.
        volume_ratio: of refined to coarse volume, outside which the coarse mask is kept.
        batch: cubes decoded at a time on a CPU; a GPU decodes as many as it has room for.
        correct: ask again, with clicks on what is wrong, where an answer contradicts sure coarse masks.
        growth: bounds of a structure that grows from clicks.
        precision: of the decoder's convolutions; None, before weights are loaded, for the fastest that answers as
            float32 does.
        rules: version of the rules in code (windows, plausibility, intensity, thin structures); raised whenever one of
            them changes a result.
    """

    reach_blocks: int = 6
    least_dice: float = 0.6
    volume_ratio: tuple[float, float] = (0.5, 1.8)
    batch: int = 4
    correct: bool = False
    growth: Growth = Growth()
    precision: Precision | None = None
    rules: int = 14
