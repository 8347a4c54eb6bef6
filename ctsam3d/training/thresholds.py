"""Fit how sure the network must be of a voxel for it to belong to a structure: labelled cases in, thresholds out.

The published loss weighs a voxel that a mask misses four times one that it has too many, and the Dice in it prefers too
many where it is in doubt. So masks at one half are about a voxel too large all around, in cases that were trained on as
in others, and what a network was taught by masks of its like passes it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctsam3d.evaluation.cases import LabelNames, read_case
from ctsam3d.evaluation.simulate import on_model_grid
from ctsam3d.evaluation.targets import targets_of
from ctsam3d.imaging.resample import to_model_grid
from ctsam3d.network.config import SPACING_MM
from ctsam3d.outcome import Status
from ctsam3d.segmentation.accept import OTHERS, settled
from ctsam3d.segmentation.intensity import AERATED, within_intensity
from ctsam3d.segmentation.segmenter import Segmenter

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_SIDES = ("_left", "_right")
_WORTH = 2  # cases that a structure's own must outweigh: what it gains is taken to be what others gain
_AS_GOOD = 0.002  # Dice: of thresholds that differ by less, the one nearest to one half


@dataclass(frozen=True, slots=True)
class Curve:
    """What one refined mask would be at each threshold.

    Attributes:
        case, structure: names.
        dice: with the truth on the model grid, by LEVELS.
    """

    case: str
    structure: str
    dice: tuple[float, ...]


def curves(folder: Path, names: LabelNames, segmenter: Segmenter) -> Iterator[Curve]:
    """Of each structure of a labelled case that is found there and whose refined mask is believed.

    Args:
        folder: of the case.
        names: that the case says of its labels.
        segmenter: whose thresholds are one half.

    Raises:
        CaseError: the case cannot be used.
    """
    case = read_case(folder, names)
    single = {t.classes[0]: t for t in targets_of(names, segmenter.structures) if len(t.classes) == 1}
    grid = to_model_grid(case.volume, SPACING_MM, segmenter.device)
    located = segmenter.localizer.prompts(grid, tuple(single))
    source = case.volume.geometry
    known = None if case.unknown is None else ~on_model_grid(case.unknown, source, grid.geometry)
    for name, found in segmenter.refined(grid, located):
        if found.status is not Status.OK:
            continue
        truth = on_model_grid(single[name].truth(case.labels), source, grid.geometry)
        if not truth.any():
            continue
        here, total, dice = found.box, int(truth.sum()), []
        for level in LEVELS:
            mask = within_intensity(name, settled(found.probability, level), grid.hu[here]) > 0.5
            if known is not None:
                mask = mask & known[here]
            dice.append(2 * int((mask & truth[here]).sum()) / (int(mask.sum()) + total))
        yield Curve(case.name, name, tuple(dice))


def fit_thresholds(found: Sequence[Curve]) -> dict[str, float]:
    """The threshold of each structure, and that of all others under OTHERS; nothing where there is nothing to fit.

    Both of a pair have one, fitted on both. A structure of few cases is taken to gain what all structures gain on the
    mean. Lungs stay at one half: it is their air that says where they end.
    """
    names_of: dict[str, set[str]] = {}
    for curve in found:
        if curve.structure not in AERATED:
            names_of.setdefault(_unsided(curve.structure), set()).add(curve.structure)
    if not names_of:
        return {}
    gains = {
        kind: np.array([np.subtract(c.dice, c.dice[0]) for c in found if c.structure in names])
        for kind, names in sorted(names_of.items())
    }
    typical = np.mean([gain.mean(axis=0) for gain in gains.values()], axis=0)
    fitted = {OTHERS: _nearest_of_the_best(typical), **dict.fromkeys(sorted(AERATED), LEVELS[0])}
    for kind, gain in gains.items():
        level = _nearest_of_the_best((gain.sum(axis=0) + _WORTH * typical) / (len(gain) + _WORTH))
        fitted |= dict.fromkeys([kind] if kind in names_of[kind] else [kind + side for side in _SIDES], level)
    return fitted


def gain_left_out(found: Sequence[Curve]) -> tuple[float, float]:
    """Mean gain of all masks by what is fitted on all cases, and of each case's by what is fitted on the others."""
    by_all, by_others = fit_thresholds(found), {}
    for case in {c.case for c in found}:
        by_others[case] = fit_thresholds([c for c in found if c.case != case])
    return (
        float(np.mean([_gain(c, by_all) for c in found])),
        float(np.mean([_gain(c, by_others[c.case]) for c in found])),
    )


def _gain(curve: Curve, fitted: dict[str, float]) -> float:
    level = fitted.get(curve.structure, fitted.get(OTHERS, LEVELS[0]))
    return curve.dice[LEVELS.index(level)] - curve.dice[0]


def _unsided(name: str) -> str:
    side = next((side for side in _SIDES if name.endswith(side)), "")
    return name.removesuffix(side)


def _nearest_of_the_best(gain: np.ndarray) -> float:
    return LEVELS[int(np.argmax(gain >= gain.max() - _AS_GOOD))]
