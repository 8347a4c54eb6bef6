"""Masks that nobody clicked for: a CT in; what the localizer alone and what the whole segmenter answer out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctsam3d.imaging.resample import labels_to_source
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.prompting.prompt import COARSE_FACTOR, Prompt, PromptKind
from ctsam3d.segmentation.cover import covering_patches
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.segmenter import Segmenter
from ctsam3d.segmentation.stitch import Canvas, LabelMap


@dataclass(frozen=True, slots=True)
class Given:
    """A prompter that has its prompts already, so that two rows of a table start from the same ones.

    Attributes:
        given: the prompts of those structures that are there.
        structures: all that were looked for.
    """

    given: Mapping[str, Prompt]
    structures: tuple[str, ...]

    @property
    def kind(self) -> PromptKind:
        """Its prompts are the localizer's."""
        return PromptKind.LOCALIZER

    def prompts(self, grid: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        """The prompt of each structure that has one."""
        return {name: self.given[name] for name in structures if name in self.given}


def localized_and_refined(
    segmenter: Segmenter,
    prompts: Mapping[str, Prompt],
    volume: Volume,
    grid: Volume,
    structures: Sequence[str],
) -> tuple[StudySegmentation, StudySegmentation]:
    """What the localizer's masks alone come to on the source grid, and what `segment` answers.

    Args:
        segmenter: with its localizer.
        prompts: the localizer's.
        volume: on its own grid.
        grid: the same on the model grid.
        structures: out of the segmenter's.
    """
    refined = segmenter.segment(volume, structures, Given(prompts, tuple(structures)))
    return _coarse(segmenter, prompts, volume, grid, structures), refined


def _coarse(
    segmenter: Segmenter,
    prompts: Mapping[str, Prompt],
    volume: Volume,
    grid: Volume,
    structures: Sequence[str],
) -> StudySegmentation:
    """The coarse masks, interpolated and settled among each other as refined ones are."""
    label_map = LabelMap(grid.hu.shape)
    findings = {name: Finding(Status.ABSENT) for name in structures}
    ids = {name: label for label, name in enumerate(structures, 1) if name in prompts}
    for name, label in ids.items():
        coarse = prompts[name].coarse
        assert coarse is not None  # a localizer always gives one
        # the same part of the image that refining looks at, for what depends on it
        patches = covering_patches(name, coarse, segmenter.settings.reach_blocks)
        canvas = Canvas.around(coarse.probability, patches, grid.hu.shape, COARSE_FACTOR)
        assert canvas.coarse is not None
        probability = within_intensity(name, canvas.coarse, grid.hu[canvas.box])
        label_map.claim(label, canvas.box, probability, probability > 0.5)
        findings[name] = Finding(Status.COARSE, confidence=coarse.confidence)
    labels = labels_to_source(label_map.labels, grid.geometry, volume.geometry)
    return StudySegmentation(labels, ids, findings)
