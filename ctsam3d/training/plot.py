"""Draw how a training went: the CSV logs of a run folder in, one PNG out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SMOOTHED_OVER = 50  # steps
_NOT_DRAWN = {"step", "seconds", "norm", "rounds"}


def plot_run(folder: Path, out: Path) -> None:
    """Losses and validation figures over steps, and steps per second.

    Raises:
        FileNotFoundError: the folder holds no `log.csv`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    log = _columns(folder / "log.csv")
    validation = folder / "validation.csv"
    held = _columns(validation) if validation.exists() else {}
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, values in log.items():
        if name == "loss":
            left.plot(log["step"], _smooth(values), label="training, mean of 50 steps")
        elif name not in _NOT_DRAWN:
            middle.plot(log["step"], _smooth(values), label=f"{name}, training", alpha=0.5)
    for name, values in held.items():
        if name != "step":
            place = left if name == "loss" else middle
            place.plot(held["step"], values, "o-", markersize=3, label=f"{name}, cases left out")
    # seconds start anew whenever a run is resumed
    spent = np.diff(log["seconds"], prepend=0.0)
    spent = np.where(spent < 0, log["seconds"], spent)
    right.plot(log["step"], 1 / np.maximum(_smooth(spent), 1e-3))
    for place, title in ((left, "loss"), (middle, "Dice and the like"), (right, "steps per second")):
        place.set_title(title)
        place.set_xlabel("step")
        place.grid(alpha=0.3)
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(str(out))


def _columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Numbers of a CSV file by column."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else {})}


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running means over what came before; values that are none are left out."""
    known = np.isfinite(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known)
    lag = min(_SMOOTHED_OVER, len(values))
    sums[lag:], counts[lag:] = sums[lag:] - sums[:-lag], counts[lag:] - counts[:-lag]
    smooth: NDArray[np.float64] = sums / np.maximum(counts, 1)
    return smooth
