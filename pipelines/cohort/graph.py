"""The Ray Data graph: pending rows of a manifest in, one committed record per series and a stream of outcomes out.

    read_parquet -> one series per block -> load (tasks) -> Replica (actors) -> measure, commit (tasks) -> outcomes

The only module that knows Ray. Tasks and replicas take different shares of a machine, or Ray would fuse decoding into the
actor that holds the GPU; replicas never take every CPU, or nothing would feed them; every retry and every wait is finite.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Before Ray is imported: no usage reports, no C++ log lines on the terminal.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

import ray
import ray.data
from ray.exceptions import RayError

from ctsam3d.imaging.dicom import Limits
from pipelines.cohort.commit import Stamp, commit
from pipelines.cohort.load import load
from pipelines.cohort.measure import measure
from pipelines.cohort.rows import Row, from_row, to_row
from pipelines.cohort.shape import Node, ReplicaShape, logical_cpus, replica_shape
from pipelines.cohort.work import Work
from pipelines.config import Resources
from pipelines.manifest import SeriesRef
from pipelines.replica import Replica
from pipelines.segmenters import SegmenterSource
from pipelines.store import Store

_SPARE_CPU_SHARE = 0.125  # reading the manifest: next to nothing, but Ray's default is a whole CPU


class GraphStopped(Exception):
    """The graph ended before its series did; what is committed stays. The message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every task and replica of a run must know.

    Attributes:
        source: where the series' objects are.
        output: where records go.
        segmenter: recipe of the segmenter.
        structures: names asked of every series.
        limits: what a series may weigh.
        stamp: what the records say of their making.
        resources: how the cluster is used.
    """

    source: Store
    output: Store
    segmenter: SegmenterSource
    structures: tuple[str, ...]
    limits: Limits
    stamp: Stamp
    resources: Resources
