"""Seconds a study through `ctsam3d run`, against the same studies one after the other in one process, weights warm.

What counts is the slope: seconds of a run of many studies less those of a run of few, over the difference. The few have
been paid for the start of the cluster, the weights, the publication.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, against
from benchmarks.studies import ABDOMEN, copies


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--studies", nargs=2, type=int, default=[2, 6], help="studies of the short and the long run"
    )


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    few, many = chosen.studies
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copies(ABDOMEN, root / "few", few)
        copies(ABDOMEN, root / "many", many, first=few)
        seconds = {"few": {}, "many": {}}  # type: dict[str, dict[str, float]]
        for size in ("few", "many"):
            for name, how in (("plain loop", ["--in-process"]), ("on Ray", [])):
                seconds[size][name] = _run(root, size, name, how, chosen.structures)
    slopes = {name: (seconds["many"][name] - seconds["few"][name]) / (many - few) for name in seconds["few"]}
    starts = {name: seconds["few"][name] - few * slopes[name] for name in slopes}
    label = f"{few} and {many} studies, "
    yield from [
        *against("cohort", slopes, "s/study", "plain loop", label + "slope, "),
        *against("cohort", starts, "s", "plain loop", label + "start and publication, "),
    ]


def _run(root: Path, size: str, name: str, how: list[str], structures: str) -> float:
    """Wall seconds of a run in a process of its own."""
    output = root / f"{size} {name}"
    command = [sys.executable, "-m", "benchmarks.one_run", str(root / size), str(output), structures, *how]
    started = time.perf_counter()
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - started
