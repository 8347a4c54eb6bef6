"""What is known of a structure before the network is asked: a coarse mask, clicks, or both; and who may say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.volume import Volume

COARSE_FACTOR = 4  # model voxels (1.5 mm) a side of one coarse block (6 mm)


class PromptKind(StrEnum):
    """Who says where a structure is."""

    LOCALIZER = "localizer"  # a coarse network, nobody needed
    MASK = "mask"  # a label map that somebody else made of the study
    CLICKS = "clicks"  # points chosen by a person


class PromptError(ValueError):
    """Prompts that cannot be used; the message says what was found, what was expected and where."""


@dataclass(frozen=True, slots=True)
class Click:
    """One point chosen by a person or drawn from a truth.

    Attributes:
        xyz_mm: where, in LPS+ millimetres of the patient.
        positive: in the structure, or in what was taken for it and is not.
    """

    xyz_mm: tuple[float, float, float]
    positive: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class CoarseStructure:
    """One structure on blocks of COARSE_FACTOR^3 voxels of the model grid.

    Attributes:
        mask: bool (z, y, x).
        probability: float32 (z, y, x), of this structure rather than the likeliest other; above 0.5 in the mask.
        confidence: mean probability among all classes within the mask.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Where one structure is said to be: at least a coarse mask or one positive click.

    Attributes:
        coarse: its coarse mask, or None where only clicks are known.
        clicks: in the order in which they were made.
    """

    coarse: CoarseStructure | None = None
    clicks: tuple[Click, ...] = ()

    def __post_init__(self) -> None:
        if self.coarse is None and not any(click.positive for click in self.clicks):
            raise ValueError("expected a coarse mask or a positive click, found neither")


class Prompter(Protocol):
    """Says where structures are in a volume."""

    @property
    def kind(self) -> PromptKind:
        """What sort of prompter it is: goes into every result."""
        ...

    @property
    def structures(self) -> tuple[str, ...]:
        """Names that it can find or has been given."""
        ...

    def prompts(self, grid: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        """A prompt for each structure that is there; those that are not are left out.

        Args:
            grid: on the model grid, 1.5 mm, axes along LPS+.
            structures: names out of `structures`.

        Raises:
            PromptError: what is said of them cannot be of this volume.
        """
        ...
