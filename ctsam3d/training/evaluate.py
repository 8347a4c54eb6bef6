"""Score weights on labelled cases: case folders in, Dice of the coarse and of the refined mask per structure out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import BACKGROUND, classes_of
from ctsam3d.imaging.nifti import read_labels, read_volume
from ctsam3d.segmentation.segmenter import Segmenter, Settings


@dataclass(frozen=True, slots=True)
class Score:
    """Dice of one structure in one case; None where a mask was wanted and none was found."""

    case: str
    structure: str
    truth_ml: float
    coarse: float
    refined: float
    refined_ml: float
    status: str


def evaluate(cases: Sequence[Path], weights: str) -> list[Score]:
    """Every annotated structure of every case, that the weights know, on the case's own grid."""
    refining = Segmenter.load(weights)
    # a refinement that can never be like the coarse mask leaves the coarse one
    coarse_only = Segmenter.load(weights, settings=Settings(least_dice=1.1))
    scores = []
    for case in cases:
        volume = read_volume(case / "ct.nii.gz")
        labels, geometry = read_labels(case / "labels.nii.gz")
        if not geometry.is_close(volume.geometry):
            raise ValueError(f"{case.name}: expected labels on the image's grid, found another")
        truths = _truths(json.loads((case / "labels.json").read_text()), labels)
        refined, coarse = (s.segment(volume, tuple(truths)) for s in (refining, coarse_only))
        for name, truth in truths.items():
            mask = refined.labels == refined.label_ids.get(name, -1)
            scores.append(
                Score(
                    case.name, name, float(truth.sum() * geometry.voxel_volume_ml),
                    dice(coarse.labels == coarse.label_ids.get(name, -1), truth), dice(mask, truth),
                    float(mask.sum() * geometry.voxel_volume_ml), refined.findings[name].status.value,
                )
            )  # fmt: skip
    return scores


def dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 if both are empty."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def _truths(document: dict[str, object], labels: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Annotated structures as the localizer names them; parts of one structure are joined."""
    names, annotated = document["labels"], document.get("annotated")
    assert isinstance(names, dict)
    truths: dict[str, NDArray[np.bool_]] = {}
    for label, name in names.items():
        classes = classes_of(name)
        if (
            len(classes) != 1
            or BACKGROUND in classes
            or (isinstance(annotated, list) and name not in annotated)
        ):
            continue
        mask = labels == int(label)
        truths[classes[0]] = truths[classes[0]] | mask if classes[0] in truths else mask
    return truths


def print_table(scores: Sequence[Score]) -> None:
    """A Markdown table of scores on stdout."""
    print("| case | structure | truth ml | refined ml | Dice coarse | Dice refined | status |")
    print("|---|---|---|---|---|---|---|")
    for s in scores:
        print(
            f"| {s.case} | {s.structure} | {s.truth_ml:.1f} | {s.refined_ml:.1f} | {s.coarse:.3f} | {s.refined:.3f} "
            f"| {s.status} |"
        )
