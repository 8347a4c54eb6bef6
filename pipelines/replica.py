"""The actor that holds the weights on its GPU or its cores: a row with a volume in, one with labels out."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.cohort.rows import Row, from_row, to_row
from pipelines.cohort.segment import segment
from pipelines.deadline import deadline
from pipelines.segmenters import SegmenterSource


class Replica:
    """Loads the weights once, in its constructor, and segments one series after another.

    Args:
        source: where the segmenter comes from.
        structures: names asked of every series.
        torch_threads: of this process; set before the first tensor, for replicas that share a machine.
        series_timeout_s: a series that takes longer costs the replica its life.
    """

    def __init__(
        self, source: SegmenterSource, structures: Sequence[str], torch_threads: int, series_timeout_s: float
    ) -> None:
        import torch

        torch.set_num_threads(torch_threads)
        self._structures = tuple(structures)
        self._series_timeout_s = series_timeout_s
        self._segmenter = source.load()

    def __call__(self, row: Row) -> Row:
        """Segment one series; one that has already stopped passes through."""
        with deadline(self._series_timeout_s):
            return to_row(segment(from_row(row), self._segmenter, self._structures))
