"""Find the structures in a volume: HU at 1.5 mm in, a coarse probability and mask of each structure out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ctsam3d.anatomy.catalogue import Group, named
from ctsam3d.anatomy.localized import BACKGROUND
from ctsam3d.imaging.volume import AIR_HU, Volume
from ctsam3d.network.checkpoint import CheckpointError, read_tensors, sha256
from ctsam3d.prompting.bare_canal import through_bare_canal
from ctsam3d.prompting.coarse import PATCH_ZYX, SPACING_MM, CoarseNetwork, coarsen, weights_of, windowed
from ctsam3d.prompting.plausibility import body_mask, implausible, out_of_place
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure, Prompt, PromptKind

# Made of several bones, or of loops that part at 6 mm: every piece of some size belongs.
_IN_PIECES = {"ribs", "vertebrae", "colon", "small_bowel", "skull", "costal_cartilages"}
_CORD = "spinal_cord"
_SMALLEST_ML = 1.0
_SMALLEST_PIECE_ML = 2.0
_OFFSETS = ((0, 0, 0), (9, 13, 17))  # voxels by which windows are moved; an odd number folds voxels otherwise
_LEAST_CONFIDENCE = 0.4  # below it a structure is not said to be there


class Localizer:
    """The coarse network with its weights, warm on a device: the prompter that needs nobody.

    Attributes:
        structures: names it can find, in the order of its classes.
    """

    kind = PromptKind.LOCALIZER

    def __init__(
        self, network: CoarseNetwork, classes: Sequence[str], device: torch.device, weights_sha256: str
    ) -> None:
        self.network = network.to(device).eval()
        self.structures = tuple(classes[1:])
        self.device = device
        self.weights_sha256 = weights_sha256

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Localizer:
        """Read weights strictly.

        Raises:
            CheckpointError: not a localizer's weights, or tensors that do not fit the classes the file names.
        """
        tensors, info = read_tensors(path)
        classes = info.facts.training.get("classes")
        if (
            info.facts.network != "localizer"
            or not isinstance(classes, list)
            or not all(isinstance(name, str) for name in classes)
            or classes[:1] != [BACKGROUND]
        ):
            raise CheckpointError(path, "expected a localizer's weights with the names of its classes")
        network = CoarseNetwork(len(classes))
        expected = {name: tuple(t.shape) for name, t in weights_of(network.state_dict()).items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if found != expected:
            odd = sorted(found.items() ^ expected.items())[:3]
            raise CheckpointError(path, f"expected the localizer's tensors; first differences: {odd}")
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
        return cls(network, classes, device, sha256(path))

    def probabilities(self, hu: torch.Tensor) -> NDArray[np.float16]:
        """Class probabilities, float16 (classes, z, y, x), of HU (z, y, x) on 6 mm blocks of the model grid.

        Windows are laid several times, each time elsewhere, and the answers averaged: what a window holds decides over
        its norms, and which voxels are folded together over its borders.
        """
        mean = np.zeros((len(self.structures) + 1, *hu.shape), dtype=np.float16)
        for z, y, x in _OFFSETS:
            shifted = F.pad(hu, (x, 0, y, 0, z, 0), value=float(AIR_HU))
            mean += self._answered(shifted)[:, z:, y:, x:] / len(_OFFSETS)
        return mean

    @torch.inference_mode()
    def _answered(self, hu: torch.Tensor) -> NDArray[np.float16]:
        """As `probabilities`, with windows from the first voxel on."""
        from monai.inferers import sliding_window_inference

        found = sliding_window_inference(
            windowed(hu[None, None].to(self.device)),
            PATCH_ZYX,
            # two windows at a time: for one alone, PyTorch's CPU convolutions take a far slower path
            sw_batch_size=2,
            predictor=self.network,
            overlap=0.5,
            mode="gaussian",
            padding_mode="constant",
            device=self.device,
        )
        assert isinstance(found, torch.Tensor)
        return found[0].softmax(dim=0).half().cpu().numpy()

    def prompts(self, grid: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        """A coarse mask for each structure that is in the field of view."""
        return {name: Prompt(coarse) for name, coarse in self.locate(grid, structures).items()}

    def locate(self, volume: Volume, structures: Sequence[str]) -> dict[str, CoarseStructure]:
        """The structures that are in the field of view; those that are not are left out.

        Args:
            volume: on the model grid, 1.5 mm, axes along LPS+.
            structures: names out of `structures`.
        """
        hu = coarsen(volume.hu, COARSE_FACTOR)
        probabilities = self.probabilities(hu)
        labels = probabilities.argmax(axis=0)
        labels[~body_mask(hu.numpy())] = 0
        first, second = _two_best(probabilities).astype(np.float32)
        found = {}
        # all of them, asked for or not: what is plausible depends on what else is there, not on the request
        for index, name in enumerate(self.structures, 1):
            mine, p = labels == index, probabilities[index].astype(np.float32)
            within = _largest_possible(name, mine, p)
            mask = _kept_pieces(within, p, in_pieces=name in _IN_PIECES)
            if not mask.any() or p[mask].mean() < _LEAST_CONFIDENCE:
                continue
            # against the strongest rival, so that one half is the border of the mask, however many classes share
            versus_rival = p / (p + np.where(mine, second, first) + 1e-6)
            # what was cut from the mask as noise must not come back as a prompt
            versus_rival[mine & ~mask] = 0
            found[name] = CoarseStructure(mask, versus_rival, float(p[mask].mean()))
        centres_z_mm = {name: float(np.nonzero(c.mask)[0].mean()) * SPACING_MM for name, c in found.items()}
        weights = {name: float(c.mask.sum()) * c.confidence for name, c in found.items()}
        gone = implausible(centres_z_mm, weights)
        heart_z_mm = centres_z_mm.get("heart") if "heart" not in gone else None
        for name, coarse in list(found.items()):
            high = out_of_place(name, coarse.mask, heart_z_mm, SPACING_MM)
            if high.any():
                found[name] = _without(coarse, high)
        if _CORD in found:
            found[_CORD] = through_bare_canal(found[_CORD], volume.hu)
        return {
            name: found[name]
            for name in structures
            if name in found and name not in gone and found[name].mask.any()
        }


def _without(coarse: CoarseStructure, gone: NDArray[np.bool_]) -> CoarseStructure:
    """What is left of a structure after some of it was found to be none."""
    probability = coarse.probability.copy()
    probability[gone] = 0
    return CoarseStructure(coarse.mask & ~gone, probability, coarse.confidence)


def _two_best(probabilities: NDArray[np.float16]) -> NDArray[np.float16]:
    """The highest and the second highest probability of each voxel, (2, z, y, x)."""
    best: NDArray[np.float16] = np.partition(probabilities, -2, axis=0)[:-3:-1]
    return best


def _largest_possible(
    name: str, mask: NDArray[np.bool_], probability: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """The most probable voxels, as many as there can be of a part of the nervous system; of other structures the mask.

    Half a brain may be taken for the brainstem. Bones bound these; other organs grow beyond any range in disease, and
    are only flagged.
    """
    known = named(name)
    if known is None or known.group is not Group.NERVOUS or known.plausible_ml is None:
        return mask
    most = int(known.plausible_ml[1] * 1000 / SPACING_MM**3)
    inside = probability[mask]
    if len(inside) <= most:
        return mask
    return mask & (probability >= np.partition(inside, -most)[-most])


def _kept_pieces(
    mask: NDArray[np.bool_], probability: NDArray[np.float32], *, in_pieces: bool
) -> NDArray[np.bool_]:
    """All pieces of some size, or the one with the most probability in it; empty if crumbs are all there is."""
    if not mask.any():
        return mask
    pieces = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    sizes_ml = np.bincount(pieces.ravel())[1:] * SPACING_MM**3 / 1000
    if in_pieces:
        kept = sizes_ml >= _SMALLEST_PIECE_ML
    else:
        sums = np.bincount(pieces.ravel(), weights=probability.ravel())[1:]
        kept = (np.arange(len(sums)) == sums.argmax()) & (sizes_ml >= _SMALLEST_ML)
    of_mask: NDArray[np.bool_] = np.concatenate([[False], kept])[pieces]
    return of_mask
