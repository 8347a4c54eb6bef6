"""Draw an evaluation: scores in, a curve of Dice over clicks and a sheet of the worst masks out, as PNG."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.overlay import grey_of
from ctsam3d.evaluation.metrics import union_box
from ctsam3d.evaluation.score import CLICKED, Method, Score, Scored
from ctsam3d.imaging.orientation import canonical_geometry, to_canonical
from ctsam3d.imaging.volume import Volume

_MARGIN_MM = 30.0
_TITLES = {Method.CLICKS: "clicks alone", Method.CORRECTED: "clicks on the automatic mask"}
_TRUE, _FOUND = "#2fd35b", "#ff4040"


def draw_curve(scores: Sequence[Score], path: Path) -> None:
    """Mean Dice over the number of clicks, alone and on automatic masks, with the curve of every target.

    A target on which nothing was left to correct keeps its last value, so that all means are of the same targets.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = [m for m in CLICKED if any(s.method is m for s in scores)]
    counts = np.arange(max(s.clicks or 0 for s in scores) + 1)
    figure = Figure(figsize=(6 * len(methods) + 1, 5), layout="constrained")
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        curves = _curves(scores, method)
        values = np.array([[*curve, *[curve[-1]] * (len(counts) - len(curve))] for curve in curves])
        axes.plot(counts, values.T, color="0.8", linewidth=0.8)
        axes.plot(counts, values.mean(axis=0), "o-", color="C0", label=f"clicks, mean of {len(curves)}")
        for asked, colour in ((Method.LOCALIZER, "C1"), (Method.AUTOMATIC, "C2")):
            dice = [s.metrics.dice or 0.0 for s in scores if s.method is asked and s.metrics.truth_ml > 0]
            if dice:
                label = f"{asked}, no click, mean of {len(dice)}"
                axes.axhline(float(np.mean(dice)), color=colour, linestyle="--", label=label)
        axes.set(title=_TITLES[method], xlabel="clicks", ylabel="Dice", ylim=(0, 1), xticks=counts)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    FigureCanvasAgg(figure).print_png(str(path))


def _curves(scores: Sequence[Score], method: Method) -> list[list[float]]:
    """Dice of each target of each case after 0, 1, 2, ... clicks."""
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for score in scores:
        if score.method is method and score.clicks is not None:
            curves.setdefault((score.case, score.structure), {0: 0.0})[score.clicks] = (
                score.metrics.dice or 0.0
            )
    if method is Method.CORRECTED:  # begins as the automatic mask
        for score in scores:
            if score.method is Method.AUTOMATIC and (curve := curves.get((score.case, score.structure))):
                curve[0] = score.metrics.dice or 0.0
    return [[dice for _, dice in sorted(curve.items())] for curve in curves.values()]


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """One plane around a target, grey (rows, columns) in 0..1, with the masks and the height of a row in columns."""

    name: str
    grey: NDArray[np.float32]
    truth: NDArray[np.bool_]
    found: NDArray[np.bool_]
    aspect: float
    upright: bool


class Worst:
    """The masks that were furthest from the truth so far; holds planes of them, not volumes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[tuple[float, int, Score, list[_Plane]]] = []  # a heap, the best of them first
        self._considered = 0

    def consider(self, volume: Volume, scored: Scored) -> None:
        """Keep a mask's planes if it is among the worst.

        Args:
            volume: the case's image.
            scored: masks on the grid of it.
        """
        dice = scored.score.metrics.dice
        self._considered += 1
        if dice is None or self.most == 0 or (len(self._kept) == self.most and -dice <= self._kept[0][0]):
            return
        entry = (-dice, -self._considered, scored.score, _planes(volume, scored))
        (heapq.heappush if len(self._kept) < self.most else heapq.heapreplace)(self._kept, entry)

    def draw(self, path: Path) -> bool:
        """A sheet with a row for each, worst first; False, and no file, if there is none."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if not self._kept:
            return False
        figure = Figure(figsize=(12, 3.6 * len(self._kept)), facecolor="black", layout="constrained")
        # the sheet's own line is a row too: titles of rows and of the sheet would lie on each other
        heights = [0.15, *[3.6] * len(self._kept)]
        heading, *rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        heading.set_facecolor("black")
        heading.suptitle(
            "green: truth, red: found; the patient's left is on the right", color="white", fontsize=9
        )
        for row, (_, _, score, planes) in zip(rows, sorted(self._kept, reverse=True), strict=True):
            row.set_facecolor("black")
            metrics = score.metrics
            row.suptitle(
                f"{score.case}  {score.structure}  {score.method}, {score.status}: Dice {metrics.dice:.2f}, "
                f"{metrics.found_ml:.0f} of {metrics.truth_ml:.0f} ml",
                color="white", fontsize=9, x=0.01, ha="left",
            )  # fmt: skip
            for place, plane in zip(row.subplots(1, 3), planes, strict=True):
                origin = "upper" if plane.upright else "lower"
                place.imshow(plane.grey, cmap="gray", vmin=0, vmax=1, origin=origin, aspect=plane.aspect)
                for mask, colour in ((plane.truth, _TRUE), (plane.found, _FOUND)):
                    if mask.any() and not mask.all():
                        place.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
                place.set_title(plane.name, color="white", fontsize=8, loc="right")
                place.axis("off")
        FigureCanvasAgg(figure).print_png(str(path))
        return True


def _planes(volume: Volume, scored: Scored) -> list[_Plane]:
    """The axial, coronal and sagittal plane in which most is wrong, around both masks."""
    geometry = volume.geometry
    spacing = canonical_geometry(geometry).spacing_xyz_mm[::-1]
    truth, found = (to_canonical(mask, geometry) for mask in (scored.truth, scored.found))
    box = union_box(truth, found, margin=round(_MARGIN_MM / min(spacing)))
    assert box is not None  # else there were no Dice
    truth, found, hu = truth[box], found[box], to_canonical(volume.hu, geometry)[box]
    wrong, planes = truth != found, []
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        others = tuple(i for i in range(3) if i != axis)
        index = int(wrong.sum(axis=others).argmax())
        grey = grey_of(np.take(hu, index, axis))
        aspect = spacing[others[0]] / spacing[others[1]]
        true, mine = np.take(truth, index, axis).copy(), np.take(found, index, axis).copy()
        planes.append(_Plane(name, grey, true, mine, aspect, upright=axis == 0))
    return planes
