"""Seconds of a whole study by stage, from files to the bytes of its record.

On another device than the CPU, both are timed in turn up to the label map, and the maps compared: what follows is the
same on any machine, and what only a cohort needs is not asked for there.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.figures import Clock, Figure, clock_on
from benchmarks.studies import ABDOMEN, CHEST
from ctsam3d.imaging import device_resample
from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.volume import Volume
from ctsam3d.network.allocator import keep_freed_memory
from ctsam3d.network.precision import Precision
from ctsam3d.segmentation.result import StudySegmentation
from ctsam3d.segmentation.segmenter import Segmenter, Settings

STUDIES = {"chest": CHEST, "abdomen": ABDOMEN}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", default="abdomen", choices=list(STUDIES), help="a bundled study")
    parser.add_argument("--structures", default="liver,spleen,kidney_left,kidney_right,aorta,stomach,colon",
                        help='names, or "all"')  # fmt: skip


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    keep_freed_memory()
    clock = clock_on(chosen.clock, chosen.device)
    segmenters = _segmenters(chosen.device)
    known = next(iter(segmenters.values())).structures
    structures = known if chosen.structures == "all" else tuple(chosen.structures.split(","))
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in segmenters}
    maps: dict[str, StudySegmentation] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch("time.monotonic", clock))  # by which the segmenter times its own stages
        if importlib.util.find_spec("SimpleITK") is None:
            stack.enter_context(patch("ctsam3d.imaging.resample._resampled", _resampled))
        for turn in range(chosen.repeats + 1):
            for name, segmenter in segmenters.items():
                seconds: dict[str, float] = {}
                started = clock()
                volume = read_folder(STUDIES[chosen.study]).volume
                _lap(seconds, "read and decode", started, clock)
                maps[name] = segmenter.segment(volume, structures)
                seconds |= maps[name].seconds
                if chosen.device == "cpu":
                    _record(folder / f"{turn}{name}", volume, maps[name], structures, seconds, clock)
                for stage, value in seconds.items() if turn else ():
                    stages[name].setdefault(stage, []).append(value)
    for name, found_stages in stages.items():
        medians = {stage: statistics.median(values) for stage, values in found_stages.items()}
        whole = sum(medians.values())
        label = f"{chosen.study}, {len(structures)} structures{name}"
        yield Figure("study", f"{label}: whole", whole, "s")
        for stage, value in medians.items():
            yield Figure("study", f"{label}: {stage}", value, "s", value / whole, "whole")
    if chosen.device != "cpu":
        *others, base = maps
        for name in others:
            yield from _agreement(f"{chosen.study},{name} and{base}: ", maps[name], maps[base])
            yield Figure("study", f"cubes at a time,{name}", segmenters[name].cubes_at_a_time, "")


def _segmenters(device: str) -> dict[str, Segmenter]:
    """Those to be timed in turn, the one to compare with last."""
    exact = Settings(precision=Precision.FLOAT32)
    fastest = Segmenter.load(device=device)
    if device != "cpu":
        float32 = "float32, TF32 in convolutions" if torch.backends.cudnn.allow_tf32 else "float32"
        return {
            f" {device} {fastest.settings.precision}": fastest,
            f" {device} {float32}": Segmenter.load(device=device, settings=exact),
            " cpu float32": Segmenter.load(device="cpu", settings=exact),
        }
    if fastest.settings.precision is Precision.FLOAT32:
        return {"": fastest}
    return {"": fastest, " float32": Segmenter.load(device=device, settings=exact)}


def _resampled(stored: NDArray[np.generic], *grids: object, nearest: bool = False) -> NDArray[np.generic]:
    """On the CPU as on a GPU, where SimpleITK, which is quicker there, is not installed."""
    how = device_resample.nearest if nearest else device_resample.linear
    return how(stored, *grids, torch.device("cpu"))  # type: ignore[arg-type, call-arg]


def _record(
    folder: Path, volume: Volume, found: StudySegmentation, structures: Sequence[str],
    seconds: dict[str, float], clock: Clock,
) -> None:  # fmt: skip
    """Measure a study, encode its record and write it."""
    # here: a machine that only has what `ctsam3d` needs can time all that comes before
    from pipelines.cohort.measure import structure_rows
    from pipelines.records import Record, encode_record
    from pipelines.store import open_store
    from tests.pipelines.outputs import make_run, series_ref

    ref = series_ref(1)
    provenance = make_run([ref]).provenance(ref)
    output = open_store(str(folder), create=True)
    started = clock()
    rows = structure_rows(volume, found, structures)
    started = _lap(seconds, "measure and encode", started, clock)
    output.put_if_absent("records/1", encode_record(Record(ref.series_row(), rows, provenance)))
    _lap(seconds, "write", started, clock)


def _agreement(label: str, found: StudySegmentation, base: StudySegmentation) -> Iterator[Figure]:
    """How far two label maps of one study are apart."""
    dice = []
    for name in found.label_ids.keys() | base.label_ids.keys():
        mine, theirs = (s.labels == s.label_ids.get(name, 255) for s in (found, base))
        dice.append(2 * int((mine & theirs).sum()) / (int(mine.sum()) + int(theirs.sum())))
    statuses = [found.findings[name].status is base.findings[name].status for name in base.findings]
    yield Figure("study", f"{label}worst Dice of {len(dice)} structures", min(dice, default=1.0), "")
    labelled = [_named(s) for s in (found, base)]
    share = np.count_nonzero(labelled[0] != labelled[1]) / max(1, np.count_nonzero(labelled[1]))
    yield Figure("study", f"{label}differing voxels", share, "", share, "labelled ones")
    yield Figure("study", f"{label}statuses that differ", statuses.count(False), "")


def _named(found: StudySegmentation) -> NDArray[np.uint8]:
    """A label map by the order in which structures were asked for, whichever of them were found."""
    order = {name: n for n, name in enumerate(found.findings, 1)}
    table = np.zeros(256, dtype=np.uint8)
    for name, label in found.label_ids.items():
        table[label] = order[name]
    return table[found.labels]


def _lap(seconds: dict[str, float], stage: str, started: float, clock: Clock) -> float:
    now = clock()
    seconds[stage] = now - started
    return now
