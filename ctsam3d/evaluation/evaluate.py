"""Evaluate weights: labelled case folders in; tables, a report and pictures in a folder out.

    DIR/scores.parquet   a row per case, structure and way of asking
    DIR/cases.parquet    a row per case, scored or not
    DIR/report.md        what an analyst reads first
    DIR/clicks.png       Dice over the number of clicks
    DIR/worst.png        the masks that are furthest from the truth

The tables are written anew after every case, so that what is done is not lost when the rest is not awaited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctsam3d.evaluation.cases import CaseError, LabelNames, read_case, read_names
from ctsam3d.evaluation.pictures import Worst, draw_curve
from ctsam3d.evaluation.report import report
from ctsam3d.evaluation.score import CLICKED, Method, Score, score_case
from ctsam3d.evaluation.tables import CaseOutcome, write_cases, write_scores
from ctsam3d.evaluation.targets import check_wanted, targets_of
from ctsam3d.segmentation.decoder import ModelOutputInvalid
from ctsam3d.segmentation.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of it.

    Attributes:
        scores: of all cases.
        outcomes: a case each, in the order in which they were given.
    """

    scores: tuple[Score, ...]
    outcomes: tuple[CaseOutcome, ...]


def evaluate(
    folders: Sequence[Path],
    segmenter: Segmenter,
    out: Path,
    structures: Sequence[str] | None = None,
    most_clicks: int = 0,
    most_worst: int = 0,
    on_case: Callable[[CaseOutcome], None] = lambda outcome: None,
) -> Evaluation:
    """Score every case; one that cannot be used becomes an outcome with a fault and costs none of the others.

    Args:
        folders: of the cases; their names are the names of the cases.
        segmenter: what is to be scored.
        out: a folder, made where missing.
        structures: names of targets or labels, or None for all that is annotated.
        most_clicks: to simulate on each structure.
        most_worst: masks to draw.
        on_case: told of each case when it is done.

    Raises:
        ValueError: two cases of one name, or a structure that neither the weights nor a case knows.
        OSError: the folder cannot be written to.
    """
    case_names = [folder.resolve().name for folder in folders]
    twice = sorted({name for name in case_names if case_names.count(name) > 1})
    if twice:
        raise ValueError(f"several cases are named {twice[0]!r}; expected folders of different names")
    names = [_names_or_fault(folder) for folder in folders]
    if structures is not None:
        check_wanted(structures, segmenter.structures, [n for n in names if isinstance(n, LabelNames)])
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "weights_sha256": segmenter.weights_sha256,
        "localizer_sha256": segmenter.localizer.weights_sha256,
    }
    scores: list[Score] = []
    outcomes: list[CaseOutcome] = []
    worst = Worst(most_worst)
    for folder, name, known in zip(folders, case_names, names, strict=True):
        started, fault, before = time.monotonic(), None, len(scores)
        try:
            if isinstance(known, CaseError):
                raise known
            case = read_case(folder, known)
            targets = targets_of(known, segmenter.structures, structures)
            for scored in score_case(case, targets, segmenter, most_clicks):
                scores.append(scored.score)
                if _is_answer(scored.score, most_clicks):
                    worst.consider(case.volume, scored)
        except (CaseError, ModelOutputInvalid) as problem:
            fault = str(problem)
        found = {score.structure for score in scores[before:]}
        outcomes.append(CaseOutcome(name, len(found), time.monotonic() - started, fault))
        write_scores(out / "scores.parquet", scores, facts)
        write_cases(out / "cases.parquet", outcomes, facts)
        pictures = _draw(out, scores, worst)
        (out / "report.md").write_text(report(scores, outcomes, facts, pictures))
        on_case(outcomes[-1])
    return Evaluation(tuple(scores), tuple(outcomes))


def _is_answer(score: Score, most_clicks: int) -> bool:
    """Whether a mask is what somebody would be given: without clicks, or after the last of them."""
    return score.method is Method.AUTOMATIC or score.clicks == most_clicks


def _draw(out: Path, scores: Sequence[Score], worst: Worst) -> list[str]:
    """Names of the pictures that could be drawn of what there is."""
    names = []
    if any(score.method in CLICKED for score in scores):
        draw_curve(scores, out / "clicks.png")
        names.append("clicks.png")
    if worst.draw(out / "worst.png"):
        names.append("worst.png")
    return names


def _names_or_fault(folder: Path) -> LabelNames | CaseError:
    try:
        return read_names(folder)
    except CaseError as fault:
        return fault
