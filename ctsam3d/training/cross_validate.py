"""Cross-validate the localizer: cached cases in, Dice of every case by a network that never saw it out.

Cases are dealt into folds by the recipe; cases of one patient, crops and relabellings of one scan belong into the same
fold. Each fold's cases are scored whole by a network trained on the cases of all others and on label maps without
images, which are in no fold.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ctsam3d.anatomy.localized import BACKGROUND, CLASSES
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.prompting.coarse import SPACING_MM
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.training.cases import Case, decided, load_case

_LEAST_ML = 1.0  # of a structure in a case, to be scored


@dataclass(frozen=True, slots=True)
class FoldScore:
    """How one structure of one case came out.

    Attributes:
        fold: that the case is in.
        case, structure: names.
        reviewed: whether nobody drew it, and a network's mask was found right.
        truth_ml: volume of what is labelled.
        dice: of the most probable class with it, over the voxels where it is known; no clean-up, no refinement.
    """

    fold: int
    case: str
    structure: str
    reviewed: bool
    truth_ml: float
    dice: float


def fold_of(case: str, folds: Sequence[Callable[[str], bool]]) -> int | None:
    """The fold that a case is in, or None.

    Raises:
        ValueError: it is in two.
    """
    found = [number for number, holds in enumerate(folds) if holds(case)]
    if len(found) > 1:
        raise ValueError(f"{case!r}: expected in one fold at most, found in {found}")
    return found[0] if found else None


def score_fold(
    localizer: Localizer, folder: Path, wanted: Callable[[str], bool], fold: int
) -> list[FoldScore]:
    """Every wanted case of a cache that has an image."""
    scores = []
    for path in sorted(p for p in folder.glob("*.npz") if wanted(p.stem)):
        case = load_case(path)
        if case.hu is not None:
            scores += score_case(localizer, case, case.hu, fold)
    return scores


def score_case(localizer: Localizer, case: Case, hu: NDArray[np.int16], fold: int) -> list[FoldScore]:
    """Every structure that is labelled in a case.

    Args:
        localizer: what is scored.
        case: with labels (z, y, x) on a grid some whole number of times as fine as the localizer's.
        hu: of the case.
        fold: that the case is in.
    """
    factor = round(SPACING_MM / case.spacing_mm)
    padding = [p for n in reversed(hu.shape) for p in (0, -n % factor)]
    padded = F.pad(torch.from_numpy(hu.astype(np.float32)), padding, value=float(AIR_HU))
    blocks = localizer.probabilities(F.avg_pool3d(padded[None, None], factor)[0, 0]).argmax(axis=0)
    found = blocks.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    found = found[tuple(slice(n) for n in hu.shape)]
    allowed = case.allowed()
    scores = []
    for index, name in enumerate(CLASSES):
        is_it, known_ids = decided(allowed, name)
        truth = is_it[case.labels]
        truth_ml = float(truth.sum()) * case.spacing_mm**3 / 1000
        if name == BACKGROUND or truth_ml < _LEAST_ML:
            continue
        mine = (found == index) & known_ids[case.labels]
        dice = 2 * int((mine & truth).sum()) / (int(mine.sum()) + int(truth.sum()))
        reviewed = name in case.reviewed
        scores.append(FoldScore(fold, case.name, name, reviewed, round(truth_ml, 2), round(dice, 4)))
    return scores


def write_scores(path: Path, scores: Iterable[FoldScore]) -> None:
    """As CSV, a line each."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(FoldScore)])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def table(scores: Sequence[FoldScore]) -> str:
    """Markdown: mean, least and greatest Dice of each structure over the cases, and the mean of those means.

    What was drawn and what was reviewed is apart: a mask that a network found and somebody let pass is nearer to what
    a network finds.
    """
    of: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for score in scores:
        of[score.structure, score.reviewed].append(score.dice)
    lines = [
        "| structure | drawn: cases | mean Dice | least | greatest | reviewed: cases | mean Dice | least | greatest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({name for name, _ in of}):
        cells = [_cells(of.get((name, reviewed), [])) for reviewed in (False, True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = []
    for reviewed in (False, True):
        dices = [float(np.mean(found)) for (_, hand), found in of.items() if hand == reviewed]
        cases = len({score.case for score in scores if score.reviewed == reviewed})
        means.append(f"{cases} | {np.mean(dices):.3f} | | " if dices else "0 | | | ")
    lines.append(f"| **mean of structures** | {'| '.join(means)}|")
    return "\n".join(lines) + "\n"


def _cells(dices: Sequence[float]) -> str:
    return (
        f"{len(dices)} | {np.mean(dices):.3f} | {min(dices):.3f} | {max(dices):.3f}" if dices else "0 | | |"
    )
