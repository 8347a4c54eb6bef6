"""One series on its way through the stages: what is known of it, and how a fault becomes an outcome."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ctsam3d.imaging.dicom import SeriesFacts
from ctsam3d.imaging.packed_labels import PackedLabels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Reason, Rejected, Status
from ctsam3d.prompting.prompt import PromptError
from ctsam3d.segmentation.result import StudySegmentation
from pipelines.manifest import SeriesRef
from pipelines.reasons import Failure, Withheld, status_of
from pipelines.records import StructureRow
from pipelines.series_prompts import SeriesPrompts
from pipelines.store import AccessDenied, Changed, NotFound, StoreError, Throttled


@dataclass(frozen=True, slots=True)
class Trace:
    """What a series cost.

    Attributes:
        seconds: per stage.
        peak_memory_bytes: of the largest process that worked on it, this series and the ones before it.
        bytes_read: from the source's store.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    bytes_read: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A series between two stages.

    Attributes:
        ref: the series as the manifest lists it.
        record_key: where its one record goes.
        status: OK until a stage finds otherwise.
        reason: a stable code; None while OK.
        detail: what was found, in numbers or the class of an exception; never a DICOM text value.
        facts: from the headers; None before loading.
        volume: in HU on the source grid; None before loading and after a fault.
        prompts: what somebody said of where its structures are; None where nobody did.
        labels: the label map that was said to be of it; None without one, and once the series is segmented.
        segmentation: labels on the source grid; None before segmenting.
        structures: a row per requested structure; None before measuring.
        trace: what it cost so far.
        attempt: the highest number of a counted attempt at one of its stages; None where none was counted.
    """

    ref: SeriesRef
    record_key: str
    status: Status = Status.OK
    reason: str | None = None
    detail: str | None = None
    facts: SeriesFacts | None = None
    volume: Volume | None = None
    prompts: SeriesPrompts | None = None
    labels: PackedLabels | None = None
    segmentation: StudySegmentation | None = None
    structures: tuple[StructureRow, ...] | None = None
    trace: Trace = field(default_factory=Trace)
    attempt: int | None = None

    def spent(self, stage: str, seconds: float, bytes_read: int = 0, child_peak_bytes: int = 0) -> Work:
        """The same work with a stage's cost added to its trace; of this process, or of a child that did the work."""
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        trace = Trace(
            {**self.trace.seconds, stage: round(seconds, 4)},
            max(self.trace.peak_memory_bytes, peak_bytes, child_peak_bytes),
            self.trace.bytes_read + bytes_read,
        )
        return replace(self, trace=trace)

    def withheld(self, reason: Withheld) -> Work:
        """The same work, given up without an outcome: it is not the series' fault, and nothing is recorded."""
        return self.stopped(reason)

    def stopped(self, reason: Reason | Failure | Withheld, detail: str | None = None) -> Work:
        """The same work with an outcome other than OK: its arrays are let go, nothing more is computed."""
        return replace(
            self,
            status=status_of(reason),
            reason=str(reason),
            detail=detail,
            volume=None,
            labels=None,
            segmentation=None,
        )


class DeviceLost(BaseException):
    """The device refuses every further call of this process; only another process can go on."""


def guarded(stage: str, step: Callable[[Work], Work], work: Work) -> Work:
    """Run one stage on one series; whatever it raises becomes the series' status and reason.

    A series that has already stopped passes through untouched. Of an exception nobody foresaw only the class
    is kept: its text may quote a header. A store that refuses its credentials is no fault of the series.

    Raises:
        DeviceLost: this process can compute nothing more.
    """
    if work.status is not Status.OK:
        return work
    start = time.monotonic()
    try:
        done = step(work)
    except Rejected as refusal:
        done = work.stopped(refusal.reason, refusal.detail)
    except PromptError as fault:  # its words are numbers, and names of the catalogue
        done = work.stopped(Reason.PROMPTS_INVALID, "; ".join(str(fault).splitlines()))
    except AccessDenied:
        done = work.withheld(Withheld.ACCESS_DENIED)
    except (Exception, SystemExit) as fault:  # Ray takes a worker that exits for one that was told to
        if _lost_device(fault):
            raise DeviceLost from None
        done = work.stopped(failure_of(fault), type(fault).__name__)
    return done.spent(stage, time.monotonic() - start)


def _lost_device(fault: BaseException) -> bool:
    """Whether CUDA says that this process's context is gone, as after an illegal access; torch is not imported here."""
    return type(fault).__name__ == "AcceleratorError" or (
        isinstance(fault, RuntimeError) and "CUDA error" in str(fault)
    )


def failure_of(fault: BaseException) -> Failure:
    """The stable code for an exception that is not a refusal of the input."""
    match fault:
        case NotFound():
            return Failure.OBJECT_VANISHED
        case Changed():
            return Failure.OBJECT_CHANGED
        case Throttled():
            return Failure.STORE_THROTTLED
        case StoreError():
            return Failure.STORE_READ
        case MemoryError():
            return Failure.MEMORY
        case _ if type(fault).__name__ == "OutOfMemoryError":  # torch's, not imported here
            return Failure.GPU_OOM
        case _ if type(fault).__name__ == "ModelOutputInvalid":  # the segmenter's, which would import torch
            return Failure.MODEL_NAN
        case _:
            return Failure.INTERNAL
