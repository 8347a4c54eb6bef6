"""Fit how much each piece of evidence says of a mask's Dice: scored masks in, coefficients for weights' facts out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, log_odds

_RIDGE = 0.02  # few masks: what they do not say stays near the prior
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
