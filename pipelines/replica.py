"""The actor that holds the weights on its GPU or its cores: a row with a volume in, one with labels out."""

from __future__ import annotations

from collections.abc import Callable

from ctsam3d.network.allocator import keep_freed_memory
from pipelines import worker
from pipelines.cohort.job import Job
from pipelines.cohort.rows import Row


class Replica:
    """Loads the weights once, in its constructor, and segments one series after another.

    Args:
        job: the run.
        threads: that the segmenter may compute with; replicas share a machine.
        admits: whether a series, by its key, may still begin.
    """

    def __init__(self, job: Job, threads: int, admits: Callable[[str], bool]) -> None:
        worker.prepare()
        keep_freed_memory()
        self._job = job
        self._admits = admits
        self._segmenter = job.segmenter.load(threads)

    def __call__(self, row: Row) -> Row:
        """Segment one series; one that has already stopped passes through."""
        return self._job.segment(row, self._segmenter, self._admits)
