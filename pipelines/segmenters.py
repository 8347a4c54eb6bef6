"""Where a run's segmenter comes from: a name of weights in, their identity and a loaded segmenter out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.faults import UsageError

if TYPE_CHECKING:
    from ctsam3d.imaging.volume import Volume
    from ctsam3d.prompting.prompt import Prompter
    from ctsam3d.segmentation.result import StudySegmentation


class Segmenter(Protocol):
    """Finds whole structures in one CT."""

    def segment(
        self, volume: Volume, structures: Sequence[str], prompter: Prompter | None = None
    ) -> StudySegmentation:
        """Labels on the volume's own grid, and a finding for every structure asked for.

        Of its own structures a prompter is believed; the segmenter finds the others in its own way. One whose series
        nobody says anything of is never given a prompter.
        """
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a segmenter's results.

    Attributes:
        weights_sha256: of everything learned.
        settings: plain values that can change a result.
        structures: names it can find, in catalogue order.
        source: the recipe with everything settled that the machine which first loaded it decided; None for the one
            that was asked.
    """

    weights_sha256: str
    settings: Mapping[str, Any]
    structures: tuple[str, ...]
    source: SegmenterSource | None = None


class SegmenterSource(Protocol):
    """A recipe small enough to send to every replica."""

    def identity(self) -> Identity:
        """What the results are named by; raises UsageError where the weights cannot be used."""
        ...

    def load(self, threads: int | None = None) -> Segmenter:
        """The segmenter with its weights in memory.

        Args:
            threads: that this process computes with; None leaves it to its libraries.
        """
        ...


@dataclass(frozen=True, slots=True)
class BundledOrFile:
    """The project's own segmenter, by the name of bundled weights or the path of a checkpoint.

    On a cluster of several machines the name or path must mean the same on each of them.

    Attributes:
        weights: the name or path.
        precision: of the network's convolutions; "auto" for the fastest that answers as float32 does on the machine
            that loads it.
    """

    weights: str
    precision: str = "auto"

    def identity(self) -> Identity:
        """Loads the weights to see that they can be used, before a cluster is started for them.

        The localizer's weights come with the code and not by name: they count as a setting.

        Raises:
            UsageError: weights that cannot be used.
        """
        from ctsam3d.network.checkpoint import CheckpointError, sha256
        from ctsam3d.segmentation.segmenter import LOCALIZER_FILE

        try:
            segmenter = self.load()
            settings = asdict(segmenter.settings) | {"localizer_sha256": sha256(LOCALIZER_FILE)}
        except CheckpointError as fault:
            raise UsageError(str(fault)) from None
        # replicas on other machines must not decide otherwise: their results go by one name
        settled = replace(self, precision=str(segmenter.settings.precision))
        return Identity(segmenter.weights_sha256, settings, segmenter.structures, settled)

    def load(self, threads: int | None = None) -> Any:
        """On the device torch finds: a GPU of this process, else the CPU."""
        import torch

        from ctsam3d.network.precision import Precision
        from ctsam3d.segmentation.segmenter import Segmenter, Settings

        if threads is not None:
            torch.set_num_threads(threads)  # before the first tensor
        precision = None if self.precision == "auto" else Precision(self.precision)
        return Segmenter.load(self.weights, device="auto", settings=Settings(precision=precision))
