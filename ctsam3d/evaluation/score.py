"""Score one labelled case: a case and a segmenter in, a row per structure and way of asking out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.measure import measure
from ctsam3d.evaluation.automatic import localized_and_refined
from ctsam3d.evaluation.cases import LabelledCase
from ctsam3d.evaluation.metrics import Metrics, compare
from ctsam3d.evaluation.simulate import Answer, clicked
from ctsam3d.evaluation.targets import Target
from ctsam3d.imaging.resample import to_model_grid
from ctsam3d.network.config import SPACING_MM
from ctsam3d.outcome import Status
from ctsam3d.segmentation.confidence import Evidence
from ctsam3d.segmentation.prompts import owners_of
from ctsam3d.segmentation.result import StudySegmentation
from ctsam3d.segmentation.segmenter import Segmenter

SHOWN_CLICKS = (1, 5)  # and the last: what reports show, and where surfaces are compared
_BOUNDED = "GROWTH_BOUNDED"


class Method(StrEnum):
    """How a structure was asked for."""

    LOCALIZER = "localizer"  # the localizer's mask alone
    AUTOMATIC = "automatic"  # what `segment` answers
    CLICKS = "clicks"  # simulated from the truth, and no mask; but where other organs surely are is known
    CORRECTED = "corrected"  # such clicks on the automatic mask, where there is one


CLICKED = (Method.CLICKS, Method.CORRECTED)


@dataclass(frozen=True, slots=True)
class Score:
    """One structure of one case, asked for in one way; None where a value has no meaning.

    Attributes:
        case: its name.
        structure: the target's name.
        method: how it was asked for.
        clicks: how many were simulated by now.
        status: what the segmenter says became of it.
        reason: for a status that needs one.
        confidence: as the segmenter gives it.
        evidence: what an automatic mask's confidence rests on.
        metrics: on the case's own grid.
        truncated: faces of the image that the truth touches: it goes on beyond.
        cubes: decoded by now.
    """

    case: str
    structure: str
    method: Method
    clicks: int | None
    status: Status
    reason: str | None
    confidence: float | None
    metrics: Metrics
    truncated: tuple[str, ...]
    cubes: int | None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A score with the masks it is of, bool (z, y, x) on the case's grid; let go of once it is drawn or not."""

    score: Score
    truth: NDArray[np.bool_]
    found: NDArray[np.bool_]


def score_case(
    case: LabelledCase, targets: Sequence[Target], segmenter: Segmenter, most_clicks: int = 0
) -> Iterator[Scored]:
    """Every target of a case in every way in which it can be asked for.

    Args:
        case: image and labels.
        targets: what is to be scored in it.
        segmenter: what is to be scored.
        most_clicks: to simulate on each target.
    """
    grid = to_model_grid(case.volume, SPACING_MM)
    classes = {name for target in targets for name in target.classes}
    asked = tuple(name for name in segmenter.structures if name in classes)
    answers: dict[Method, StudySegmentation] = {}
    located = segmenter.localizer.prompts(grid, segmenter.structures) if asked or most_clicks else {}
    prompts = {name: located[name] for name in asked if name in located}
    owners = owners_of(located)
    if asked:
        coarse, refined = localized_and_refined(segmenter, prompts, case.volume, grid, asked)
        answers = {Method.LOCALIZER: coarse, Method.AUTOMATIC: refined}
    for target in targets:
        truth = target.truth(case.labels)
        truncated = _truncated(case, truth)
        for method, answer in answers.items():
            if target.classes:
                yield _automatic(case, target, method, answer, truth, truncated)
        if not most_clicks or not truth.any():
            continue
        mask = prompts.get(target.classes[0]) if len(target.classes) == 1 else None
        # where there is no mask to correct, clicks alone are what corrects it
        asked_for = {CLICKED: None} if mask is None else {(Method.CLICKS,): None, (Method.CORRECTED,): mask}
        for methods, prompt in asked_for.items():
            for state in clicked(
                segmenter, target.name, grid, case.volume.geometry, truth, most_clicks, prompt, case.unknown, owners
            ):  # fmt: skip
                last = state.clicks == most_clicks
                for method in methods:
                    yield _clicked(case, target, method, state, truth, truncated, last=last)


def _automatic(
    case: LabelledCase,
    target: Target,
    method: Method,
    answer: StudySegmentation,
    truth: NDArray[np.bool_],
    truncated: tuple[str, ...],
) -> Scored:
    """One target out of a label map that holds them all."""
    ids = [answer.label_ids[name] for name in target.classes if name in answer.label_ids]
    found = _without(case.unknown, np.isin(answer.labels, ids))
    findings = [answer.findings[name] for name in target.classes]
    # of several structures in one: the least sure of those that were found
    there = [finding for finding in findings if finding.status is not Status.ABSENT] or findings
    worst = next((finding for finding in there if finding.status is Status.COARSE), there[0])
    confidences = [finding.confidence for finding in there if finding.confidence is not None]
    score = Score(
        case=case.name,
        structure=target.name,
        method=method,
        clicks=None,
        status=worst.status,
        reason=worst.reason,
        confidence=min(confidences, default=None),
        metrics=compare(found, truth, case.volume.geometry),
        truncated=truncated,
        cubes=sum(finding.clicks for finding in findings) if method is Method.AUTOMATIC else None,
        evidence=worst.evidence if len(target.classes) == 1 else None,
    )
    return Scored(score, truth, found)


def _clicked(
    case: LabelledCase,
    target: Target,
    method: Method,
    answer: Answer,
    truth: NDArray[np.bool_],
    truncated: tuple[str, ...],
    *,
    last: bool,
) -> Scored:
    """One target after some clicks."""
    # surfaces take longer than clicks do
    surfaces = last or answer.clicks in SHOWN_CLICKS
    found = _without(case.unknown, answer.found)
    score = Score(
        case=case.name,
        structure=target.name,
        method=method,
        clicks=answer.clicks,
        status=Status.OK if answer.found.any() else Status.ABSENT,
        reason=_BOUNDED if answer.bounded else None,
        confidence=None,
        metrics=compare(found, truth, case.volume.geometry, surfaces=surfaces),
        truncated=truncated,
        cubes=answer.cubes,
    )
    return Scored(score, truth, found)


def _without(unknown: NDArray[np.bool_] | None, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without what lies where nothing is known."""
    return found if unknown is None else found & ~unknown


def _truncated(case: LabelledCase, truth: NDArray[np.bool_]) -> tuple[str, ...]:
    """The faces of the image that a truth touches."""
    measured = measure(case.volume, truth.view(np.uint8), {"truth": 1})
    return measured["truth"].truncated_faces if measured else ()
