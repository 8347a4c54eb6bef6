"""Segment whole structures: a CT volume and names in, one label map on the volume's own grid out.

1. The volume is resampled to the model grid (1.5 mm, LPS+).
2. A prompter, where there is one, says where structures are, and the localizer where the others are (`prompts`): a
   coarse mask, clicks, or both. Those of which neither says anything are absent.
3. A structure with a coarse mask is refined, cube by cube (`cover`), and believed or not (`accept`); one with clicks
   alone grows from them (`grow`); one with both is refined first and corrected by the clicks (`interactive`).
4. Cubes merge by weight, structures by probability (`stitch`), and lungs end where their air does (`intensity`).
5. The label map goes back to the source grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ctsam3d.anatomy.catalogue import named
from ctsam3d.anatomy.localized import classes_of
from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.network import checkpoint
from ctsam3d.network.config import SPACING_MM
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d
from ctsam3d.network.weights_file import LOCALIZER_FILE, WEIGHTS_FOLDER
from ctsam3d.outcome import Status
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.prompting.prompt import Prompt, Prompter
from ctsam3d.segmentation.accept import OTHERS, Belief, Found, accepted, least_agreements, thresholds
from ctsam3d.segmentation.batch_size import CudaMemory
from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, sharpness
from ctsam3d.segmentation.cover import Coverer
from ctsam3d.segmentation.decoder import CubeDecoder, Decode, VoxelClick
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.owners import SureOwners
from ctsam3d.segmentation.precision_gate import fastest_decoder
from ctsam3d.segmentation.prompts import gather, is_apart, on_grid
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.settings import Settings
from ctsam3d.segmentation.stitch import LabelMap

__all__ = ["LOCALIZER_FILE", "Segmenter", "Settings", "weights_path"]


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
        facts: Mapping[str, object], settings: Settings, decode: Decode | None = None,
    ) -> None:  # fmt: skip
        self.model = model.to(device).eval()
        self.localizer, self.device, self.settings = localizer, device, settings
        self.weights_sha256 = weights_sha256
        # published weights hold a trained cross-patch predictor; ours say whether theirs is, and what it is shown
        self.cross_patch = bool(facts.get("cross_patch", "converted_from_sha256" in facts))
        aligned = facts.get("cross_patch") == "aligned"
        self.coefficients = Coefficients.of_facts(facts)
        self.least_agreements, self.thresholds = least_agreements(facts), thresholds(facts)
        self._decoder = CubeDecoder(self.model, device, settings.batch, decode, aligned=aligned)
        if device.type == "cuda":
            self._decoder.fit(CudaMemory(device))
        coarse_prompt = bool(facts.get("coarse_prompt", False))
        self._coverer = Coverer(self._decoder, settings, coarse_prompt=coarse_prompt)

    @classmethod
    def load(
        cls,
        weights: str | Path = "nano",
        device: str = "auto",
        settings: Settings | None = None,
        localizer_file: Path = LOCALIZER_FILE,
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
        localizer = Localizer.load(localizer_file, where)
        facts = info.facts.training
        model = model.to(where).eval()
        settings = settings or Settings()
        if settings.precision is None:
            decoder = fastest_decoder(model, coarse_prompt=bool(facts.get("coarse_prompt", False)))
        else:
            decoder = FastDecoder(model.mask_decoder, settings.precision)
        settings = replace(settings, precision=decoder.precision)
        try:
            return cls(model, localizer, where, checkpoint.sha256(path), facts, settings, decoder.decode)
        except ValueError as fault:
            raise checkpoint.CheckpointError(path, str(fault)) from None

    @property
    def cubes_at_a_time(self) -> int:
        """As many as the decoder is asked together, by now."""
        return self._decoder.batch

    @property
    def structures(self) -> tuple[str, ...]:
        """Names that can be asked for without prompts of one's own."""
        return self.localizer.structures

    def segment(
        self, volume: Volume, structures: Sequence[str], prompter: Prompter | None = None
    ) -> StudySegmentation:
        """Every requested structure gets a finding; those found get voxels.

        Args:
            volume: on its own grid.
            structures: at most 255 names. Those that neither the prompter nor the localizer knows are absent, with the
                reason NOT_PROMPTED.
            prompter: says where those are that it knows.

        Raises:
            ModelOutputInvalid: the network's output was not finite.
            PromptError: the prompter's prompts cannot be of this volume.
        """
        clock = _Clock()
        grid = to_model_grid(volume, SPACING_MM, self.device)
        clock.lap("prepare")
        gathered = gather(grid, structures, prompter, self.localizer)
        who, prompts = gathered.who, gathered.prompts
        clock.lap("prompt")
        network_before = self._decoder.seconds
        names = [name for name in structures if name in prompts]
        ids = {name: i for i, name in enumerate(names, 1)}
        label_map = LabelMap(grid.hu.shape)
        findings = {
            name: Finding(Status.ABSENT, None if name in who else "NOT_PROMPTED")
            for name in structures
            if name not in prompts
        }
        for name, found in self._found(grid, {name: prompts[name] for name in names}, gathered.owners):
            findings[name] = self._enter(name, ids[name], found, label_map, grid)
        clock.lap("merge", network=self._decoder.seconds - network_before)
        labels = labels_to_source(label_map.labels, grid.geometry, volume.geometry, self.device)
        present = np.bincount(labels.ravel(), minlength=len(ids) + 1)
        for name in names:
            if present[ids[name]] == 0:  # others claimed all of it, or it is smaller than a source voxel
                findings[name] = Finding(Status.ABSENT, clicks=findings[name].clicks)
                del ids[name]
        clock.lap("restore")
        ordered = {name: replace(findings[name], prompter=who.get(name)) for name in structures}
        return StudySegmentation(labels, ids, ordered, clock.seconds)

    def _found(
        self, grid: Volume, prompts: Mapping[str, Prompt], owners: SureOwners | None
    ) -> Iterator[tuple[str, Found]]:
        """What each prompt comes to, one structure at a time or nearly so."""
        for name, found in self.refined(grid, prompts):
            clicks = on_grid(prompts[name].clicks, grid)
            yield name, self._clicked(name, grid, clicks, found, owners) if clicks else found
        for name, prompt in prompts.items():
            if prompt.coarse is None:
                yield name, self._clicked(name, grid, on_grid(prompt.clicks, grid), None, owners)

    def refined(self, grid: Volume, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Found]]:
        """What becomes of coarse masks on the model grid, nobody clicking; prompts without one are left out.

        Raises:
            ModelOutputInvalid: the network's output was not finite.
        """
        coarse = {name: prompt.coarse for name, prompt in prompts.items() if prompt.coarse is not None}
        for name, canvas, cubes in self._coverer.cover(grid.hu, coarse):
            yield name, accepted(coarse[name], canvas, cubes, self.settings, self._belief(name))

    def clicked(
        self, name: str, grid: Volume, prompt: Prompt | None = None, owners: SureOwners | None = None
    ) -> ClickedStructure:
        """A structure to click on.

        Args:
            name: of the structure.
            grid: the image on the model grid.
            prompt: with a coarse mask: what becomes of it without clicks is what clicks correct.
            owners: whose each part of the image surely is, where that is known.
        """
        begun = None
        if prompt is not None and prompt.coarse is not None:
            ((_, begun),) = self.refined(grid, {name: prompt})
        return self._clickable(name, grid, begun, owners)

    def _belief(self, name: str) -> Belief:
        return Belief(
            self.least_agreements.get(name, self.settings.least_dice),
            self.thresholds.get(name, self.thresholds.get(OTHERS, 0.5)),
        )

    def _clickable(
        self, name: str, grid: Volume, begun: Found | None, owners: SureOwners | None
    ) -> ClickedStructure:
        known = named(name)
        most_voxels = None
        if known is not None and known.plausible_ml is not None:
            most_voxels = int(known.plausible_ml[1] / grid.geometry.voxel_volume_ml)
        return ClickedStructure(
            name, grid.hu, self._decoder, self.settings.growth,
            cross_patch=self.cross_patch, most_voxels=most_voxels,
            begun=None if begun is None else (begun.box, begun.probability),
            others=owners.without({name, *classes_of(name)}) if owners and is_apart(name) else None,
        )  # fmt: skip

    def _clicked(
        self, name: str, grid: Volume, clicks: Sequence[VoxelClick], begun: Found | None, owners: SureOwners | None
    ) -> Found:  # fmt: skip
        """What clicks make of a mask, or of nothing."""
        structure = self._clickable(name, grid, begun, owners)
        canvas = structure.click(clicks).touched()
        cubes = structure.decoded + (begun.cubes if begun else 0)
        return Found(canvas.box, canvas.probability(), cubes, clicks=tuple(clicks))

    def _enter(self, name: str, label: int, found: Found, label_map: LabelMap, grid: Volume) -> Finding:
        """Enter a structure into the label map, and say what became of it."""
        clicks = [click.within(found.box) for click in found.clicks]
        probability = within_intensity(name, found.probability, grid.hu[found.box], clicks)
        mask = probability > 0.5
        label_map.claim(label, found.box, probability, mask)
        soft = float(probability[probability > 0.02].sum(dtype=np.float64)) * grid.geometry.voxel_volume_ml
        if not mask.any():
            return Finding(found.status, found.reason, found.cubes, None, soft)
        evidence = Evidence(sharpness(probability), found.agreement, found.localized)
        confidence = estimate(evidence, self.coefficients)
        return Finding(found.status, found.reason, found.cubes, confidence, soft, evidence)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str, **within: float) -> None:
        """End a stage; seconds of others that ran within it are theirs."""
        now = time.monotonic()
        self.seconds |= {**within, name: now - self._last - sum(within.values())}
        self._last = now
