"""The stages one after the other in this process, without Ray: pending rows in, records and outcomes out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from ctsam3d.network.allocator import keep_freed_memory
from pipelines.cohort.commit import Outcome
from pipelines.cohort.job import Job
from pipelines.cohort.rows import Row


def compute(job: Job, pending: Iterable[Row], stop: threading.Event) -> Iterator[Outcome]:
    """Compute series one by one until told to stop.

    A series that goes over its budget ends this process; the run, started again, counts that attempt.
    """
    segmenter = None
    for row in pending:
        if stop.is_set():
            return
        if segmenter is None:
            keep_freed_memory()
            segmenter = job.segmenter.load()
        yield job.commit(job.segment(job.load(row), segmenter))
