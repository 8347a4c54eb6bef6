"""A real but simple segmenter, body and lungs by threshold, for tests where the network is not the point.

It takes prompts: a mask as it is, and of a click the piece of lung, of body or of air that it is in.
A source may be told to note its environment, or to be slow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.prompting.prompt import COARSE_FACTOR, Prompt, Prompter
from ctsam3d.segmentation.result import Finding, StudySegmentation
from pipelines.segmenters import Identity

IDS = {"lung_left": 1, "lung_right": 2, "skeletal_muscle": 3}
STRUCTURES = (*IDS, "brain")


@dataclass(frozen=True)
class Threshold:
    """Lungs below -500 HU, left and right of the middle; the rest of the body as muscle."""

    seconds: float = 0.0

    def segment(
        self, volume: Volume, structures: Sequence[str], prompter: Prompter | None = None
    ) -> StudySegmentation:
        time.sleep(self.seconds)
        body = volume.hu > -500
        middle = volume.hu.shape[2] // 2
        x = np.arange(volume.hu.shape[2])[None, None, :]
        lung = (volume.hu < -500) & (volume.hu > -950)
        labels = np.zeros(volume.hu.shape, np.uint8)
        labels[body] = IDS["skeletal_muscle"]
        labels[lung & (x >= middle)] = IDS["lung_left"]
        labels[lung & (x < middle)] = IDS["lung_right"]
        found = {name: IDS[name] for name in structures if name in IDS}
        labels[~np.isin(labels, list(found.values()))] = 0
        findings = {
            name: Finding(Status.OK if name in found else Status.ABSENT, clicks=1, confidence=1.0)
            for name in structures
        }
        if prompter is not None:
            _prompted(prompter, volume, structures, labels, found, findings)
        return StudySegmentation(labels, found, findings, {"segment": self.seconds})


def _prompted(
    prompter: Prompter,
    volume: Volume,
    structures: Sequence[str],
    labels: np.ndarray,
    ids: dict[str, int],
    findings: dict[str, Finding],
) -> None:
    """Enter what the prompter says into labels, ids and findings."""
    names = [name for name in structures if name in prompter.structures]
    grid = to_model_grid(volume)
    said = prompter.prompts(grid, names)
    for name in names:
        labels[labels == ids.get(name, 255)] = 0
        ids.pop(name, None)
        findings[name] = Finding(Status.ABSENT, prompter=prompter.kind)
        if name not in said:
            continue
        ids[name] = max(ids.values(), default=0) + 1
        labels[_meant(said[name], volume, grid)] = ids[name]
        findings[name] = Finding(Status.OK, clicks=1, confidence=1.0, prompter=prompter.kind)
    for name in ids.keys() - set(names):
        if not (labels == ids[name]).any():  # a click claimed all of it
            del ids[name]
            findings[name] = Finding(Status.ABSENT)


def _meant(prompt: Prompt, volume: Volume, grid: Volume) -> np.ndarray:
    """What a prompt points at, bool on the volume's grid."""
    if prompt.coarse is not None:
        blocks = prompt.coarse.mask.astype(np.uint8)
        for axis, size in enumerate(grid.hu.shape):
            blocks = np.take(blocks, np.arange(size) // COARSE_FACTOR, axis=axis)
        return labels_to_source(blocks, grid.geometry, volume.geometry) > 0
    from scipy import ndimage

    click = next(click for click in prompt.clicks if click.positive)
    at = tuple(int(i) for i in np.rint(volume.geometry.to_index_zyx(np.array([click.xyz_mm]))[0]))
    kinds = np.digitize(volume.hu, (-950, -500))
    pieces, _ = ndimage.label(kinds == kinds[at])
    return pieces == pieces[at]


@dataclass(frozen=True)
class ThresholdSource:
    """Where a test's segmenter comes from.

    Attributes:
        seconds: each series takes.
        notes: folder where every load and every series leaves a file.
    """

    seconds: float = 0.0
    notes: Path | None = None

    def identity(self) -> Identity:
        return Identity("0" * 64, {"threshold_hu": -500}, STRUCTURES)

    def load(self, threads: int | None = None) -> _Noting:
        if self.notes:
            (self.notes / f"load-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        return _Noting(self)


@dataclass(frozen=True)
class _Noting:
    source: ThresholdSource

    def segment(
        self, volume: Volume, structures: Sequence[str], prompter: Prompter | None = None
    ) -> StudySegmentation:
        notes = self.source.notes
        lung_voxels = int(((volume.hu < -500) & (volume.hu > -950)).sum())
        if notes:
            (notes / f"segment-{os.getpid()}-{time.monotonic_ns()}").write_text(str(lung_voxels))
        return Threshold(self.source.seconds).segment(volume, structures, prompter)
