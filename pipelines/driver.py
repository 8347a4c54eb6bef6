"""Drive a run: source, output and settings in; every series recorded, tables published, a summary out.

    discover -> plan (which records are missing) -> Ray graph over those -> reconcile -> publish

A driver holds no state: killed at any moment and started again it finds in the output what is done, and does
the rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ctsam3d.anatomy.structures import resolve
from ctsam3d.outcome import Status
from pipelines import identity, parquet
from pipelines.arrow_files import arrow_location
from pipelines.cohort.commit import Stamp, commit
from pipelines.cohort.discover import EmptySource, discover
from pipelines.cohort.work import Work
from pipelines.config import RunConfig, config_hash, limits_of, meaning
from pipelines.faults import Aborted, UsageError
from pipelines.manifest import Manifest, SeriesRef
from pipelines.progress import Progress
from pipelines.reasons import RETRIABLE, Failure
from pipelines.records import RecordDamaged, read_record
from pipelines.runs import Run, save_run
from pipelines.schemas import MANIFEST
from pipelines.segmenters import SegmenterSource
from pipelines.shards import MASK_FILES, RUN_FILES, SERIES_FILES, STRUCTURE_FILES
from pipelines.store import NotFound, Store, StoreError, open_store
from pipelines.store_address import is_s3, local_path, without_slash
from pipelines.tables import publish
from pipelines.version import code_version

_WRITERS = 16
_PENDING = "pending-"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run ended with.

    Attributes:
        run_id: the run's name.
        series_by_status: of every series the source holds.
        computed: series whose record this very command made.
        output: address of the output store.
    """

    run_id: str
    series_by_status: dict[str, int]
    computed: int
    output: str

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
    except StoreError as fault:
        raise UsageError(str(fault)) from None
    return stores


def run(
    stores: Stores, config: RunConfig, segmenter: SegmenterSource, *, retry_failed: bool = False
) -> Summary:
    """Compute what is missing and publish the tables.

    Args:
        stores: source and output.
        config: what is asked for.
        segmenter: where replicas get their weights.
        retry_failed: compute series again that failed, were lost or poisoned; rejected ones stay.

    Raises:
        UsageError: unusable weights, an unknown structure, a source without objects.
        Aborted: the cluster or a store gave up; the same command continues.
    """
    known = segmenter.identity()
    try:
        structures = resolve(",".join(config.structures), known.structures)
    except ValueError as fault:
        raise UsageError(str(fault)) from None
    try:
        manifest = discover(stores.source, limits_of(config)).manifest
        plan = _plan(manifest, structures, config, known.weights_sha256, known.settings)
        if retry_failed:
            _forget(stores.output, plan)
        done = recorded(stores.output)
        missing = [ref for ref in manifest if plan.record_key(ref) not in done]
        stamp = Stamp(plan.run_id, plan.weights_sha256, plan.config_hash, plan.code_version)
        _commit_all(
            (_refused(ref, plan) for ref in missing if ref.status is not Status.OK),
            stores.output,
            plan,
            stamp,
        )
        pending = [ref.series_key for ref in missing if ref.status is Status.OK]
        if pending:
            _compute(stores, plan, stamp, config, segmenter, pending)
            _reconcile(stores.output, plan, stamp, pending)
        # A run is saved once it is whole: a killed one leaves only records, which any later run may use.
        save_run(stores.output, plan)
        published = publish(stores.output, plan)
        _sweep(stores.output, plan)
    except EmptySource as fault:
        raise UsageError(str(fault)) from None
    except StoreError as fault:
        raise Aborted(str(fault)) from fault
    return Summary(plan.run_id, published.series_by_status, len(missing), stores.output.uri)


def recorded(output: Store) -> set[str]:
    """Names of the records that exist: what is in here is done."""
    keys = (entry.key.rpartition("/")[2].removesuffix(".parquet") for entry in output.list("records"))
    return {key for key in keys if identity.is_key(key)}


def _place(uri: str) -> str:
    """One spelling of an address, ending in a slash."""
    return (without_slash(uri) if is_s3(uri) else str(local_path(uri).resolve())) + "/"


def _plan(
    manifest: Manifest,
    structures: tuple[str, ...],
    config: RunConfig,
    weights_sha256: str,
    settings: Mapping[str, Any],
) -> Run:
    kept = meaning(config, structures, settings)
    return Run.of(manifest, structures, kept, config_hash(kept), weights_sha256, code_version())


def _refused(ref: SeriesRef, plan: Run) -> Work:
    """A series the manifest already refused: nothing to compute, a record all the same."""
    return Work(ref, plan.record_key(ref), ref.status, ref.reason, ref.detail)


def _compute(
    stores: Stores, plan: Run, stamp: Stamp, config: RunConfig, segmenter: SegmenterSource, pending: list[str]
) -> None:
    """Run the graph over the pending series, showing progress. A run with nothing to do never imports Ray."""
    from pipelines.cluster import cluster
    from pipelines.cohort import graph

    job = graph.Job(
        source=stores.source,
        output=stores.output,
        segmenter=segmenter,
        structures=plan.structures,
        limits=limits_of(config),
        stamp=stamp,
        resources=config.resources,
    )
    rows = plan.manifest.table
    rows = rows.filter(pa.compute.is_in(rows["series_key"], value_set=pa.array(pending, pa.string())))
    key = f"runs/{plan.run_id}/{_PENDING}{uuid.uuid4().hex}.parquet"
    stores.output.put(key, parquet.write([rows], MANIFEST))
    progress = Progress(len(pending))
    try:
        path, filesystem = arrow_location(stores.output, key)
        with cluster(config.resources.address):
            for outcome in graph.compute(job, path, len(pending), filesystem):
                progress.add(outcome.status)
    finally:
        progress.close()
        stores.output.delete(key)


def _reconcile(output: Store, plan: Run, stamp: Stamp, pending: list[str]) -> None:
    """Record as lost every pending series that has no record although the graph has come to its end."""
    done, asked = recorded(output), set(pending)
    lost = [ref for ref in plan.manifest if ref.series_key in asked and plan.record_key(ref) not in done]
    reason = str(Failure.WORKER_LOST)
    _commit_all((Work(ref, plan.record_key(ref), Status.LOST, reason) for ref in lost), output, plan, stamp)


def _sweep(output: Store, plan: Run) -> None:
    """Delete the lists of pending series that killed drivers of this run left behind."""
    for entry in list(output.list(f"runs/{plan.run_id}")):
        if entry.key.rpartition("/")[2].startswith(_PENDING):
            output.delete(entry.key)


def _commit_all(ended: Iterable[Work], output: Store, plan: Run, stamp: Stamp) -> None:
    """Write records for series that ended without being computed."""
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="commit") as pool:
        for _ in pool.map(lambda work: commit(work, output, plan.structures, stamp), ended):
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
            output.delete(path)

    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="forget") as pool:
        for _ in pool.map(forget, plan.manifest):
            pass
