"""Segment whole structures: a CT volume and names in, one label map on the volume's own grid out.

1. The volume is resampled to the model grid (1.5 mm, LPS+).
2. A prompter, where there is one, says where the structures are that it has been given, and the localizer where the
   others are: a coarse mask, clicks, or both. Those of which neither says anything are absent.
3. A structure with a coarse mask is covered with cubes, each centred on a click deep inside it; one with clicks alone
   grows from them, cube by cube (`grow`); one with both is covered first and corrected by the clicks (`interactive`).
4. The network decodes the cubes, in batches that run across structures, from the clicks and, for weights trained to
   take it, the coarse probability as the previous mask.
5. Cubes merge by weight, structures by probability; a refinement that strays from its coarse mask is not believed,
   and lungs end where their air does. Clicks are believed.
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
from ctsam3d.prompting.prompt import COARSE_FACTOR, Click, CoarseStructure, Prompt, Prompter, PromptKind
from ctsam3d.prompting.seeds import covering_seeds
from ctsam3d.segmentation.confidence import Coefficients, Evidence, estimate, sharpness
from ctsam3d.segmentation.correct import SureOwners, correcting_clicks
from ctsam3d.segmentation.decoder import CubeDecoder, Decode, Question, VoxelClick
from ctsam3d.segmentation.grow import Growth
from ctsam3d.segmentation.intensity import within_intensity
from ctsam3d.segmentation.interactive import ClickedStructure
from ctsam3d.segmentation.patches import Patch, lay_over, patch_at
from ctsam3d.segmentation.precision_gate import fastest_decoder
from ctsam3d.segmentation.result import Finding, StudySegmentation
from ctsam3d.segmentation.stitch import Box, Canvas, LabelMap

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
    rules: int = 4


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


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One structure before it shares the grid with others.

    Attributes:
        box: the part of the model grid that it spans.
        probability: over the box.
        cubes: decoded for it.
        status, reason: of it so far.
        agreement: Dice of refined and coarse mask.
        localized: how sure the localizer was.
    """

    box: Box
    probability: NDArray[np.float32]
    cubes: int
    status: Status = Status.OK
    reason: str | None = None
    agreement: float | None = None
    localized: float | None = None


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
            structures: at most 255 names. Those that neither the prompter nor the localizer knows are absent, with the
                reason NOT_PROMPTED.
            prompter: says where those are that it knows.

        Raises:
            ModelOutputInvalid: the network's output was not finite.
            PromptError: the prompter's prompts cannot be of this volume.
        """
        clock = _Clock()
        grid = to_model_grid(volume, SPACING_MM)
        clock.lap("prepare")
        who, prompts = self._prompts(grid, structures, prompter)
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
        for name, found in self._found(grid, {name: prompts[name] for name in names}):
            findings[name] = self._enter(name, ids[name], found, label_map, grid)
        clock.lap("merge", network=self._decoder.seconds - network_before)
        labels = labels_to_source(label_map.labels, grid.geometry, volume.geometry)
        present = np.bincount(labels.ravel(), minlength=len(ids) + 1)
        for name in names:
            if present[ids[name]] == 0:  # others claimed all of it, or it is smaller than a source voxel
                findings[name] = Finding(Status.ABSENT, clicks=findings[name].clicks)
                del ids[name]
        clock.lap("restore")
        ordered = {name: replace(findings[name], prompter=who.get(name)) for name in structures}
        return StudySegmentation(labels, ids, ordered, clock.seconds)

    def _prompts(
        self, grid: Volume, structures: Sequence[str], prompter: Prompter | None
    ) -> tuple[dict[str, PromptKind], dict[str, Prompt]]:
        """Who says where each structure is, and what they say; of the same structures or fewer.

        Clicks come with the localizer's mask where one of them says that this is the structure.
        """
        given = prompter.structures if prompter is not None else ()
        theirs = [name for name in structures if name in given]
        ours = [name for name in structures if name in self.structures and name not in given]
        who = dict.fromkeys(ours, self.localizer.kind)
        said: dict[str, Prompt] = {}
        corrected: list[str] = []
        if prompter is not None:
            said = prompter.prompts(grid, theirs)
            who |= dict.fromkeys(theirs, prompter.kind)
            if prompter.kind is PromptKind.CLICKS:
                corrected = [name for name in said if name in self.structures]
        located = self.localizer.locate(grid, [*ours, *corrected]) if ours or corrected else {}
        for name in corrected:
            if name in located and _points_at(located[name], _on_grid(said[name].clicks, grid)):
                said[name] = replace(said[name], coarse=located[name])
        return who, {name: Prompt(located[name]) for name in ours if name in located} | said

    def _found(self, grid: Volume, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, _Found]]:
        """What each prompt comes to, one structure at a time or nearly so."""
        coarse = {n: p for n, p in prompts.items() if p.coarse is not None}
        for name, canvas, cubes in self._covered(grid, coarse):
            found = self._accepted(prompts[name], canvas, cubes)
            clicks = _on_grid(prompts[name].clicks, grid)
            yield name, self._clicked(name, grid, clicks, found) if clicks else found
        for name, prompt in prompts.items():
            if prompt.coarse is None:
                yield name, self._clicked(name, grid, _on_grid(prompt.clicks, grid), None)

    def _covered(self, grid: Volume, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Canvas, int]]:
        """Structures with a coarse mask, each as soon as its last cube is decoded."""
        patches = {name: self._patches(name, prompt) for name, prompt in prompts.items()}
        jobs = [patch for name in prompts for patch in patches[name]]
        canvases: dict[str, Canvas] = {}
        left = {name: len(patches[name]) for name in prompts}
        owners = SureOwners.of({n: p.coarse for n, p in prompts.items() if p.coarse is not None})
        for start in range(0, len(jobs), self.settings.batch):
            batch = jobs[start : start + self.settings.batch]
            questions = [self._question(prompts[patch.structure], patch) for patch in batch]
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

    def _patches(self, name: str, prompt: Prompt) -> list[Patch]:
        """Cubes that cover a coarse mask."""
        assert prompt.coarse is not None
        seeds = covering_seeds(prompt.coarse.mask, self.settings.reach_blocks)
        return [patch_at(name, seed, COARSE_FACTOR) for seed in seeds]

    def _question(self, prompt: Prompt, patch: Patch) -> Question:
        assert prompt.coarse is not None
        previous = None
        if self.coarse_prompt:
            coarse = torch.from_numpy(prompt.coarse.probability)
            previous = lay_over(coarse, patch, COARSE_FACTOR)[0].numpy()
        return Question(patch, (VoxelClick(patch.click_zyx),), previous)

    def clicked(self, name: str, grid: Volume, prompt: Prompt | None = None) -> ClickedStructure:
        """A structure to click on.

        Args:
            name: of the structure.
            grid: the image on the model grid.
            prompt: with a coarse mask: what becomes of it without clicks is what clicks correct.
        """
        begun = None
        if prompt is not None and prompt.coarse is not None:
            ((_, canvas, cubes),) = self._covered(grid, {name: prompt})
            begun = self._accepted(prompt, canvas, cubes)
        return self._clickable(name, grid, begun)

    def _clickable(self, name: str, grid: Volume, begun: _Found | None) -> ClickedStructure:
        known = named(name)
        most_voxels = None
        if known is not None and known.plausible_ml is not None:
            most_voxels = int(_LEAKED * known.plausible_ml[1] / grid.geometry.voxel_volume_ml)
        return ClickedStructure(
            name, grid.hu, self._decoder, self.settings.growth,
            cross_patch=self.cross_patch, most_voxels=most_voxels,
            begun=None if begun is None else (begun.box, begun.probability),
        )  # fmt: skip

    def _clicked(self, name: str, grid: Volume, clicks: Sequence[VoxelClick], begun: _Found | None) -> _Found:
        """What clicks make of a mask, or of nothing."""
        structure = self._clickable(name, grid, begun)
        canvas = structure.click(clicks).touched()
        cubes = structure.decoded + (begun.cubes if begun else 0)
        return _Found(canvas.box, canvas.probability(), cubes)

    def _accepted(self, prompt: Prompt, canvas: Canvas, cubes: int) -> _Found:
        """The refined mask where it is to be believed, else the coarse one."""
        assert prompt.coarse is not None and canvas.coarse is not None
        probability, localized = canvas.probability(), prompt.coarse.confidence
        coarse = _not_thinned(canvas.coarse, prompt.coarse, canvas.box)
        agreement, volume_ratio = _compared(probability > 0.5, coarse > 0.5)
        if self._believed(agreement, volume_ratio):
            return _Found(canvas.box, probability, cubes, Status.OK, None, agreement, localized)
        return _Found(canvas.box, coarse, cubes, Status.COARSE, "REFINEMENT_REJECTED", agreement, localized)

    def _enter(self, name: str, label: int, found: _Found, label_map: LabelMap, grid: Volume) -> Finding:
        """Enter a structure into the label map, and say what became of it."""
        probability = within_intensity(name, found.probability, grid.hu[found.box])
        mask = probability > 0.5
        label_map.claim(label, found.box, probability, mask)
        soft = float(probability[probability > 0.02].sum(dtype=np.float64)) * grid.geometry.voxel_volume_ml
        if not mask.any():
            return Finding(found.status, found.reason, found.cubes, None, soft)
        evidence = Evidence(sharpness(probability), found.agreement, found.localized)
        confidence = estimate(evidence, self.coefficients)
        return Finding(found.status, found.reason, found.cubes, confidence, soft, evidence)

    def _believed(self, agreement: float, volume_ratio: float) -> bool:
        """Whether a refined mask is near enough to the coarse one that asked for it."""
        low, high = self.settings.volume_ratio
        return agreement >= self.settings.least_dice and low <= volume_ratio <= high


def _points_at(coarse: CoarseStructure, clicks: Sequence[VoxelClick]) -> bool:
    """Whether a positive click lies in a coarse mask or in a block beside it."""
    blocks = [[i // COARSE_FACTOR for i in click.zyx] for click in clicks if click.positive]
    return any(coarse.mask[tuple(slice(max(0, b - 1), b + 2) for b in block)].any() for block in blocks)


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
