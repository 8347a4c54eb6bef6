"""Small cohorts for the tests of runs: numbers in, series written to a store, and what a run makes of them, out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydicom.uid import generate_uid

from ctsam3d.imaging.volume import Volume
from ctsam3d.segmentation.result import StudySegmentation
from pipelines import driver
from pipelines.config import InputLimits, RunConfig
from pipelines.driver import Stores, Summary
from pipelines.segmenters import Identity
from pipelines.store import Store
from tests.builders import ct_series, phantom_hu
from tests.threshold import STRUCTURES, Threshold

SHAPE_ZYX = (5, 10, 12)
_FIRST_MARK_HU = 500  # above all else in the phantom
LIMITS = InputLimits(min_extent_mm=0.0, check_hounsfield=False)


def series(number: int, **knobs: object) -> list[tuple[str, bytes]]:
    """Objects of a series of five slices of 10 rows and 12 columns; its brightest voxel says its number."""
    n, *shape = SHAPE_ZYX
    hu = phantom_hu(SHAPE_ZYX, number)
    hu[0, 0, 0] = _FIRST_MARK_HU + number
    return ct_series(**{"n": n, "shape": tuple(shape), "seed": number, "image_hu": hu} | knobs)


def write_series(store: Store, number: int, folder: str | None = None, **knobs: object) -> None:
    """The objects of `series` in a folder of their own."""
    for name, data in series(number, **knobs):
        store.put(f"{folder or f's{number:04}'}/{name}", data)


def uid_of(number: int) -> str:
    """The SeriesInstanceUID of series `number`."""
    return str(generate_uid(entropy_srcs=[f"series {number}"]))


def number_of(volume: Volume) -> int:
    """Which series a volume is of."""
    return int(np.asarray(volume.hu).max()) - _FIRST_MARK_HU


@dataclass(frozen=True)
class Scripted:
    """The threshold segmenter, with a part to play on some volumes.

    Attributes:
        threshold_hu: a setting, part of the results' names.
        weights: hexadecimal digit that names the weights.
        raises: number of a series -> what is raised for it.
        calls: numbers of the series segmented here, in order.
    """

    threshold_hu: int = -500
    weights: str = "0"
    raises: dict[int, BaseException] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def identity(self) -> Identity:
        return Identity(self.weights * 64, {"threshold_hu": self.threshold_hu}, STRUCTURES)

    def load(self, threads: int | None = None) -> Scripted:
        return self

    def segment(self, volume: Volume, structures: tuple[str, ...]) -> StudySegmentation:
        number = number_of(volume)
        self.calls.append(number)
        if number in self.raises:
            raise self.raises[number]
        return Threshold().segment(volume, structures)


def run(stores: Stores, segmenter: Scripted | None = None, **options: object) -> Summary:
    """A run in this process, unless `in_process` is False."""
    settings = {name: options.pop(name) for name in ("resources", "privacy") if name in options}
    config = RunConfig(limits=LIMITS, **settings)  # type: ignore[arg-type]
    return driver.run(stores, config, segmenter or Scripted(), **({"in_process": True} | options))  # type: ignore[arg-type]
