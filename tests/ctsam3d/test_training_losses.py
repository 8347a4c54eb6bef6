"""Partial labels teach what they know and nothing else; the mask loss ignores what is unknown."""

import numpy as np
import pytest
import torch

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.training.cases import Case, known_classes
from ctsam3d.training.losses import mask_loss, partial_label_loss

LIVER, SPLEEN = CLASSES.index("liver"), CLASSES.index("spleen")


def _case(known: set[str]) -> Case:
    labels = np.zeros((4, 4, 4), dtype=np.uint8)
    labels[:2] = 1
    return Case("case", None, labels, None, {1: "liver"}, {}, frozenset(known), 3.0)


def _loss(logits: torch.Tensor, case: Case) -> float:
    labels = torch.from_numpy(case.labels.astype(np.int64))[None]
    return float(partial_label_loss(logits, labels, torch.from_numpy(case.allowed())[None]))


def _logits(top: int, bottom: int) -> torch.Tensor:
    logits = torch.zeros(1, len(CLASSES), 4, 4, 4)
    logits[:, top, :2] = 12
    logits[:, bottom, 2:] = 12
    return logits


def test_an_unknown_structure_may_be_predicted_where_nothing_is_labelled() -> None:
    only_liver = _case({"liver"})
    assert _loss(_logits(LIVER, 0), only_liver) == pytest.approx(
        _loss(_logits(LIVER, SPLEEN), only_liver), abs=1e-3
    )
    both = _case({"liver", "spleen"})
    assert _loss(_logits(LIVER, SPLEEN), both) > _loss(_logits(LIVER, 0), both) + 1


def test_a_labelled_voxel_must_be_what_its_label_says() -> None:
    case = _case({"liver"})
    assert _loss(_logits(SPLEEN, 0), case) > _loss(_logits(LIVER, 0), case) + 1


def test_what_lies_beyond_the_image_is_not_scored() -> None:
    case = _case({"liver", "spleen"})
    case.labels[2:] = 255
    assert _loss(_logits(LIVER, 0), case) == pytest.approx(_loss(_logits(LIVER, SPLEEN), case), abs=1e-3)


def test_a_vertebra_alone_is_not_the_spine_but_a_whole_labelling_is() -> None:
    assert "vertebrae" not in known_classes({"annotated": ["aorta", "vertebrae_T12"]})
    assert "vertebrae" in known_classes({"annotated": [f"vertebrae_L{i}" for i in range(1, 6)]})
    assert "vertebrae" in known_classes({"annotated": ["vertebrae"]})
    assert {"lung_left", "lung_right"} <= known_classes({"annotated": ["lung"]})
    # the duodenum is a structure of its own, and the small bowel whole without it
    assert known_classes({"annotated": ["small_bowel"]}) == {"small_bowel"}
    assert "spleen" in known_classes({})  # a TotalSegmentator label map names all it sees


def test_the_mask_loss_falls_with_the_error_and_ignores_the_unknown() -> None:
    truth = torch.zeros(1, 1, 4, 4, 4)
    truth[..., :2] = 1
    known = torch.ones_like(truth)
    good, bad = mask_loss(truth * 0.9 + 0.05, truth, known), mask_loss(1 - truth, truth, known)
    assert float(good) < 0.2 < float(bad)
    known[..., 2:] = 0
    assert float(mask_loss(torch.ones_like(truth), truth, known)) < 0.02
