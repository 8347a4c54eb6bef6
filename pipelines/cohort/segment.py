"""Segment one series: its volume in, labels on the source grid and a finding per requested structure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.cohort.work import Work, guarded
from pipelines.segmenters import Segmenter


def segment(work: Work, segmenter: Segmenter, structures: Sequence[str]) -> Work:
    """Run the segmenter, which prepares the model's grid, finds prompts and follows each structure.

    The seconds of its own stages join the trace beside the whole, which is named `segment`.
    """

    def step(work: Work) -> Work:
        assert work.volume is not None
        found = segmenter.segment(work.volume, structures)
        if found.labels.shape != work.volume.geometry.shape_zyx:
            raise ValueError(f"labels of shape {found.labels.shape} on {work.volume.geometry.shape_zyx}")
        if missing := [name for name in structures if name not in found.findings]:
            raise ValueError(f"no finding for {missing}")
        for stage, seconds in found.seconds.items():
            work = work.spent(stage, seconds)
        return replace(work, segmentation=found)

    return guarded("segment_total", step, work)
