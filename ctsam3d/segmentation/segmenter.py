"""Segment whole structures: a CT volume and names in, one label map on the volume's own grid out.

1. The volume is resampled to the model grid (1.5 mm, LPS+).
2. The localizer finds the structures; those it does not find are absent.
3. Each found structure is covered with cubes, each centred on a click deep inside it.
4. The network decodes the cubes, in batches that run across structures, from the click and, for weights trained to
   take it, the localizer's probability as the previous mask.
5. Cubes merge by weight, structures by probability; a refinement that strays from what was localized is not believed,
   and lungs end where their air does.
6. The label map goes back to the source grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import LOCALIZED
from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.network import checkpoint, windows
from ctsam3d.network.config import SPACING_MM
from ctsam3d.network.model import CtSam3d
from ctsam3d.outcome import Status
from ctsam3d.prompting.localizer import COARSE_FACTOR, CoarseStructure, Localizer
from ctsam3d.prompting.seeds import covering_seeds
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.patches import Patch, cut, lay_over, patch_at
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.stitch import LabelMap, Merger, centre_weight

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
LOCALIZER_FILE = WEIGHTS_FOLDER / "localizer.safetensors"


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a result, besides the weights.

    Attributes:
        reach_blocks: every 6 mm block of a structure lies within so many blocks of a click, along each axis.
        least_dice: of refined and coarse mask, below which the coarse one is kept.
        volume_ratio: of refined to coarse volume, outside which the coarse mask is kept.
        batch: cubes decoded at a time.
        rules: version of the rules in code (plausibility, intensity); raised whenever one of them changes a result.
    """

    reach_blocks: int = 6
    least_dice: float = 0.6
    volume_ratio: tuple[float, float] = (0.5, 1.8)
    batch: int = 4
    rules: int = 1


class ModelOutputInvalid(Exception):
    """The network answered with numbers that are none (NaN or infinite)."""


def weights_path(name: str | Path) -> Path:
    """The file of bundled weights by name, or a path as it is.

    Raises:
        CheckpointError: neither a bundled name nor a file.
    """
    bundled = WEIGHTS_FOLDER / f"{name}.safetensors"
    if bundled.parent == WEIGHTS_FOLDER and bundled.is_file():
        return bundled
    if Path(name).is_file():
        return Path(name)
    names = sorted(p.stem for p in WEIGHTS_FOLDER.glob("*.safetensors") if p != LOCALIZER_FILE)
    raise checkpoint.CheckpointError(
        name, f"expected a file or the name of bundled weights ({', '.join(names)})"
    )


class Segmenter:
    """The networks with their weights, warm on a device; one call a study, no state between calls."""

    def __init__(
        self, model: CtSam3d, localizer: Localizer, device: torch.device, weights_sha256: str,
        coarse_prompt: bool, settings: Settings,
    ) -> None:  # fmt: skip
        self.model = model.to(device).eval()
        self.localizer, self.device, self.settings = localizer, device, settings
        self.weights_sha256, self.coarse_prompt = weights_sha256, coarse_prompt
        self._weight = centre_weight()

    @classmethod
    def load(
        cls, weights: str | Path = "nano", device: str = "auto", settings: Settings | None = None
    ) -> Segmenter:
        """Read bundled weights by name, or a file, onto a device ("auto": CUDA where there is one).

        Raises:
            CheckpointError: weights that cannot be used; one line says why.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        where = torch.device(device)
        path = weights_path(weights)
        model, info = checkpoint.load(path)
        localizer = Localizer.load(LOCALIZER_FILE, where)
        # weights not trained on coarse masks take them for an answer of their own to be corrected
        coarse_prompt = bool(info.facts.training.get("coarse_prompt", False))
        return cls(model, localizer, where, checkpoint.sha256(path), coarse_prompt, settings or Settings())

    @property
    def structures(self) -> tuple[str, ...]:
        """Names that can be asked for."""
        return LOCALIZED

    def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
        """Every requested structure gets a finding; those found get voxels.

        Raises:
            ModelOutputInvalid: the network's output was not finite.
        """
        clock = _Clock()
        grid = to_model_grid(volume, SPACING_MM)
        clock.lap("prepare")
        found = self.localizer.locate(grid, structures)
        patches = {name: self._cover(name, coarse) for name, coarse in found.items()}
        clock.lap("prompt")
        names = [name for name in structures if name in found]
        ids = {name: i for i, name in enumerate(names, 1)}
        label_map = LabelMap(grid.hu.shape)
        findings = {name: Finding(Status.ABSENT) for name in structures if name not in found}
        for name, merger in self._decoded(grid, found, patches):
            findings[name] = self._settle(name, ids[name], merger, len(patches[name]), label_map, grid)
        clock.lap("segment")
        labels = labels_to_source(label_map.labels, grid.geometry, volume.geometry)
        present = np.bincount(labels.ravel(), minlength=len(ids) + 1)
        for name in names:
            if present[ids[name]] == 0:  # others claimed all of it, or it is smaller than a source voxel
                findings[name] = Finding(Status.ABSENT, clicks=len(patches[name]))
                del ids[name]
        clock.lap("restore")
        ordered = {name: findings[name] for name in structures}
        return StudySegmentation(labels, ids, ordered, clock.seconds)

    def _cover(self, name: str, coarse: CoarseStructure) -> list[Patch]:
        seeds = covering_seeds(coarse.mask, self.settings.reach_blocks)
        return [patch_at(name, seed, COARSE_FACTOR) for seed in seeds]

    @torch.inference_mode()
    def _decoded(
        self, grid: Volume, found: dict[str, CoarseStructure], patches: dict[str, list[Patch]]
    ) -> Iterator[tuple[str, Merger]]:
        """Each structure's merged cubes, as soon as its last cube is decoded."""
        jobs = [patch for name in found for patch in patches[name]]
        open_mergers: dict[str, Merger] = {}
        for start in range(0, len(jobs), self.settings.batch):
            batch = jobs[start : start + self.settings.batch]
            answers = self._decode(grid, found, batch)
            for patch, answer in zip(batch, answers, strict=True):
                name = patch.structure
                if name not in open_mergers:
                    open_mergers[name] = Merger(
                        found[name].probability, patches[name], grid.hu.shape, COARSE_FACTOR
                    )  # fmt: skip
                if open_mergers[name].add(patch, answer, self._weight):
                    yield name, open_mergers.pop(name)

    def _decode(
        self, grid: Volume, found: dict[str, CoarseStructure], batch: list[Patch]
    ) -> NDArray[np.float32]:
        """Probabilities (B, 64, 64, 64) of a batch of patches."""
        hu = np.stack([cut(grid.hu, patch) for patch in batch])
        cubes = windows.apply(torch.from_numpy(hu).to(self.device), self.model.config.windows_hu).transpose(
            0, 1
        )
        previous = None
        if self.coarse_prompt:
            laid = [
                lay_over(torch.from_numpy(found[p.structure].probability), p, COARSE_FACTOR) for p in batch
            ]
            previous = torch.stack(laid).to(self.device)
        clicks = torch.tensor([[patch.click_xyz] for patch in batch], device=self.device)
        labels = torch.ones((len(batch), 1), dtype=torch.long, device=self.device)
        answer = self.model.decode(self.model.embed(cubes), clicks, labels, previous)
        if not torch.isfinite(answer).all():
            raise ModelOutputInvalid("the network's probabilities are not finite")
        return answer[:, 0].cpu().numpy()

    def _settle(
        self, name: str, label: int, merger: Merger, clicks: int, label_map: LabelMap, grid: Volume
    ) -> Finding:
        """Believe the refined mask or fall back on the coarse one, and enter it into the label map."""
        probability, status, reason = merger.probability(), Status.OK, None
        mask, coarse = probability > 0.5, merger.coarse > 0.5
        overlap, refined, localized = int((mask & coarse).sum()), int(mask.sum()), int(coarse.sum())
        dice = 2 * overlap / max(1, refined + localized)
        low, high = self.settings.volume_ratio
        if localized and (dice < self.settings.least_dice or not low <= refined / localized <= high):
            probability, mask, status = merger.coarse, coarse, Status.COARSE
            reason = "REFINEMENT_REJECTED"
        probability = within_intensity(name, probability, grid.hu[merger.box])
        mask = probability > 0.5
        label_map.claim(label, merger.box, probability, mask)
        soft = float(probability[probability > 0.02].sum(dtype=np.float64)) * grid.geometry.voxel_volume_ml
        confidence = float(probability[mask].mean()) if mask.any() else None
        return Finding(status, reason, clicks, confidence, soft)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
