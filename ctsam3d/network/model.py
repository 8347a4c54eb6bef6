"""Cubes and clicks -> masks: the whole network, three calls that share no state.

Tensors are (batch, channel, z, y, x); clicks are (x, y, z) in voxels of the cube.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctsam3d.network import click_maps, cross_patch
from ctsam3d.network.config import CUBE_VOXELS, NetworkConfig
from ctsam3d.network.image_encoder import ImageEncoder
from ctsam3d.network.mask_decoder import MaskDecoder


class Embeddings(NamedTuple):
    """What the decoder needs of B cubes, (B, C, s, s, s) with s = 16, 8, 4 and 2."""

    stage1: Tensor
    stage2: Tensor
    stage3: Tensor
    stage4: Tensor

    def take(self, cubes: Tensor | list[int]) -> "Embeddings":
        """The embeddings of these cubes of the batch, in this order, repeats allowed."""
        index = torch.as_tensor(cubes, dtype=torch.long, device=self.stage1.device)
        return Embeddings(*(stage.index_select(0, index) for stage in self))


class _PositionalLayer(nn.Module):
    """Holds a matrix that is part of the published weights and of no computation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(3, features))


class _PromptEncoder(nn.Module):
    """Names the unused matrix as published weights do; the prompt maps themselves have no weights."""

    def __init__(self, features: int) -> None:
        super().__init__()
        if features:
            self.pe_layer = _PositionalLayer(features)


class CtSam3d(nn.Module):
    """The promptable network of arXiv 2403.15063.

    In evaluation mode every sample's result depends on that sample alone, whatever else is in the batch.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = _PromptEncoder(config.positional_features)
        self.mask_decoder = MaskDecoder(config)
        self.cpp_predictor = cross_patch.build(config)

    def embed(self, cubes: Tensor) -> Embeddings:
        """Encode cubes (B, C, 64, 64, 64), each channel a window of HU scaled to [0, 1].

        Raises:
            ValueError: another shape.
        """
        self._check_cubes("cubes", cubes, self.config.channels)
        return Embeddings(*self.image_encoder(cubes))

    def decode(
        self,
        embeddings: Embeddings,
        clicks_xyz: Tensor,
        labels: Tensor,
        previous_mask: Tensor | None = None,
    ) -> Tensor:
        """Segment what is clicked on: float32 probabilities (B, 1, 64, 64, 64); the mask is > 0.5.

        Args:
            embeddings: of B cubes.
            clicks_xyz: (B, N, 3) voxels of the cube; those outside count as the nearest voxel inside.
            labels: (B, N) 1 positive, 0 negative, -1 no click (to fill up rows with fewer clicks).
            previous_mask: probabilities (B, 1, 64, 64, 64) of an earlier answer to be corrected.

        Raises:
            ValueError: shapes do not match, a click is not finite, a label is unknown.
        """
        return self.decode_logits(embeddings, clicks_xyz, labels, previous_mask).sigmoid()

    def decode_logits(
        self,
        embeddings: Embeddings,
        clicks_xyz: Tensor,
        labels: Tensor,
        previous_mask: Tensor | None = None,
    ) -> Tensor:
        """As `decode`, before the sigmoid: float32 (B, 1, 64, 64, 64), for losses."""
        features = self._features(embeddings, clicks_xyz, labels, previous_mask)
        return self.mask_decoder.mask_logits(features).float()

    def decode_with_quality(
        self,
        embeddings: Embeddings,
        clicks_xyz: Tensor,
        labels: Tensor,
        previous_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, with the quality head's output (B, 1), which no published loss has trained."""
        features = self._features(embeddings, clicks_xyz, labels, previous_mask)
        probabilities = self.mask_decoder.mask_logits(features).float().sigmoid()
        return probabilities, self.mask_decoder.quality(features).float()

    def propose_click(self, cube: Tensor, mask: Tensor, neighbour: Tensor) -> Tensor:
        """Say where to click in a neighbouring cube: a heat map (B, 1, 64, 64, 64) in the neighbour's frame.

        Args:
            cube: (B, C, 64, 64, 64), as for `embed`.
            mask: (B, 1, 64, 64, 64) probabilities in the cube; only whether they exceed 0.5 counts.
            neighbour: like cube.

        Raises:
            ValueError: shapes do not match.
        """
        self._check_cubes("cube", cube, self.config.channels)
        self._check_cubes("mask", mask, 1, len(cube))
        self._check_cubes("neighbour", neighbour, self.config.channels, len(cube))
        heat: Tensor = self.cpp_predictor(cross_patch.stack(cube, mask, neighbour))
        return heat.float()

    def _features(
        self, embeddings: Embeddings, clicks_xyz: Tensor, labels: Tensor, previous_mask: Tensor | None
    ) -> Tensor:
        deepest = embeddings[-1]
        if len(clicks_xyz) != len(deepest):
            raise ValueError(f"clicks for {len(clicks_xyz)} cubes with embeddings of {len(deepest)}")
        clicks = click_maps.draw(clicks_xyz, labels, CUBE_VOXELS, deepest.device).to(deepest.dtype)
        if previous_mask is None:
            previous_mask = torch.zeros_like(clicks[:, :1])
        self._check_cubes("previous mask", previous_mask, 1, len(deepest))
        prompts = torch.cat([previous_mask.to(deepest), clicks], 1)
        return self.mask_decoder.features(embeddings, prompts)

    @staticmethod
    def _check_cubes(name: str, tensor: Tensor, channels: int, batch: int | None = None) -> None:
        side = CUBE_VOXELS
        expected = (len(tensor) if batch is None and tensor.ndim else batch, channels, side, side, side)
        if tuple(tensor.shape) != expected:
            raise ValueError(f"expected {name} of shape {expected}, found {tuple(tensor.shape)}")
