"""Segment one series: its volume in, labels on the source grid and a finding per requested structure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctsam3d.prompting.clicks import ClickPrompter
from ctsam3d.prompting.prompt import Prompter
from pipelines.cohort.work import Work, guarded
from pipelines.segmenters import Segmenter


def segment(work: Work, segmenter: Segmenter, structures: Sequence[str]) -> Work:
    """Run the segmenter, which prepares the model's grid, finds prompts and follows each structure.

    What somebody said of the series goes before what the segmenter finds by itself; where it cannot be of this series,
    the series is refused.
    The seconds of its own stages join the trace beside the whole, which is named `segment`.
    """

    def step(work: Work) -> Work:
        assert work.volume is not None
        prompter = _prompter(work)
        found = segmenter.segment(work.volume, structures, *([prompter] if prompter else []))
        if found.labels.shape != work.volume.geometry.shape_zyx:
            raise ValueError(f"labels of shape {found.labels.shape} on {work.volume.geometry.shape_zyx}")
        if missing := [name for name in structures if name not in found.findings]:
            raise ValueError(f"no finding for {missing}")
        for stage, seconds in found.seconds.items():
            work = work.spent(stage, seconds)
        return replace(work, segmentation=found, labels=None)

    return guarded("segment_total", step, work)


def _prompter(work: Work) -> Prompter | None:
    """Who says where structures are; None where nobody did. Raises PromptError."""
    if work.prompts is None:
        return None
    if work.prompts.clicks:
        return ClickPrompter(work.prompts.clicks)
    from ctsam3d.prompting.mask import MaskPrompter  # brings torch, which only replicas have in memory

    assert work.labels is not None and work.facts is not None
    prompter = MaskPrompter(work.labels)
    prompter.check_study(work.facts.series_instance_uid, work.facts.frame_of_reference_uid)
    return prompter
