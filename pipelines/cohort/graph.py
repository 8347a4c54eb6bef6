"""The Ray Data graph: pending rows of a manifest in, a committed record and an outcome per series out.

    read_parquet -> one series per block -> load (tasks) -> Replica (actors) -> measure, commit (tasks)

With `pipelines.cluster` the only module that knows Ray. Tasks and replicas take different shares of a machine, or
Ray would fuse decoding into the actor that holds the GPU; replicas never take every CPU, or nothing would feed them;
every retry and every wait is finite.
"""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from ctsam3d.outcome import Status
from pipelines import worker
from pipelines.cluster import ClusterLost, nodes
from pipelines.cohort.commit import Outcome
from pipelines.cohort.gate import Gate, Porter
from pipelines.cohort.job import Job
from pipelines.cohort.rows import Row
from pipelines.cohort.shape import ReplicaShape, replica_shape
from pipelines.config import Resources
from pipelines.faults import Aborted
from pipelines.reasons import Withheld
from pipelines.replica import Replica

_WAITING_AT_ONE_REPLICA = 5
_SPARE_CPU_SHARE = 0.125  # reading the manifest: next to nothing, but Ray's default is a whole CPU


def compute(
    job: Job, manifest: str, series: int, filesystem: Any = None, stop: threading.Event | None = None
) -> Iterator[Outcome]:
    """Compute the series of a manifest on a running cluster; outcomes come as series end, in any order.

    A series whose worker died with it every time ends without an outcome: the caller reconciles. Told to stop, the
    graph begins no more series and ends with the last of those it had begun.

    Args:
        job: what to do.
        manifest: address of a Parquet file of the manifest's schema whose rows are the pending series.
        series: how many rows it has.
        filesystem: pyarrow filesystem of the address; None for a local path.
        stop: set by the caller to have no more series begun.

    Raises:
        Aborted: the list cannot be read.
        ClusterLost: no progress for too long, or the cluster went away.
        ConfigError: the cluster is too small.
    """
    shape = replica_shape(nodes(), job.resources, series)
    _set_context(job.resources)
    try:
        rows = ray.data.read_parquet(
            manifest, filesystem=filesystem, num_cpus=_SPARE_CPU_SHARE, override_num_blocks=series
        )
    except (OSError, pa.ArrowException) as fault:
        raise Aborted(f"the list of pending series cannot be read ({type(fault).__name__})") from fault
    resources = job.resources
    with Gate(stop or threading.Event()) as gate:
        with warnings.catch_warnings():
            # Bounds on retries are extra arguments, a way Ray means to close: see `_replica_options`.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            done = (
                rows.map(
                    LoadTask(job, gate.porter), num_cpus=resources.cpus_per_load, **_task_bounds(resources)
                )
                .map(
                    cast(Any, Replica),  # an actor's class: Ray's annotation forgets them
                    fn_constructor_args=(job, shape.torch_threads, gate.porter.admits),
                    **_replica_options(shape, resources, series),
                )
                .map(
                    CommitTask(job),
                    # One more than can come at a time, should one wait for the store: each is a process.
                    compute=ray.data.TaskPoolStrategy(min(shape.count + 1, series)),
                    num_cpus=resources.cpus_per_commit,
                    **_task_bounds(resources),
                )
            )
        try:
            for row in done.iter_rows():
                outcome = Outcome(row["series_key"], Status(row["status"]), row["reason"] or None)
                if outcome.reason != Withheld.NOT_BEGUN:
                    gate.ended(outcome.series_key)
                    yield outcome
                if gate.is_idle:
                    return
        except ExecutionTimeoutError as fault:
            raise ClusterLost(
                "no series ended for too long; the cluster may have lost its machines"
            ) from fault
        except RayError as fault:
            raise ClusterLost(f"the cluster stopped working ({type(fault).__name__})") from fault
        finally:
            # What a replica died of refers to the pool in a cycle; until that is collected a replica that was
            # restarted lives on, and its share of the machine is missing to the next graph on this cluster.
            del done
            gc.collect()


@dataclass(frozen=True, slots=True)
class LoadTask:
    """A row of the manifest in, a row with a volume out; with nothing where the run is to end."""

    job: Job
    porter: Porter

    def __call__(self, row: Row) -> Row:
        worker.prepare()
        if not self.porter.is_open():
            return self.job.turn_away(row)
        return self.job.load(row)


@dataclass(frozen=True, slots=True)
class CommitTask:
    """A row with labels in, one record written, its outcome out."""

    job: Job

    def __call__(self, row: Row) -> Row:
        worker.prepare()
        outcome = self.job.commit(row)
        # An empty text, not None: a block of nulls alone would have a column of another type.
        return {
            "series_key": outcome.series_key,
            "status": str(outcome.status),
            "reason": outcome.reason or "",
        }


def _replica_options(shape: ReplicaShape, resources: Resources, series: int) -> dict[str, Any]:
    """Arguments of the replicas' `map`, bounded: Ray's default is to restart and retry for ever.

    Each try of a series may cost a replica its life, and no other series may pay for it: restarts are
    counted per series of the run. The ledger ends a series' attempts, and Ray tries once more, to be told so; a
    death also costs the series waiting behind it one of Ray's tries. A Ray that no longer takes these arguments
    needs others here and below.
    """
    # With a share of a GPU an explicit 0 CPUs: by default it is one, and replicas would starve the loading.
    share = {"num_gpus": shape.gpus, "num_cpus": 0} if shape.gpus else {"num_cpus": shape.cpus}
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=shape.count, initial_size=shape.count),
        **share,
        "max_task_retries": (resources.max_attempts + 1) * _WAITING_AT_ONE_REPLICA,
        "max_restarts": (resources.max_attempts + 1) * series,
    }


def _task_bounds(resources: Resources) -> dict[str, Any]:
    """Arguments of a task's `map`: how often it is tried again when its worker dies."""
    return {"max_retries": resources.max_attempts}


def _set_context(resources: Resources) -> None:
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a block is one series: it is found missing and recorded as lost
    # Longer than the slowest way a series can end, so that only a graph that truly stands still is ended.
    context.execution_no_progress_timeout_s = resources.longest_wait_s
    # The newer reader starts six more processes, which for one small file cost more than the file.
    context.use_datasource_v2 = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Where series are lost on the way fewer arrive to be committed than could be at a time, which Ray finds odd.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks", module="ray.data")
