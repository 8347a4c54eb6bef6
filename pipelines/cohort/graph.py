"""The Ray Data graph: pending rows of a manifest in, a committed record and an outcome per series out.

    read_parquet -> one series per block -> load (tasks) -> Replica (actors) -> measure, commit (tasks)

The only module that knows Ray. Tasks and replicas take different shares of a machine, or Ray would fuse
decoding into the actor that holds the GPU; replicas never take every CPU, or nothing would feed them; every
retry and every wait is finite.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

# Before Ray is imported: no usage reports, no C++ log lines on the terminal.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Status
from pipelines.cohort.commit import Outcome, Stamp, commit
from pipelines.cohort.load import load
from pipelines.cohort.measure import measure
from pipelines.cohort.rows import Row, from_row, to_row
from pipelines.cohort.shape import Node, ReplicaShape, logical_cpus, replica_shape
from pipelines.cohort.work import Work
from pipelines.config import ConfigError, Resources
from pipelines.deadline import deadline
from pipelines.faults import Aborted
from pipelines.manifest import SeriesRef
from pipelines.replica import Replica
from pipelines.segmenters import SegmenterSource
from pipelines.store import Store

_STANDSTILL_S = 300.0
_ANSWER_S = 10.0
_SPARE_CPU_SHARE = 0.125  # reading the manifest: next to nothing, but Ray's default is a whole CPU


class GraphStopped(Aborted):
    """The graph ended before its series did; what is committed stays. The message is one line."""


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
    """

    source: Store
    output: Store
    segmenter: SegmenterSource
    structures: tuple[str, ...]
    limits: Limits
    stamp: Stamp
    resources: Resources


def compute(job: Job, manifest: str, series: int, filesystem: Any = None) -> Iterator[Outcome]:
    """Compute the series of a manifest on a running cluster; outcomes come as series end, in any order.

    A series whose worker died with it every time ends without an outcome: the caller reconciles.

    Args:
        job: what to do.
        manifest: address of a Parquet file of the manifest's schema whose rows are the pending series.
        series: how many rows it has.
        filesystem: pyarrow filesystem of the address; None for a local path.

    Raises:
        GraphStopped: no progress for too long, or the cluster went away.
        ConfigError: the cluster is too small.
    """
    shape = replica_shape(cluster_nodes(), job.resources, series)
    _set_context(job.resources)
    rows = ray.data.read_parquet(manifest, filesystem=filesystem, num_cpus=_SPARE_CPU_SHARE)
    resources, replica_args = job.resources, (job.segmenter, job.structures, shape.torch_threads)
    with warnings.catch_warnings():
        # Bounds on retries are extra arguments, a way Ray means to close: see `_replica_options`.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        done = (
            rows.repartition(target_num_rows_per_block=1)
            .map(LoadTask(job), num_cpus=resources.cpus_per_load, **_task_bounds(resources))
            .map(
                cast(Any, Replica),  # an actor's class: Ray's annotation forgets them
                fn_constructor_args=(*replica_args, resources.series_timeout_s),
                **_replica_options(shape, resources, series),
            )
            .map(CommitTask(job), num_cpus=resources.cpus_per_commit, **_task_bounds(resources))
        )
    try:
        for row in done.iter_rows():
            yield Outcome(row["series_key"], Status(row["status"]), row["reason"] or None)
    except ExecutionTimeoutError as fault:
        raise GraphStopped("no series ended for too long; the cluster may have lost its machines") from fault
    except RayError as fault:
        raise GraphStopped(f"the cluster stopped working ({type(fault).__name__})") from fault


@dataclass(frozen=True, slots=True)
class LoadTask:
    """A row of the manifest in, a row with a volume out."""

    job: Job

    def __call__(self, row: Row) -> Row:
        ref, stamp = SeriesRef.from_columns(row), self.job.stamp
        work = Work(ref, ref.record_key(stamp.config_hash, stamp.weights_sha256))
        with deadline(self.job.resources.series_timeout_s):
            return to_row(load(work, self.job.source, self.job.limits, self.job.resources.fetch_threads))


@dataclass(frozen=True, slots=True)
class CommitTask:
    """A row with labels in, one record written, its outcome out."""

    job: Job

    def __call__(self, row: Row) -> Row:
        with deadline(self.job.resources.series_timeout_s):
            work = measure(from_row(row), self.job.structures)
            outcome = commit(work, self.job.output, self.job.structures, self.job.stamp)
        # An empty text, not None: a block of nulls alone would have a column of another type.
        return {
            "series_key": outcome.series_key,
            "status": str(outcome.status),
            "reason": outcome.reason or "",
        }


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Join the Ray cluster at an address, or start one of this process's own, and leave it at the end.

    A process that is already part of a cluster, such as a notebook, stays in it.

    Raises:
        ConfigError: nothing answers at the address.
        GraphStopped: what answers is no cluster to join, or none could be started.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": logical_cpus(os.cpu_count() or 1), "include_dashboard": False}
    _check_answers(address)
    try:
        with _silence(), _own_sigterm():
            ray.init(address=address, **options)
    except (RayError, ConnectionError, RuntimeError, TimeoutError) as fault:
        raise GraphStopped(f"no Ray cluster at {address!r} ({type(fault).__name__})") from fault
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise ConfigError where nothing listens at `host:port`: Ray itself would try for minutes, in silence."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "local" and "auto" are no places on a network
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError):
        raise ConfigError(f"resources.address: found {address!r}, expected a running Ray cluster") from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would have it exit at once, with a code of its own."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    if kept is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _silence() -> Iterator[None]:
    """Send what is written to file descriptor 2 nowhere: Ray's native part announces its log level there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def cluster_nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive]


def _replica_options(shape: ReplicaShape, resources: Resources, series: int) -> dict[str, Any]:
    """Arguments of the replicas' `map`, bounded: Ray's default is to restart and retry for ever.

    Each try of a series may cost a replica its life, and no other series may pay for it: restarts are
    counted per series of the run. A Ray that no longer takes these arguments needs others here and below.
    """
    # With a share of a GPU an explicit 0 CPUs: by default it is one, and replicas would starve the loading.
    share = {"num_gpus": shape.gpus, "num_cpus": 0} if shape.gpus else {"num_cpus": shape.cpus}
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=shape.count, initial_size=shape.count),
        **share,
        "max_task_retries": resources.max_task_retries,
        "max_restarts": (resources.max_task_retries + 1) * series,
    }


def _task_bounds(resources: Resources) -> dict[str, Any]:
    """Arguments of a task's `map`: how often it is tried again when its worker dies."""
    return {"max_retries": resources.max_task_retries}


def _set_context(resources: Resources) -> None:
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a block is one series: it is found missing and recorded as lost
    # Longer than the slowest way a series can end, so that only a graph that truly stands still is ended.
    tries = resources.max_task_retries + 1
    context.execution_no_progress_timeout_s = resources.series_timeout_s * tries + _STANDSTILL_S
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
