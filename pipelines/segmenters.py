"""Where a run's segmenter comes from: a name of weights in, their identity and a loaded segmenter out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ctsam3d.imaging.volume import Volume
    from ctsam3d.segmentation.segmenter import StudySegmentation


class Segmenter(Protocol):
    """Finds whole structures in one CT."""

    def segment(self, volume: Volume, structures: Sequence[str]) -> StudySegmentation:
        """Labels on the volume's own grid, and a finding for every structure asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a segmenter's results.

    Attributes:
        weights_sha256: of everything learned.
        settings: plain values that can change a result.
        structures: names it can find, in catalogue order.
    """

    weights_sha256: str
    settings: Mapping[str, Any]
    structures: tuple[str, ...]


class SegmenterSource(Protocol):
    """A recipe small enough to send to every replica."""

    def identity(self) -> Identity:
        """What the results are named by; raises ValueError or OSError where the weights cannot be used."""
        ...

    def load(self) -> Segmenter:
        """The segmenter with its weights in memory."""
        ...
