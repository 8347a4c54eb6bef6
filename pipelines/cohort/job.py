"""A run as its workers know it: rows of the manifest in, rows with a volume, and at last with an outcome, out.

A stage that may end its worker is in the ledger while it lasts, and watched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Status
from pipelines.budget import Budget, end_process
from pipelines.cohort.commit import Outcome, Stamp, commit
from pipelines.cohort.fetch import Decoding
from pipelines.cohort.load import load
from pipelines.cohort.measure import measure
from pipelines.cohort.prompt import prompt
from pipelines.cohort.rows import Row, from_row, to_row
from pipelines.cohort.segment import segment
from pipelines.cohort.work import DeviceLost, Work
from pipelines.config import Resources
from pipelines.ledger import LOAD, SEGMENT, Ledger
from pipelines.manifest import SeriesRef
from pipelines.reasons import Failure, Withheld
from pipelines.sandbox import is_supported, warm
from pipelines.segmenters import Segmenter, SegmenterSource
from pipelines.series_prompts import SeriesPrompts
from pipelines.store import AccessDenied, Store, StoreError


@dataclass(frozen=True, slots=True)
class Job:
    """What every task and replica of a run must know.

    Attributes:
        source: where the series' objects are.
        output: where records go.
        segmenter: recipe of the segmenter.
        structures: names asked of every series.
        limits: what a series may weigh.
        stamp: what the records say of their making.
        resources: how the cluster is used.
        prompts: where label maps are that somebody made of series; None where none are given.
    """

    source: Store
    output: Store
    segmenter: SegmenterSource
    structures: tuple[str, ...]
    limits: Limits
    stamp: Stamp
    resources: Resources
    prompts: Store | None = None

    @property
    def ledger(self) -> Ledger:
        """Attempts at the run's records."""
        return Ledger(self.output, self.resources.max_attempts)

    @property
    def budget(self) -> Budget:
        """What a stage of one series may cost."""
        return Budget(self.resources.series_timeout_s, self.resources.series_memory_bytes)

    def turn_away(self, row: Row) -> Row:
        """A row of the manifest in, one of a series that this run does not begin out."""
        return to_row(self._work(row).withheld(Withheld.NOT_BEGUN))

    def load(self, row: Row) -> Row:
        """A row of the manifest in, a row with a volume, and with what was said of it, out."""
        resources = self.resources
        sandbox = warm(resources.decode_timeout_s) if is_supported() else None
        decoding = Decoding(sandbox, resources.max_attempts, resources.decode_memory_bytes)

        def step(work: Work) -> Work:
            loaded = load(work, self.source, self.limits, resources.fetch_threads, decoding)
            return prompt(loaded, self.prompts, self.limits, decoding)

        return to_row(self._attempt(LOAD, step, self._work(row)))

    def segment(
        self, row: Row, segmenter: Segmenter, admits: Callable[[str], bool] = lambda key: True
    ) -> Row:
        """A row with a volume in, one with labels out; a series that has stopped passes through.

        One that may not begin any more, by its key, is given up as if it had never been loaded.
        """

        def step(work: Work) -> Work:
            return segment(work, segmenter, self.structures)

        work = from_row(row)
        if work.status is Status.OK and not admits(work.ref.series_key):
            return to_row(work.withheld(Withheld.NOT_BEGUN))
        return to_row(self._attempt(SEGMENT, step, work))

    def commit(self, row: Row) -> Outcome:
        """A row with labels in, one record written, its outcome out.

        An output that does not take the record leaves the series as it was: a later run takes it up again.
        """
        work = from_row(row)
        if work.reason in list(Withheld):
            return Outcome(work.ref.series_key, work.status, work.reason)
        with self.budget.watch(lambda cause: None):
            try:
                return commit(measure(work, self.structures), self.output, self.structures, self.stamp)
            except AccessDenied:
                withheld = work.withheld(Withheld.ACCESS_DENIED)
            except StoreError:
                withheld = work.withheld(Withheld.NOT_WRITTEN)
        return Outcome(withheld.ref.series_key, withheld.status, withheld.reason)

    def _work(self, row: Row) -> Work:
        ref, stamp = SeriesRef.from_columns(row), self.stamp
        said = row.get("prompts")
        prompts = SeriesPrompts.from_json(said) if said else None
        return Work(ref, ref.record_key(stamp.config_hash, stamp.weights_sha256), prompts=prompts)

    def _attempt(self, stage: str, step: Callable[[Work], Work], work: Work) -> Work:
        """One counted and watched attempt at a stage; a series that used up its attempts is poisoned."""
        if work.status is not Status.OK:
            return work
        key, ledger = work.record_key, self.ledger
        try:
            number = ledger.begin(key, stage)
            if number is None:
                return work.stopped(ledger.cause(key, stage), f"{ledger.max_attempts} attempts to {stage}")
        except AccessDenied:
            return work.withheld(Withheld.ACCESS_DENIED)
        except StoreError:
            return work.withheld(Withheld.NOT_WRITTEN)

        def blame(cause: Failure) -> None:
            ledger.blame(key, stage, number, cause)

        with self.budget.watch(blame):
            try:
                done = step(work)
            except DeviceLost:  # nothing this process holds on the device can be used again
                end_process(lambda: blame(Failure.DEVICE_LOST))
        ledger.end(key, stage, number)
        return replace(done, attempt=max(number, work.attempt or 0))
