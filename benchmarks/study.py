"""Seconds of a whole study by stage, from files to the bytes of its record."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from benchmarks.figures import CLOCKS, Clock, Figure
from benchmarks.studies import ABDOMEN, CHEST
from ctsam3d.imaging.dicom import read_folder
from ctsam3d.network.precision import Precision
from ctsam3d.segmentation.segmenter import Segmenter, Settings
from pipelines.cohort.measure import structure_rows
from pipelines.records import Record, encode_record
from pipelines.store import open_store
from tests.pipelines.outputs import make_run, series_ref

STUDIES = {"chest": CHEST, "abdomen": ABDOMEN}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", default="abdomen", choices=list(STUDIES), help="a bundled study")
    parser.add_argument("--structures", default="liver,spleen,kidney_left,kidney_right,aorta,stomach,colon",
                        help='names, or "all"')  # fmt: skip


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    clock, ref = CLOCKS[chosen.clock], series_ref(1)
    provenance = make_run([ref]).provenance(ref)
    settings = {"": Settings(), " float32": Settings(precision=Precision.FLOAT32)}
    segmenters = {name: Segmenter.load(settings=value) for name, value in settings.items()}
    if segmenters[""].settings.precision is Precision.FLOAT32:
        del segmenters[" float32"]
    known = segmenters[""].structures
    structures = known if chosen.structures == "all" else tuple(chosen.structures.split(","))
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in segmenters}
    with tempfile.TemporaryDirectory() as folder:
        output = open_store(str(Path(folder) / "out"), create=True)
        for turn in range(chosen.repeats + 1):
            for name, segmenter in segmenters.items():
                seconds: dict[str, float] = {}
                started = clock()
                volume = read_folder(STUDIES[chosen.study]).volume
                started = _lap(seconds, "read and decode", started, clock)
                with patch("time.monotonic", clock):  # by which the segmenter times its own stages
                    found = segmenter.segment(volume, structures)
                started = clock()
                seconds |= found.seconds
                rows = structure_rows(volume, found, structures)
                started = _lap(seconds, "measure and encode", started, clock)
                record = Record(ref.series_row(), rows, provenance)
                output.put_if_absent(f"records/{turn}{name}", encode_record(record))
                _lap(seconds, "write", started, clock)
                for stage, value in seconds.items() if turn else ():
                    stages[name].setdefault(stage, []).append(value)
    for name, found_stages in stages.items():
        medians = {stage: statistics.median(values) for stage, values in found_stages.items()}
        whole = sum(medians.values())
        label = f"{chosen.study}, {len(structures)} structures{name}"
        yield Figure("study", f"{label}: whole", whole, "s")
        for stage, value in medians.items():
            yield Figure("study", f"{label}: {stage}", value, "s", value / whole, "whole")


def _lap(seconds: dict[str, float], stage: str, started: float, clock: Clock) -> float:
    now = clock()
    seconds[stage] = now - started
    return now
