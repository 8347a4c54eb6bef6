"""How a run fills a cluster: its CPUs and GPUs and the settings in, number and size of the replicas out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.config import ConfigError, Resources

_THREADS_AT_MOST = 4  # a 64^3 cube does not keep more cores busy than this
_REPLICA_BYTES = 4 << 30  # of a replica on CPUs with a study of 512 x 512 x 1000
_CPUS_PER_SPARE = 8  # one core in eight loads, measures and writes


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine offers, in Ray's logical units.

    Attributes:
        cpus, gpus: how many.
        memory_bytes: for tasks and actors.
    """

    cpus: float
    gpus: float
    memory_bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """The pool of replicas.

    Attributes:
        count: replicas at most.
        cpus: logical CPUs of each; 0 where it has a share of a GPU.
        gpus: share of a GPU of each; 0 on CPUs.
        torch_threads: of each.
    """

    count: int
    cpus: float
    gpus: float
    torch_threads: int


def logical_cpus(cores: int) -> int:
    """CPUs a cluster of one's own is told to have: the cores, and spare ones for tasks that feed replicas.

    Replicas hold their CPUs for good; without the spare ones, on a machine of one or two cores, nothing would
    ever be loaded for them. The operating system shares the cores out.
    """
    return cores + spare_cpus(cores)


def spare_cpus(cpus: float) -> int:
    """CPUs that replicas must leave to loading, measuring and writing."""
    return max(1, int(cpus // _CPUS_PER_SPARE))


def replica_shape(nodes: Sequence[Node], resources: Resources, series: int) -> ReplicaShape:
    """Fill the cluster's GPUs, or its CPUs but for the spare ones; never more replicas than series.

    On CPUs many replicas of few threads get more done than few of many: one study's stages do not all use several
    threads, and threads wait for one another, most of all where loading and writing take a core from them. So there are
    as many as memory has room for, and they share the cores.

    Raises:
        ConfigError: a cluster too small for one replica and one loading task side by side.
    """
    cpus = sum(node.cpus for node in nodes)
    gpus = max(int(sum(node.gpus for node in nodes)), resources.gpus or 0)
    if cpus < 1 + (0 if gpus else 1):
        raise ConfigError(f"the cluster has {cpus:g} CPUs, expected at least {1 if gpus else 2}")
    if gpus:
        share = resources.gpus_per_replica
        fit = int(1 / share + 1e-9) * gpus  # a share lies on one device
        count = min(resources.replicas or fit, series)
        threads = resources.torch_threads or max(1, int(cpus // fit))
        return ReplicaShape(max(1, count), 0.0, share, threads)
    free = cpus - spare_cpus(cpus)
    largest = max(node.cpus for node in nodes)
    rooms = sum(max(1.0, node.memory_bytes / _REPLICA_BYTES) for node in nodes)
    replicas = int(min(resources.replicas or min(free, rooms), series))

    def fitting(threads: int) -> int:
        return min(replicas, int(free // threads))

    # of numbers of threads that leave the fewest cores idle the smallest
    choices = range(1, max(1, int(min(_THREADS_AT_MOST, largest))) + 1)
    threads = resources.torch_threads or max(choices, key=lambda n: (fitting(n) * n, -n))
    count = fitting(threads)
    if count < 1:
        raise ConfigError(
            f"resources.torch_threads: found {threads}, expected at most {int(min(free, largest))}"
        )
    return ReplicaShape(count, float(threads), 0.0, threads)
