"""Segment whole structures: a CT volume and names in, one label map on the volume's own grid out.

1. The volume is resampled to the model grid (1.5 mm, LPS+).
2. A prompter, by default the localizer, says where structures are: a coarse mask, clicks, or both. Those of which it
   says nothing are absent.
3. A structure with a coarse mask is covered with cubes, each centred on a click deep inside it; one with clicks alone
   grows from them, cube by cube (`grow`).
4. The network decodes the cubes, in batches that run across structures, from the clicks and, for weights trained to
   take it, the coarse probability as the previous mask.
5. Cubes merge by weight, structures by probability; a refinement that strays from its coarse mask is not believed,
   and lungs end where their air does.
6. The label map goes back to the source grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ctsam3d.anatomy.catalogue import named
from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.network import checkpoint
from ctsam3d.network.config import SPACING_MM
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d
from ctsam3d.network.precision import Precision
from ctsam3d.network.weights_file import LOCALIZER_FILE, WEIGHTS_FOLDER
from ctsam3d.outcome import Status
from ctsam3d.prompting.localizer import Localizer
from ctsam3d.prompting.prompt import COARSE_FACTOR, Click, CoarseStructure, Prompt, Prompter
from ctsam3d.prompting.seeds import covering_seeds
from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, sharpness
from ctsam3d.segmentation.correct import SureOwners, correcting_clicks
from ctsam3d.segmentation.decoder import CubeDecoder, Decode, Question, VoxelClick
from ctsam3d.segmentation.grow import Growth
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.patches import Patch, lay_over, patch_around, patch_at
from ctsam3d.segmentation.precision_gate import fastest_decoder
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.stitch import Canvas, LabelMap

__all__ = ["LOCALIZER_FILE", "Segmenter", "Settings", "weights_path"]

_LEAKED = 1.5  # times the largest plausible volume, beyond which a growing structure is not followed
_BLOCK_PROBABILITY = np.float32(0.51)  # of a coarse block that interpolation would lose


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a result, besides the weights.

    Attributes:
        reach_blocks: every 6 mm block of a structure lies within so many blocks of a click, along each axis.
        least_dice: of refined and coarse mask, below which the coarse one is kept.
        volume_ratio: of refined to coarse volume, outside which the coarse mask is kept.
        batch: cubes decoded at a time.
        correct: ask again, with clicks on what is wrong, where an answer contradicts sure coarse masks.
        growth: bounds of a structure that grows from clicks.
        precision: of the decoder's convolutions; None, before weights are loaded, for the fastest that answers as
            float32 does.
        rules: version of the rules in code (windows, plausibility, intensity, thin structures); raised whenever one of
            them changes a result.
    """

    reach_blocks: int = 6
    least_dice: float = 0.6
    volume_ratio: tuple[float, float] = (0.5, 1.8)
    batch: int = 4
    correct: bool = False
    growth: Growth = Growth()
    precision: Precision | None = None
    rules: int = 3


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
        # weights not trained on coarse masks take them for an answer of their own to be corrected
        self.coarse_prompt = bool(facts.get("coarse_prompt", False))
        # and likewise of what cubes beside one have found
        self.carry = bool(facts.get("carried", False))
        # published weights hold a trained cross-patch predictor; ours say whether theirs is
        self.cross_patch = bool(facts.get("cross_patch", "converted_from_sha256" in facts))
        self.coefficients = Coefficients.of_facts(facts)
        self._decoder = CubeDecoder(self.model, device, settings.batch, decode)

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
    def structures(self) -> tuple[str, ...]:
        """Names that can be asked for without prompts of one's own."""
        return self.localizer.structures

    def segment(
        self, volume: Volume, structures: Sequence[str], prompter: Prompter | None = None
    ) -> StudySegmentation:
        """Every requested structure gets a finding; those found get voxels.

        Args:
            volume: on its own grid.
            structures: at most 255 names, out of the prompter's.
            prompter: says where they are; the localizer by default.

        Raises:
            ModelOutputInvalid: the network's output was not finite.
            PromptError: the prompter's prompts cannot be of this volume.
        """
        clock = _Clock()
        grid = to_model_grid(volume, SPACING_MM)
        clock.lap("prepare")
        asked = prompter or self.localizer
        prompts = asked.prompts(grid, structures)
        clock.lap("prompt")
        network_before = self._decoder.seconds
        names = [name for name in structures if name in prompts]
        ids = {name: i for i, name in enumerate(names, 1)}
        label_map = LabelMap(grid.hu.shape)
        findings = {name: Finding(Status.ABSENT) for name in structures if name not in prompts}
        for name, canvas, cubes in self._canvases(grid, {name: prompts[name] for name in names}):
            findings[name] = self._settle(name, ids[name], prompts[name], canvas, cubes, label_map, grid)
        clock.lap("merge", network=self._decoder.seconds - network_before)
        labels = labels_to_source(label_map.labels, grid.geometry, volume.geometry)
        present = np.bincount(labels.ravel(), minlength=len(ids) + 1)
        for name in names:
            if present[ids[name]] == 0:  # others claimed all of it, or it is smaller than a source voxel
                findings[name] = Finding(Status.ABSENT, clicks=findings[name].clicks)
                del ids[name]
        clock.lap("restore")
        ordered = {name: replace(findings[name], prompter=asked.kind) for name in structures}
        return StudySegmentation(labels, ids, ordered, clock.seconds)

    def _canvases(self, grid: Volume, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Canvas, int]]:
        """Each structure's merged cubes and how many they are, one structure at a time or nearly so."""
        yield from self._covered(grid, {n: p for n, p in prompts.items() if p.coarse is not None})
        for name, prompt in prompts.items():
            if prompt.coarse is None:
                canvas, cubes = self._grown(name, grid, _on_grid(prompt.clicks, grid))
                yield name, canvas, cubes

    def _covered(self, grid: Volume, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Canvas, int]]:
        """Structures with a coarse mask, each as soon as its last cube is decoded."""
        patches = {name: self._patches(name, prompt, grid) for name, prompt in prompts.items()}
        jobs = [patch for name in prompts for patch in patches[name]]
        canvases: dict[str, Canvas] = {}
        left = {name: len(patches[name]) for name in prompts}
        owners = SureOwners.of({n: p.coarse for n, p in prompts.items() if p.coarse is not None})
        for start in range(0, len(jobs), self.settings.batch):
            batch = jobs[start : start + self.settings.batch]
            questions = [self._question(prompts[patch.structure], patch, grid) for patch in batch]
            answers = self._decoder.answer(grid.hu, questions)
            if self.settings.correct and owners is not None:
                answers = self._corrected(grid, owners, questions, answers)
            for patch, answer in zip(batch, answers, strict=True):
                name = patch.structure
                if name not in canvases:
                    coarse = prompts[name].coarse
                    assert coarse is not None
                    canvases[name] = Canvas.around(
                        coarse.probability, patches[name], grid.hu.shape, COARSE_FACTOR
                    )
                canvases[name].add(patch, answer)
                left[name] -= 1
                if left[name] == 0:
                    yield name, canvases.pop(name), len(patches[name])

    def _corrected(
        self,
        grid: Volume,
        owners: SureOwners,
        questions: Sequence[Question],
        answers: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Answers (n, 64, 64, 64), those that contradict sure coarse masks given anew."""
        clicks = [correcting_clicks(owners, q.patch, a) for q, a in zip(questions, answers, strict=True)]
        again = [i for i, found in enumerate(clicks) if found]
        if again:
            asked = [
                Question(questions[i].patch, (*questions[i].clicks, *clicks[i]), answers[i]) for i in again
            ]
            answers[again] = self._decoder.answer(grid.hu, asked)
        return answers

    def _patches(self, name: str, prompt: Prompt, grid: Volume) -> list[Patch]:
        """Cubes that cover a coarse mask, and one around each click of a person."""
        assert prompt.coarse is not None
        seeds = covering_seeds(prompt.coarse.mask, self.settings.reach_blocks)
        clicked = [patch_around(name, click.zyx) for click in _on_grid(prompt.clicks, grid)]
        return [*(patch_at(name, seed, COARSE_FACTOR) for seed in seeds), *clicked]

    def _question(self, prompt: Prompt, patch: Patch, grid: Volume) -> Question:
        assert prompt.coarse is not None
        clicks = _on_grid(prompt.clicks, grid)
        if all(
            click.zyx != patch.click_zyx for click in clicks
        ):  # the cube's own click, unless a person made it
            clicks = (VoxelClick(patch.click_zyx), *clicks)
        previous = None
        if self.coarse_prompt:
            coarse = torch.from_numpy(prompt.coarse.probability)
            previous = lay_over(coarse, patch, COARSE_FACTOR)[0].numpy()
        return Question(patch, clicks, previous)

    def _grown(self, name: str, grid: Volume, clicks: tuple[VoxelClick, ...]) -> tuple[Canvas, int]:
        """A structure of which only clicks are known, as far as it goes on from them."""
        clicked = self.clicked(name, grid)
        return clicked.click(clicks).canvas.touched(), clicked.decoded

    def clicked(self, name: str, grid: Volume) -> ClickedStructure:
        """A structure to click on, in a volume that is on the model grid."""
        known = named(name)
        most_voxels = None
        if known is not None and known.plausible_ml is not None:
            most_voxels = int(_LEAKED * known.plausible_ml[1] / grid.geometry.voxel_volume_ml)
        return ClickedStructure(
            name, grid.hu, self._decoder, self.settings.growth,
            cross_patch=self.cross_patch, carry=self.carry, most_voxels=most_voxels,
        )  # fmt: skip

    def _settle(
        self,
        name: str,
        label: int,
        prompt: Prompt,
        canvas: Canvas,
        clicks: int,
        label_map: LabelMap,
        grid: Volume,
    ) -> Finding:
        """Believe the refined mask or fall back on the coarse one, and enter it into the label map."""
        probability, status, reason, agreement = canvas.probability(), Status.OK, None, None
        if canvas.coarse is not None:
            assert prompt.coarse is not None
            coarse = _not_thinned(canvas.coarse, prompt.coarse, canvas.box)
            agreement, volume_ratio = _compared(probability > 0.5, coarse > 0.5)
            if not self._believed(agreement, volume_ratio):
                probability, status, reason = coarse, Status.COARSE, "REFINEMENT_REJECTED"
        probability = within_intensity(name, probability, grid.hu[canvas.box])
        mask = probability > 0.5
        label_map.claim(label, canvas.box, probability, mask)
        soft = float(probability[probability > 0.02].sum(dtype=np.float64)) * grid.geometry.voxel_volume_ml
        if not mask.any():
            return Finding(status, reason, clicks, None, soft)
        localized = prompt.coarse.confidence if prompt.coarse is not None else None
        evidence = Evidence(sharpness(probability), agreement, localized)
        return Finding(status, reason, clicks, estimate(evidence, self.coefficients), soft, evidence)

    def _believed(self, agreement: float, volume_ratio: float) -> bool:
        """Whether a refined mask is near enough to the coarse one that asked for it."""
        low, high = self.settings.volume_ratio
        return agreement >= self.settings.least_dice and low <= volume_ratio <= high


def _not_thinned(
    upsampled: NDArray[np.float32], coarse: CoarseStructure, box: tuple[slice, slice, slice]
) -> NDArray[np.float32]:
    """An upsampled coarse probability; where interpolation took most of a thin structure away, its very blocks.

    Without them a refinement of a rib or a vessel would have nothing to be compared with, and any leak be believed.
    """
    blocks = coarse.mask
    for axis, part in enumerate(box):
        blocks = np.take(blocks, np.arange(part.start, part.stop) // COARSE_FACTOR, axis=axis)
    if 2 * np.count_nonzero(upsampled > 0.5) >= np.count_nonzero(blocks):
        return upsampled
    return np.where(blocks, np.maximum(upsampled, _BLOCK_PROBABILITY), upsampled)


def _compared(refined: NDArray[np.bool_], coarse: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice of a refined and a coarse mask, and the ratio of their volumes; 1 and 1 without a coarse one."""
    overlap, mine, localized = int((refined & coarse).sum()), int(refined.sum()), int(coarse.sum())
    return (2 * overlap / (mine + localized), mine / localized) if localized else (1.0, 1.0)


def _on_grid(clicks: Sequence[Click], grid: Volume) -> tuple[VoxelClick, ...]:
    """Clicks as voxels of the model grid; those outside move to the nearest voxel inside."""
    if not clicks:
        return ()
    index = grid.geometry.to_index_zyx(np.array([click.xyz_mm for click in clicks]))
    inside = np.clip(np.floor(index + 0.5).astype(int), 0, np.array(grid.hu.shape) - 1)
    return tuple(
        VoxelClick((int(z), int(y), int(x)), click.positive)
        for (z, y, x), click in zip(inside, clicks, strict=True)
    )


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
