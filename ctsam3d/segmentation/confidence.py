"""Estimate a mask's Dice without a truth: what speaks for it in, a number in [0, 1] out.

What speaks for a mask: how sharp its probability is, how far the refined and the coarse mask agree, and how sure the
localizer was. How much each counts was fitted, for the weights at hand, on cases that they were not trained on
(`ctsam3d.training.calibrate`), and is part of the weights' facts. Weights without such facts, the published ones say,
get the plain mean of what is known, which ranks masks but is no Dice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

FACT = "confidence"
_EDGE = 0.005  # probabilities this near to 0 or 1 count as this near
_IN_MASK = 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one mask, each in [0, 1]; None where there is no such thing.

    Attributes:
        sharpness: soft Dice of the probability with its own mask; 1 where every voxel is certain.
        agreement: Dice of refined and coarse mask.
        localized: the localizer's mean probability.
    """

    sharpness: float
    agreement: float | None = None
    localized: float | None = None


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Of a logistic model over the log-odds of the evidence."""

    bias: float
    sharpness: float
    agreement: float
    localized: float

    @classmethod
    def of_facts(cls, facts: Mapping[str, object]) -> Coefficients | None:
        """Those that a file of weights holds, or None.

        Raises:
            ValueError: there are some, and they are not four finite numbers.
        """
        found = facts.get(FACT)
        if found is None:
            return None
        names = [f.name for f in fields(cls)]
        if (
            not isinstance(found, Mapping)
            or not set(found) >= set(names)
            or not all(isinstance(v, int | float) and math.isfinite(v) for v in found.values())
        ):
            raise ValueError(f"expected {FACT} to hold finite numbers for {names}")
        return cls(**{name: float(found[name]) for name in names})


def sharpness(probability: NDArray[np.float32]) -> float:
    """Soft Dice of a probability with its own mask; 0 where the mask is empty."""
    mask = probability > _IN_MASK
    inside = float(probability[mask].sum(dtype=np.float64))
    total = float(probability.sum(dtype=np.float64)) + float(np.count_nonzero(mask))
    return 2 * inside / total if total else 0.0


def estimate(evidence: Evidence, coefficients: Coefficients | None) -> float:
    """The Dice to be expected of a mask, in [0, 1].

    A fitted model needs all of the evidence: without a coarse mask, and without coefficients, it is the plain mean.
    """
    known = [float(value) for value in astuple(evidence) if value is not None]
    if coefficients is None or len(known) < len(fields(Evidence)):
        return sum(known) / len(known)
    weights = (coefficients.sharpness, coefficients.agreement, coefficients.localized)
    score = coefficients.bias + sum(w * log_odds(v) for w, v in zip(weights, known, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def log_odds(value: float) -> float:
    """Of a probability, cut off near 0 and 1."""
    inside = min(1 - _EDGE, max(_EDGE, value))
    return math.log(inside / (1 - inside))
