"""Weights on a device -> the fastest decoder that answers as float32 does, tried on real cubes.

bfloat16 is taken where the hardware multiplies it faster and the weights bear it: on a few bundled cubes, as a first
prompt and as a correction of the answer, no probability and no mask may move by more than the limits below. Whether
they do depends on the weights alone, as good as exactly, so every machine of a kind decides alike.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctsam3d.network import windows
from ctsam3d.network.config import CUBE_VOXELS
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d
from ctsam3d.network.precision import Precision, fast_in_half_precision
from ctsam3d.network.weights_file import WEIGHTS_FOLDER

MOST_MOVED = 0.02  # of a probability
LEAST_DICE = 0.998
_CUBES = WEIGHTS_FOLDER / "real_cubes.npz"
_BESIDE_XYZ = (44.0, 20.0, 32.0)  # a correcting click

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two decoders' answers are apart: the largest over cubes and prompts.

    Attributes:
        moved: largest difference of a probability.
        dice: least Dice of two masks.
    """

    moved: float
    dice: float

    @property
    def is_small(self) -> bool:
        """Within the limits."""
        return self.moved <= MOST_MOVED and self.dice >= LEAST_DICE


def fastest_decoder(model: CtSam3d, *, coarse_prompt: bool) -> FastDecoder:
    """In bfloat16 where that is faster and changes nothing that counts, else in float32.

    Args:
        model: on its device.
        coarse_prompt: the weights take a coarse mask with the first click.
    """
    exact = FastDecoder(model.mask_decoder)
    if not fast_in_half_precision(next(model.parameters()).device):
        return exact
    half = FastDecoder(model.mask_decoder, Precision.BFLOAT16)
    found = gap(model, exact, half, coarse_prompt=coarse_prompt)
    if found.is_small:
        return half
    _log.info(
        "in bfloat16 these weights move a probability by %.3f and a mask to a Dice of %.4f (limits %g and %g): "
        "float32 is used",
        found.moved, found.dice, MOST_MOVED, LEAST_DICE,
    )  # fmt: skip
    return exact


@torch.inference_mode()
def gap(model: CtSam3d, exact: FastDecoder | CtSam3d, other: FastDecoder, *, coarse_prompt: bool) -> Gap:
    """Compare two decoders of the same weights on the bundled cubes."""
    device = next(model.parameters()).device
    with np.load(_CUBES, allow_pickle=False) as file:
        hu, coarse = torch.from_numpy(file["hu"]).to(device), torch.from_numpy(file["coarse"]).to(device)
    embeddings = model.embed(windows.apply(hu, model.config.windows_hu).transpose(0, 1))
    count = len(hu)
    first = coarse[:, None].float() / 255 if coarse_prompt else None
    centre = torch.full((count, 1, 3), CUBE_VOXELS / 2, device=device)
    both = torch.cat([centre, centre.new_tensor(_BESIDE_XYZ).expand(count, 1, 3)], 1)
    labels = torch.tensor([[1, 0]], device=device).expand(count, 2)
    answer = exact.decode(embeddings, centre, labels[:, :1], first)
    moved, dice = _apart(answer, other.decode(embeddings, centre, labels[:, :1], first))
    again = exact.decode(embeddings, both, labels, answer)
    moved_again, dice_again = _apart(again, other.decode(embeddings, both, labels, answer))
    return Gap(max(moved, moved_again), min(dice, dice_again))


def _apart(exact: Tensor, other: Tensor) -> tuple[float, float]:
    """Largest difference, and least Dice of the cubes, of probabilities (B, 1, z, y, x)."""
    mine, theirs = (exact > 0.5).flatten(1), (other > 0.5).flatten(1)
    voxels = mine.sum(1) + theirs.sum(1)
    dice = torch.where(voxels > 0, 2 * (mine & theirs).sum(1) / voxels.clamp(min=1), 1.0)
    return float((exact - other).abs().max()), float(dice.min())
