"""Losses on partial labels and on clicked masks: predictions and what is known of the truth in, one number out."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def partial_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, allowed: torch.Tensor, voxels: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy on the sum of the allowed classes, plus Dice where a class is determined.

    Args:
        logits: (B, C, z, y, x).
        labels: int64 (B, z, y, x) label ids.
        allowed: bool (B, 256, C), the classes that a voxel of each label id may belong to; all False: not scored.
        voxels: int64 (n,), the voxels to score, of z * y * x; all by default. A random third costs a third.
    """
    scores, flat = logits.float().flatten(2), labels.flatten(1)
    if voxels is not None:
        scores, flat = scores[:, :, voxels], flat[:, voxels]
    log_p = F.log_softmax(scores, dim=1)
    may_be = torch.stack([table[ids].T for table, ids in zip(allowed, flat, strict=True)])  # (B, C, n)
    scored = may_be.any(dim=1)
    log_allowed = torch.logsumexp(log_p.masked_fill(~may_be, -1e4), dim=1)
    cross_entropy = -(log_allowed * scored).sum() / scored.sum().clamp(min=1)

    only = may_be.sum(dim=1, keepdim=True) == 1
    target = (may_be & only).float()
    determined = ((~may_be) | only) & scored[:, None]
    p = log_p.exp() * determined
    overlap = (p * target).sum(-1)
    total = (p + target).sum(-1)
    present = target.sum(-1) > 0
    present[:, 0] = False  # the background has no shape to match
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return cross_entropy + (dice * present).sum() / present.sum().clamp(min=1)


def mask_loss(probabilities: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The published mask loss: 0.2 focal (alpha 0.8, gamma 2) + 0.8 Dice, over the known voxels.

    All arguments are (B, 1, z, y, x); `truth` and `known` are 0 or 1.
    """
    p = probabilities.float().clamp(1e-6, 1 - 1e-6)
    p_true = torch.where(truth > 0.5, p, 1 - p)
    alpha = torch.where(truth > 0.5, 0.8, 0.2)
    focal = -(alpha * (1 - p_true) ** 2 * p_true.log() * known).flatten(1).sum(1) / known.flatten(1).sum(
        1
    ).clamp(min=1)
    p, truth = p * known, truth * known
    overlap = (p * truth).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (p.flatten(1).sum(1) + truth.flatten(1).sum(1) + 1)
    return (0.2 * focal + 0.8 * dice).mean()
