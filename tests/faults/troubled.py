"""A segmenter that gets its worker into trouble: a series' number in, what happens to the process that segments it out.

Every start, attempt and part played leaves a file in `notes`, so that a test can tell that its fault has fired.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from ctsam3d.imaging.volume import Volume
from ctsam3d.segmentation.result import StudySegmentation
from pipelines.segmenters import Identity
from tests.faults.cohort import number_of
from tests.threshold import STRUCTURES, Threshold

SECRET = "CANARYSPOKEN"  # what careless code would put into an exception's words


class Part(StrEnum):
    """What a series does to the process that segments it."""

    KILL = "kill"
    EXIT = "exit"  # with code 0, which no `except` sees
    LEAVE = "leave"  # SystemExit
    RAISE = "raise"
    DEVICE_FULL = "device_full"
    DEVICE_LOST = "device_lost"
    EAT = "eat"  # memory, without end
    HANG = "hang"
    STOP = "stop"  # the process stands still, as where a machine is frozen
    SLOW = "slow"


class AcceleratorError(RuntimeError):
    """As torch raises it, by name, when a device can no longer be used."""


class OutOfMemoryError(RuntimeError):
    """As torch raises it, by name, when a device is full."""


@dataclass(frozen=True)
class Troubled:
    """Where the segmenter comes from.

    Attributes:
        notes: a folder.
        parts: number of a series -> what it does, every time.
        once: the same, the first time only.
        seconds: every series takes.
    """

    notes: Path
    parts: dict[int, Part]
    once: dict[int, Part]
    seconds: float = 0.0

    def identity(self) -> Identity:
        return Identity("0" * 64, {"threshold_hu": -500}, STRUCTURES)

    def load(self, threads: int | None = None) -> Troubled:
        core_bytes = resource.getrlimit(resource.RLIMIT_CORE)[0]
        (self.notes / f"start-{os.getpid()}").write_text(str(core_bytes))
        return self

    def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
        number = number_of(volume)
        (self.notes / f"attempt-{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
        first = not (self.notes / f"played-{number}").exists()
        part = self.parts.get(number) or (self.once.get(number) if first else None)
        if part:
            (self.notes / f"played-{number}").touch()
            play(part)
        time.sleep(self.seconds)
        return Threshold().segment(volume, structures)


def play(part: Part) -> None:
    """Do it to this process."""
    if part is Part.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif part is Part.EXIT:
        os._exit(0)
    elif part is Part.LEAVE:
        sys.exit(0)
    elif part is Part.RAISE:
        raise RuntimeError(f"careless words about {SECRET}")
    elif part is Part.DEVICE_FULL:
        raise OutOfMemoryError("CUDA out of memory")
    elif part is Part.DEVICE_LOST:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")
    elif part is Part.EAT:
        kept = []
        while True:
            kept.append(np.ones(4 << 20))
    elif part is Part.HANG:
        time.sleep(3600)
    elif part is Part.STOP:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif part is Part.SLOW:
        time.sleep(3.0)


def attempts(notes: Path) -> Counter[int]:
    """How often each series was segmented, by its number."""
    return Counter(int(note.name.split("-")[1]) for note in notes.glob("attempt-*"))


def played(notes: Path) -> set[int]:
    """Numbers of the series that got a process into trouble."""
    return {int(note.name.split("-")[1]) for note in notes.glob("played-*")}
