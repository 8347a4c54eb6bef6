"""A real but simple segmenter, body and lungs by threshold, for tests where the network is not the point.

A source may be told to note its environment, or to be slow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.result import Finding, StudySegmentation
from pipelines.segmenters import Identity

IDS = {"lung_left": 1, "lung_right": 2, "skeletal_muscle": 3}
STRUCTURES = (*IDS, "brain")


@dataclass(frozen=True)
class Threshold:
    """Lungs below -500 HU, left and right of the middle; the rest of the body as muscle."""

    seconds: float = 0.0

    def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
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
        return StudySegmentation(labels, found, findings, {"segment": self.seconds})


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

    def load(self) -> _Noting:
        if self.notes:
            (self.notes / f"load-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        return _Noting(self)


@dataclass(frozen=True)
class _Noting:
    source: ThresholdSource

    def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
        notes = self.source.notes
        lung_voxels = int(((volume.hu < -500) & (volume.hu > -950)).sum())
        if notes:
            (notes / f"segment-{os.getpid()}-{time.monotonic_ns()}").write_text(str(lung_voxels))
        return Threshold(self.source.seconds).segment(volume, structures)
