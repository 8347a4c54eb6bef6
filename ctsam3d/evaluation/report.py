"""A Markdown report from scores: what holds on the mean, what is bad, and every case.

Nothing is rounded in favour of what is scored: overlaps are cut off after the third decimal, distances and errors
are rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ctsam3d.evaluation.metrics import Metrics
from ctsam3d.evaluation.score import CLICKED, SHOWN_CLICKS, Method, Score
from ctsam3d.evaluation.tables import CaseOutcome

_BAD_DICE = 0.7
_LOSS_DICE = 0.02  # against the localizer alone, that acceptance should prevent

_Column = tuple[Method, int | None]
_Rows = dict[_Column, dict[tuple[str, str], Score]]
"""By way of asking: the score of each (case, structure)."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and of how many."""

    value: float
    count: int


def report(
    scores: Sequence[Score],
    outcomes: Sequence[CaseOutcome],
    facts: Mapping[str, str],
    pictures: Sequence[str] = (),
) -> str:
    """The whole report.

    Args:
        scores: of all cases.
        outcomes: of all cases, in the order in which they are to be listed.
        facts: what was scored (weights and settings), shown as they are.
        pictures: file names beside the report.
    """
    rows = _by_column(scores)
    parts = [
        "# Evaluation\n",
        "".join(f"* {name.replace('_', ' ')}: {value}\n" for name, value in facts.items()),
        _summary(rows),
        _structures(rows),
        _against_localizer(rows),
        _bad(rows),
        _inventions(rows),
        *(_case(outcome, scores) for outcome in outcomes if outcome.structures),
        _faults(outcomes),
        "".join(f"![{name}]({name})\n\n" for name in pictures),
    ]
    return "\n".join(part for part in parts if part)


def _by_column(scores: Iterable[Score]) -> _Rows:
    """Scores by way of asking; of the clicks the first, the fifth and the last."""
    last = max((s.clicks or 0 for s in scores), default=0)
    shown = sorted({n for n in (*SHOWN_CLICKS, last) if 0 < n <= last})
    columns: list[_Column] = [(Method.LOCALIZER, None), (Method.AUTOMATIC, None)]
    rows: _Rows = {column: {} for column in (*columns, *((method, n) for method in CLICKED for n in shown))}
    for score in scores:
        if (column := (score.method, score.clicks)) in rows:
            rows[column][score.case, score.structure] = score
    return {column: found for column, found in rows.items() if found}


def mean(scores: Iterable[Score], value: Callable[[Metrics], float | None]) -> Mean | None:
    """Over the scores with a truth and a value; None where there is none."""
    values = [v for s in scores if s.metrics.truth_ml > 0 and (v := value(s.metrics)) is not None]
    return Mean(sum(values) / len(values), len(values)) if values else None


def mean_over_structures(scores: Iterable[Score], value: Callable[[Metrics], float | None]) -> Mean | None:
    """The mean of each structure's mean: one that is in many cases counts no more than another."""
    of: dict[str, list[Score]] = {}
    for score in scores:
        of.setdefault(score.structure, []).append(score)
    means = [m.value for group in of.values() if (m := mean(group, value)) is not None]
    return Mean(sum(means) / len(means), len(means)) if means else None


def _summary(rows: _Rows) -> str:
    if not rows:
        return "Nothing was scored.\n"
    header = ["way of asking", "n", "Dice", "surface Dice 2 mm", "HD95 mm", "volume error %", "not found"]
    lines, by_structure = [], []
    for column, found in rows.items():
        scores = list(found.values())
        lines.append([_title(column), *_numbers(scores, mean), str(_missed(scores))])
        by_structure.append([_title(column), *_numbers(scores, mean_over_structures)])
    return "\n".join(
        [
            "## On the mean\n",
            "Every structure of every case counts once, one that was not found with a Dice of 0; distances only where "
            "it was found. Volume errors are without their sign.\n",
            _table(header, lines),
            "Every structure counts once, however many cases it is in:\n",
            _table(header[:-1], by_structure),
        ]
    )


def _numbers(
    scores: Sequence[Score],
    average: Callable[[Iterable[Score], Callable[[Metrics], float | None]], Mean | None],
) -> list[str]:
    """How many, and the mean of each metric."""
    dice = average(scores, lambda m: m.dice)
    return [
        str(dice.count if dice else 0),
        _down(dice),
        _down(average(scores, lambda m: m.surface_dice)),
        _up(average(scores, lambda m: m.hd95_mm)),
        _up(average(scores, _absolute_percent)),
    ]


def _structures(rows: _Rows) -> str:
    """Mean Dice of each structure in each way of asking."""
    names = sorted({structure for found in rows.values() for _, structure in found})
    header = ["structure", "cases", "truncated", *(_title(column) for column in rows)]
    header += ["surface Dice 2 mm", "HD95 mm", "volume error ml", "volume error %"]
    lines = []
    for name in names:
        of = {column: [s for (_, n), s in found.items() if n == name] for column, found in rows.items()}
        longest = max(of.values(), key=len)
        cases = [s for s in longest if s.metrics.truth_ml > 0]
        shown = of.get((Method.AUTOMATIC, None)) or longest
        lines.append(
            [
                name,
                str(len(cases)),
                str(sum(bool(s.truncated) for s in cases)),
                *(_down(mean(scores, lambda m: m.dice)) for scores in of.values()),
                _down(mean(shown, lambda m: m.surface_dice)),
                _up(mean(shown, lambda m: m.hd95_mm)),
                _up(mean(shown, lambda m: abs(m.error_ml))),
                _up(mean(shown, _absolute_percent)),
            ]
        )
    if not lines:
        return ""
    note = (
        "Mean Dice in each way of asking; the columns to the right are of the automatic masks, or of the last click "
        "where a structure is not found automatically. *Truncated*: in so many cases it goes on beyond the image.\n"
    )
    return "\n".join(["## Structures\n", note, _table(header, lines)])


def _against_localizer(rows: _Rows) -> str:
    """Where the refined mask is worse than the coarse one it began with."""
    coarse, refined = (rows.get((m, None), {}) for m in (Method.LOCALIZER, Method.AUTOMATIC))
    gains = {
        key: (refined[key].metrics.dice or 0) - (coarse[key].metrics.dice or 0)
        for key in refined
        if key in coarse and refined[key].metrics.truth_ml > 0
    }
    if not gains:
        return ""
    losses = sorted((gain, key) for key, gain in gains.items() if gain < -_LOSS_DICE)
    average = sum(gains.values()) / len(gains)
    lines = [
        [case, structure, f"{gain:+.3f}", str(refined[case, structure].status)]
        for gain, (case, structure) in losses
    ]
    text = (
        f"Automatic masks gain {_signed_down(average)} Dice over the localizer alone on the mean of {len(gains)}; "
        f"{len(losses)} lose more than {_LOSS_DICE}.\n"
    )
    table = [_table(["case", "structure", "gain", "status"], lines)] if lines else []
    return "\n".join(["## Refined against coarse\n", text, *table])


def _bad(rows: _Rows) -> str:
    """The structures that are not to be relied on, worst first."""
    judged = rows.get((Method.AUTOMATIC, None), {})
    bad = sorted(
        (s for s in judged.values() if s.metrics.truth_ml > 0 and (s.metrics.dice or 0) < _BAD_DICE),
        key=lambda s: (s.metrics.dice or 0, s.case, s.structure),
    )
    if not judged:
        return ""
    lines = [
        [
            s.case,
            _name(s),
            str(s.status),
            _down(s.metrics.dice),
            f"{s.metrics.truth_ml:.1f}",
            f"{s.metrics.found_ml:.1f}",
        ]
        for s in bad
    ]
    title = f"## Below a Dice of {_BAD_DICE} with automatic prompts: {len(bad)} of {len(judged)}\n"
    header = ["case", "structure", "status", "Dice", "truth ml", "found ml"]
    return "\n".join([title, _table(header, lines)] if lines else [title])


def _inventions(rows: _Rows) -> str:
    """What was annotated as nowhere in the image and found all the same."""
    lines = [
        [s.case, s.structure, _title(column), f"{s.metrics.found_ml:.1f}"]
        for column, found in rows.items()
        for s in found.values()
        if s.metrics.truth_ml == 0 and s.metrics.found_ml > 0
    ]
    if not lines:
        return ""
    header = ["case", "structure", "way of asking", "found ml"]
    return "\n".join(["## Found where there is none\n", _table(header, lines)])


def _case(outcome: CaseOutcome, scores: Iterable[Score]) -> str:
    mine = [s for s in scores if s.case == outcome.case]
    last = max((s.clicks or 0 for s in mine), default=0)
    shown = {None, *SHOWN_CLICKS, last}
    header = ["structure", "way of asking", "status", "confidence", "Dice", "surface Dice 2 mm", "HD95 mm"]
    header += ["truth ml", "found ml", "error ml", "error %", "cubes"]
    lines = []
    for s in mine:
        if s.clicks not in shown:
            continue
        m = s.metrics
        lines.append(
            [
                _name(s),
                _title((s.method, s.clicks)),
                str(s.status),
                "-" if s.confidence is None else f"{s.confidence:.2f}",
                _down(m.dice),
                _down(m.surface_dice),
                _up(m.hd95_mm),
                f"{m.truth_ml:.1f}",
                f"{m.found_ml:.1f}",
                f"{m.error_ml:+.1f}",
                "-" if m.error_percent is None else f"{m.error_percent:+.1f}",
                "-" if s.cubes is None else str(s.cubes),
            ]
        )
    seconds = f"{outcome.structures} structures in {outcome.seconds:.0f} s. * goes on beyond the image.\n"
    return "\n".join([f"## {outcome.case}\n", seconds, _table(header, lines)])


def _faults(outcomes: Iterable[CaseOutcome]) -> str:
    lines = [[o.case, o.fault] for o in outcomes if o.fault]
    return "\n".join(["## Not scored\n", _table(["case", "why"], lines)]) if lines else ""


def _missed(scores: Iterable[Score]) -> int:
    return sum(s.metrics.truth_ml > 0 and s.metrics.found_ml == 0 for s in scores)


def _absolute_percent(metrics: Metrics) -> float | None:
    return None if metrics.error_percent is None else abs(metrics.error_percent)


def _name(score: Score) -> str:
    return f"{score.structure} *" if score.truncated else score.structure


def _title(column: _Column) -> str:
    method, clicks = column
    if clicks is None:
        return str(method)
    count = f"{clicks} click{'s' if clicks != 1 else ''}"
    return count if method is Method.CLICKS else f"automatic, {count}"


def _down(value: Mean | float | None) -> str:
    """An overlap, cut off after three decimals."""
    number = value.value if isinstance(value, Mean) else value
    return "-" if number is None else f"{math.floor(number * 1000 + 1e-9) / 1000:.3f}"


def _signed_down(value: float) -> str:
    return f"{math.floor(value * 1000 + 1e-9) / 1000:+.3f}"


def _up(value: Mean | float | None) -> str:
    """A distance or an error, rounded up after one decimal."""
    number = value.value if isinstance(value, Mean) else value
    return "-" if number is None else f"{math.ceil(number * 10 - 1e-9) / 10:.1f}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would break a cell is escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
