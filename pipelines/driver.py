"""Drive a run: source, output and settings in; every series recorded, tables published, a summary out.

    discover -> plan (which records are missing) -> Ray graph over those, until there are none -> publish

A driver holds no state: killed at any moment and started again it finds in the output what is done, and does
the rest.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.anatomy.structures import resolve
from ctsam3d.imaging.decoders import DecoderMissing, check_decoders
from ctsam3d.outcome import Status
from pipelines import identity, parquet
from pipelines.arrow_files import arrow_location
from pipelines.cohort import serial
from pipelines.cohort.commit import Outcome, Stamp, commit
from pipelines.cohort.discover import EmptySource, discover
from pipelines.cohort.job import Job
from pipelines.cohort.work import Work
from pipelines.cohort_prompts import CohortPrompts
from pipelines.config import RunConfig, config_hash, limits_of, meaning
from pipelines.faults import Aborted, UsageError
from pipelines.ledger import forget_attempts
from pipelines.manifest import Manifest, SeriesRef
from pipelines.parquet import ParquetDamaged
from pipelines.prefetch import prefetch
from pipelines.progress import Progress
from pipelines.pseudonyms import Pseudonyms
from pipelines.reasons import RETRIABLE, Failure, Withheld
from pipelines.records import RecordDamaged, read_record
from pipelines.repair import set_aside, set_aside_records, set_aside_tables
from pipelines.runs import Run, save_run
from pipelines.schemas import PENDING
from pipelines.segmenters import SegmenterSource
from pipelines.shards import MASK_FILES, RUN_FILES, SERIES_FILES, STRUCTURE_FILES
from pipelines.store import NotFound, Store, StoreError, Throttled, open_store
from pipelines.store_address import is_s3, local_path, without_slash
from pipelines.supervise import Breaker, Watchdog, stopping
from pipelines.tables import publish
from pipelines.version import code_version

_WRITERS = 16
_PENDING = "pending-"
_WATCHDOG_LATER_S = 30.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run ended with.

    Attributes:
        run_id: the run's name.
        series_by_status: of every series the source holds.
        computed: series whose record this very command made.
        output: address of the output store.
        prompted: series with prompts among those of the source; None where no prompts were given.
        prompts_unused: series with prompts that the source does not have.
    """

    run_id: str
    series_by_status: dict[str, int]
    computed: int
    output: str
    prompted: int | None = None
    prompts_unused: int = 0

    @property
    def tables(self) -> dict[str, str]:
        """Where each table's files are."""
        layouts = (STRUCTURE_FILES, SERIES_FILES, MASK_FILES, RUN_FILES)
        return {layout.name: f"{self.output.rstrip('/')}/{layout.prefix}/" for layout in layouts}

    @property
    def is_clean(self) -> bool:
        """Whether every series ended OK."""
        return set(self.series_by_status) <= {Status.OK}


@dataclass(frozen=True, slots=True)
class Stores:
    """Where series come from and where records go, both known to answer."""

    source: Store
    output: Store


def open_stores(source: str, output: str, endpoint_url: str | None = None) -> Stores:
    """Open both ends of a run and make sure that they can serve it.

    Raises:
        UsageError: a missing folder or bucket, refused credentials, one inside the other, a store that is not
            safe for records.
        Aborted: a store that asks for fewer requests; the same command may be repeated.
    """
    try:
        opened = open_store(source, endpoint_url)
        ends = [_place(uri) for uri in (source, output)]
        if ends[0].startswith(ends[1]) or ends[1].startswith(ends[0]):
            raise UsageError(
                f"{output}: source and output lie one inside the other; expected separate places"
            )
        stores = Stores(opened, open_store(output, endpoint_url, create=True))
        stores.output.check_put_if_absent()
    except Throttled as fault:  # it is there, and will answer later
        raise Aborted(str(fault)) from None
    except StoreError as fault:
        raise UsageError(str(fault)) from None
    return stores


def run(
    stores: Stores,
    config: RunConfig,
    segmenter: SegmenterSource,
    *,
    prompts: CohortPrompts | None = None,
    retry_failed: bool = False,
    replace_damaged: bool = False,
    in_process: bool = False,
) -> Summary:
    """Compute what is missing and publish the tables.

    Args:
        stores: source and output.
        config: what is asked for.
        segmenter: where replicas get their weights.
        prompts: what is said of series, before what the segmenter finds by itself.
        retry_failed: compute series again that failed, were lost or poisoned; rejected ones stay.
        replace_damaged: set records and tables aside that cannot be believed, and make them again.
        in_process: one series after the other in this process, without Ray.

    Raises:
        UsageError: unusable weights, an unknown structure, a source without objects, a missing decoder, prompts of
            no series of the source.
        Aborted: the cluster or a store gave up, or the run was told to stop; the same command continues.
    """
    try:
        check_decoders()  # now, and not after hours at the first series that needs it
    except DecoderMissing as lack:
        raise UsageError(str(lack)) from None
    key_file = config.privacy.pseudonym_key_file
    pseudonyms = Pseudonyms.of_file(Path(key_file)) if key_file else None
    known = segmenter.identity()
    segmenter = known.source or segmenter
    structures = _asked_for(config, known.structures, prompts)
    if prompts and pseudonyms:
        prompts = prompts.renamed(pseudonyms)
    try:
        found = discover(stores.source, limits_of(config), pseudonyms=pseudonyms).manifest
        prompted = _prompted(found, prompts)
        if prompts:
            found = found.prompted({uid: said.digest for uid, said in prompts.by_series.items()})
        manifest = found.renamed(partial(pseudonyms.text, "object")) if pseudonyms else found
        kept = meaning(config, structures, known.settings, pseudonyms.fingerprint if pseudonyms else None)
        plan = Run.of(manifest, structures, kept, config_hash(kept), known.weights_sha256, code_version())
        if retry_failed:
            _forget(stores.output, plan)
        if replace_damaged:
            set_aside_records(stores.output, plan)
        done = recorded(stores.output)
        pending, refused = _missing(plan, done)
        missing = len(pending) + len(refused)
        stamp = Stamp(plan.run_id, plan.weights_sha256, plan.config_hash, plan.code_version)
        if refused:
            _commit_all(_refused(plan, refused), stores.output, plan, stamp)
        job = Job(
            source=stores.source,
            output=stores.output,
            segmenter=segmenter,
            structures=plan.structures,
            limits=limits_of(config),
            stamp=stamp,
            resources=config.resources,
            prompts=prompts.store if prompts else None,
        )
        # A series may be lost with its worker where Ray tries nothing again. Each round counts as an attempt, so that
        # of the last one it comes out with a reason.
        with _machines(config) if pending and not in_process else nullcontext():
            for _ in range(config.resources.max_attempts + 1):
                if pending:
                    rows = _rows(found, frozenset(pending.values()), prompts)
                    _compute(job, plan, rows, len(pending), in_process)
                    done = recorded(stores.output)
                    pending = {key: series for key, series in pending.items() if key not in done}
        if pending:
            _commit_all(_lost(plan, pending), stores.output, plan, stamp)
        # A run is saved once it is whole: a killed one leaves only records, which any later run may use.
        save_run(stores.output, plan)
        rebuild = bool(replace_damaged and set_aside_tables(stores.output))
        published = publish(stores.output, plan, rebuild=rebuild, suspects=set_aside(stores.output))
        _sweep(stores.output, plan)
    except EmptySource as fault:
        raise UsageError(str(fault)) from None
    except StoreError as fault:
        raise Aborted(str(fault)) from fault
    except ParquetDamaged as damage:
        raise Aborted(f"{damage}; --replace-damaged makes it again") from damage
    return Summary(
        run_id=plan.run_id,
        series_by_status=published.series_by_status,
        computed=missing,
        output=stores.output.uri,
        prompted=prompted if prompts else None,
        prompts_unused=len(prompts.by_series) - prompted if prompts else 0,
    )


def recorded(output: Store) -> set[str]:
    """Names of the records that exist: what is in here is done."""
    keys = (entry.key.rpartition("/")[2].removesuffix(".parquet") for entry in output.list("records"))
    return {key for key in keys if identity.is_key(key)}


def _place(uri: str) -> str:
    """One spelling of an address, ending in a slash."""
    return (without_slash(uri) if is_s3(uri) else str(local_path(uri).resolve())) + "/"


def _asked_for(config: RunConfig, own: tuple[str, ...], prompts: CohortPrompts | None) -> tuple[str, ...]:
    """The structures of every series: "all" are the segmenter's own, and those that somebody has clicked on."""
    clicked = prompts.clicked if prompts else ()
    nameable = prompts.nameable if prompts else ()
    everything = (*own, *(name for name in clicked if name not in own))
    available = (*own, *(name for name in CATALOGUE if name in nameable and name not in own))
    try:
        return resolve(",".join(config.structures), available, everything)
    except ValueError as fault:
        raise UsageError(str(fault)) from None


def _prompted(manifest: Manifest, prompts: CohortPrompts | None) -> int:
    """How many of the series with prompts the source has. UsageError for none at all."""
    if prompts is None:
        return 0
    found = len(prompts.by_series.keys() & set(manifest.column("series_instance_uid")))
    if not found:
        raise UsageError(
            f"{prompts.address}: it says something of {len(prompts.by_series)} series, and the source has none of them"
        )
    return found


def _missing(plan: Run, done: Container[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Series without a record, by the record's name: those to compute, and those the manifest already refused."""
    pending: dict[str, str] = {}
    refused: dict[str, str] = {}
    for ref in plan.manifest:
        key = plan.record_key(ref)
        if key not in done:
            (pending if ref.status is Status.OK else refused)[key] = ref.series_key
    return pending, refused


def _rows(manifest: Manifest, series: Container[str], prompts: CohortPrompts | None) -> Iterator[pa.Table]:
    """The manifest's rows of these series, some at a time, each with its own prompts beside it."""
    for group in manifest.groups():
        rows = group.filter(pa.array([key in series for key in group["series_key"].to_pylist()], pa.bool_()))
        if rows.num_rows:
            said = [
                prompts.by_series[uid].to_json() if prompts and digest is not None else None
                for uid, digest in zip(
                    *(rows[name].to_pylist() for name in ("series_instance_uid", "prompts_digest")),
                    strict=True,
                )
            ]
            yield rows.append_column(PENDING.field("prompts"), pa.array(said, pa.string()))


def _refused(plan: Run, refused: Container[str]) -> Iterator[Work]:
    """Series the manifest already refused: nothing to compute, a record all the same."""
    for ref in plan.manifest:
        if ref.status is not Status.OK and (key := plan.record_key(ref)) in refused:
            yield Work(ref, key, ref.status, ref.reason, ref.detail)


def _lost(plan: Run, lost: Container[str]) -> Iterator[Work]:
    """Series, by the names of their records, that the graph came to its end without."""
    for ref in plan.manifest:
        if (key := plan.record_key(ref)) in lost:
            yield Work(ref, key, Status.LOST, str(Failure.WORKER_LOST))


def _compute(job: Job, plan: Run, rows: Iterable[pa.Table], count: int, in_process: bool) -> None:
    """Compute the pending series, showing progress. A run with nothing to do never imports Ray.

    Raises:
        Aborted: told to stop, standing still, failing as a whole, or an output that took not every record.
    """
    compute = _in_process if in_process else _on_cluster
    resources, progress = job.resources, Progress(count)
    # A little longer than the graph's own limit, which explains itself better.
    limit_s = resources.longest_wait_s
    watchdog = Watchdog(limit_s + min(_WATCHDOG_LATER_S, limit_s / 2))
    breaker = Breaker(resources.judge_after_series, resources.max_share_of_one_reason)
    ended = unwritten = 0
    try:
        with stopping() as stop, watchdog.watching():
            for outcome in compute(job, plan, rows, count, stop):
                watchdog.seen()
                progress.add(outcome.status)
                breaker.add(outcome)
                ended += 1
                unwritten += outcome.reason == Withheld.NOT_WRITTEN
    finally:
        progress.close()
    if stop.is_set():
        raise Aborted(f"told to stop: {count - ended} series are left")
    if unwritten:
        raise Aborted(f"{job.output.uri}: did not take the records of {unwritten} series")


def _machines(config: RunConfig) -> AbstractContextManager[None]:
    """The cluster, imported and started only where there is something to compute."""
    from pipelines.cluster import cluster

    return cluster(config.resources.address)


def _in_process(
    job: Job, plan: Run, rows: Iterable[pa.Table], count: int, stop: threading.Event
) -> Iterator[Outcome]:
    series = (batch for group in rows for batch in group.to_batches(max_chunksize=1))
    yield from serial.compute(job, (row for batch in series for row in batch.to_pylist()), stop)


def _on_cluster(
    job: Job, plan: Run, rows: Iterable[pa.Table], count: int, stop: threading.Event
) -> Iterator[Outcome]:
    from pipelines.cohort import graph

    key = f"runs/{plan.run_id}/{_PENDING}{uuid.uuid4().hex}.parquet"
    job.output.put(key, parquet.write(rows, PENDING))
    try:
        path, filesystem = arrow_location(job.output, key)
        yield from graph.compute(job, path, count, filesystem, stop)
    finally:
        job.output.delete(key)


def _sweep(output: Store, plan: Run) -> None:
    """Delete the lists of pending series that killed drivers of this run left behind."""
    for entry in list(output.list(f"runs/{plan.run_id}")):
        if entry.key.rpartition("/")[2].startswith(_PENDING):
            output.delete(entry.key)


def _commit_all(ended: Iterable[Work], output: Store, plan: Run, stamp: Stamp) -> None:
    """Write records for series that ended without being computed."""
    for _ in prefetch(lambda work: commit(work, output, plan.structures, stamp), ended, _WRITERS):
        pass


def _forget(output: Store, plan: Run) -> None:
    """Delete the run's records of series that may end otherwise when tried again, damaged ones too."""

    def forget(ref: SeriesRef) -> None:
        path = identity.record_path(plan.record_key(ref))
        try:
            status = str(read_record(output.get(path), masks=False).series["status"][0])
        except NotFound:
            return
        except RecordDamaged:
            status = Status.LOST
        if status in RETRIABLE:
            forget_attempts(output, plan.record_key(ref))  # first: kept, they would poison it again unseen
            output.delete(path)

    for _ in prefetch(forget, plan.manifest, _WRITERS):
        pass
