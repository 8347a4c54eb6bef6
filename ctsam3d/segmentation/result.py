"""What segmenting a study gives: a label map on the source grid, and a finding for every structure asked for.

Imports no torch: whoever only measures or stores a result need not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctsam3d.outcome import Status
from ctsam3d.prompting.prompt import PromptKind
from ctsam3d.segmentation.confidence import Evidence


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one requested structure; None where a value is unknown.

    Attributes:
        status: ok, coarse or absent; truncation shows on the source grid only.
        reason: for a status that needs one.
        clicks: how many were made.
        confidence: the Dice to be expected of the mask, in [0, 1]; None where there is no mask.
        volume_soft_ml: sum of the probabilities.
        evidence: what the confidence rests on; None where there is no mask.
        prompter: who said where to look.
    """

    status: Status
    reason: str | None = None
    clicks: int = 0
    confidence: float | None = None
    volume_soft_ml: float | None = None
    evidence: Evidence | None = None
    prompter: PromptKind | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StudySegmentation:
    """Structures found in one volume.

    Attributes:
        labels: uint8 (z, y, x) on the volume's own grid; 0 is none of them.
        label_ids: name to label, of the structures that have voxels.
        findings: for every requested structure, found or not.
        seconds: per stage.
    """

    labels: NDArray[np.uint8]
    label_ids: Mapping[str, int]
    findings: Mapping[str, Finding]
    seconds: Mapping[str, float] = field(default_factory=dict)
