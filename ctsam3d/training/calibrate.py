"""Fit what weights say of their own masks: scored masks in, entries for weights' facts out.

How much each piece of evidence says of a mask's Dice, which takes cases that were left out of the training, and how far
a refined mask must agree with its coarse one for it to be worth believing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, log_odds

_RIDGE = 0.02  # few masks: what they do not say stays near the prior
_BEYOND_CHANCE = 2.0  # standard deviations of a sum of as many gains
_STEP = 0.001  # of thresholds
_PRIOR = np.array([0.0, 0.5, 0.5, 0.5])


def fit(evidence: Sequence[Evidence], dice: Sequence[float]) -> Coefficients:
    """Logistic regression of Dice on the log-odds of the evidence.

    Args:
        evidence: of masks that had a coarse one; others are left out.
        dice: of each with its truth.

    Raises:
        ValueError: fewer than ten masks.
    """
    rows = [
        ([1.0, log_odds(e.sharpness), log_odds(e.agreement), log_odds(e.localized)], score)
        for e, score in zip(evidence, dice, strict=True)
        if e.agreement is not None and e.localized is not None
    ]
    if len(rows) < 10:
        raise ValueError(f"expected ten masks or more to calibrate with, found {len(rows)}")
    features = np.array([row for row, _ in rows])
    target = np.array([score for _, score in rows])

    def loss(w: np.ndarray) -> float:
        score = features @ w
        cross_entropy = np.logaddexp(0, score) - target * score
        return float(cross_entropy.mean() + _RIDGE * np.square(w - _PRIOR).sum())

    # evidence for a mask never counts against it
    found = optimize.minimize(loss, _PRIOR, bounds=[(None, None), (0, None), (0, None), (0, None)])
    bias, *weights = (round(float(value), 4) for value in found.x)
    return Coefficients(bias, *weights)


def leave_one_out_error(evidence: Sequence[Evidence], dice: Sequence[float], cases: Sequence[str]) -> float:
    """Mean absolute error of the estimate on each case when fitted on the others."""
    errors = []
    for case in sorted(set(cases)):
        others = [i for i, name in enumerate(cases) if name != case]
        fitted = fit([evidence[i] for i in others], [dice[i] for i in others])
        errors += [
            abs(estimate(evidence[i], fitted) - dice[i]) for i, name in enumerate(cases) if name == case
        ]
    return float(np.mean(errors))


@dataclass(frozen=True, slots=True)
class Refinement:
    """What refining did to one mask.

    Attributes:
        case, structure: names.
        agreement: Dice of refined and coarse mask.
        gain: Dice of the refined mask with the truth less that of the coarse one.
    """

    case: str
    structure: str
    agreement: float
    gain: float


def fit_acceptance(refinements: Sequence[Refinement]) -> dict[str, float]:
    """Of each structure that is better off so: the agreement below which its refined mask is not to be believed.

    It is that which spares these masks most harm, where this is more than as many masks would lose by chance: one bad
    mask does not condemn a structure, one very bad mask or several do. Other structures are left out.

    Args:
        refinements: of masks that were believed.
    """
    chance = _BEYOND_CHANCE * float(np.std([r.gain for r in refinements])) if refinements else 0.0
    found = {}
    for structure in sorted({r.structure for r in refinements}):
        mine = sorted((r.agreement, r.gain) for r in refinements if r.structure == structure)
        spared = -np.cumsum([gain for _, gain in mine])  # by believing none of the first so many
        spared[spared <= chance * np.sqrt(np.arange(1, len(mine) + 1))] = 0
        best = int(np.argmax(spared))
        if spared[best] > 0:  # just above it, rounded up to whole steps
            found[structure] = round(min(1.0, float(np.ceil(mine[best][0] / _STEP + 1e-6)) * _STEP), 3)
    return found


def gain_left_out(refinements: Sequence[Refinement]) -> tuple[float, float]:
    """Mean gain of all masks if all are believed, and if each case's are by what was fitted on the other cases."""
    believed = []
    for case in sorted({r.case for r in refinements}):
        least = fit_acceptance([r for r in refinements if r.case != case])
        mine = [r for r in refinements if r.case == case]
        believed += [r.gain if r.agreement >= least.get(r.structure, 0.0) else 0.0 for r in mine]
    return float(np.mean([r.gain for r in refinements])), float(np.mean(believed))
