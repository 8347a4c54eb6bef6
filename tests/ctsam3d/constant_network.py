"""A segmenter whose network answers every click with the same probability: what strays from any prompt."""

from __future__ import annotations

import torch
from torch import nn

from ctsam3d.network.model import Embeddings
from ctsam3d.segmentation.segmenter import Segmenter


class _Constant(nn.Module):
    """Answers every click with the same probability."""

    def __init__(self, like: nn.Module, value: float) -> None:
        super().__init__()
        self.config, self.value = like.config, value

    def embed(self, cubes: torch.Tensor) -> Embeddings:
        return Embeddings(cubes, cubes, cubes, cubes)

    def decode(self, embeddings: Embeddings, *prompts: torch.Tensor) -> torch.Tensor:
        return torch.full((len(embeddings.stage1), 1, 64, 64, 64), self.value)


def with_constant(segmenter: Segmenter, value: float) -> Segmenter:
    model = _Constant(segmenter.model, value)
    return Segmenter(
        model, segmenter.localizer, torch.device("cpu"), "0" * 64, {"coarse_prompt": True}, segmenter.settings
    )
