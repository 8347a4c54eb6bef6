"""How replicas fill a cluster: nothing starves, nothing is left over, on machines of any size."""

import pytest

from pipelines.cohort.shape import Node, logical_cpus, replica_shape, spare_cpus
from pipelines.config import ConfigError, Resources


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 16, 64, 192])
def test_replicas_of_a_cluster_of_ones_own_use_every_core_and_leave_cpus_to_load_with(cores: int) -> None:
    cpus = logical_cpus(cores)
    shape = replica_shape([Node(cpus, 0)], Resources(), series=10_000)
    assert shape.count >= 1
    assert cpus - shape.count * shape.cpus >= 1  # a loading task fits beside them
    assert cores * 0.6 <= shape.count * shape.torch_threads <= cores + 1
    assert shape.cpus != Resources().cpus_per_load  # equal shares would be fused


@pytest.mark.parametrize(
    ("gigabytes", "count", "threads"), [(64, 14, 1), (33, 7, 2), (16, 4, 3), (8, 2, 4), (1, 1, 4)]
)
def test_replicas_are_as_many_as_memory_has_room_for_and_share_the_cores(
    gigabytes: int, count: int, threads: int
) -> None:
    node = Node(16, 0, gigabytes * 2**30)
    shape = replica_shape([node], Resources(), series=10_000)
    assert (shape.count, shape.torch_threads) == (count, threads)
    asked = replica_shape([node], Resources(torch_threads=2), series=10_000)
    assert (asked.count, asked.torch_threads) == (min(count, 7), 2)


def test_few_series_get_more_threads_each() -> None:
    shape = replica_shape([Node(16, 0, 64 * 2**30)], Resources(), series=5)
    assert (shape.count, shape.torch_threads) == (4, 3)


@pytest.mark.parametrize("cpus", [2.0, 3.0, 7.0, 32.0])
def test_a_cluster_of_small_machines_gets_replicas_that_fit_on_one(cpus: float) -> None:
    nodes = [Node(cpus, 0)] * 4
    shape = replica_shape(nodes, Resources(), series=10_000)
    assert shape.cpus <= cpus
    assert 4 * cpus - shape.count * shape.cpus >= spare_cpus(4 * cpus)


def test_gpus_are_filled_by_share_and_replicas_take_no_cpu() -> None:
    nodes = [Node(8, 2), Node(8, 2), Node(32, 0)]
    whole = replica_shape(nodes, Resources(), series=100)
    assert (whole.count, whole.gpus, whole.cpus) == (4, 1.0, 0.0)
    half = replica_shape(nodes, Resources(gpus_per_replica=0.5), series=100)
    assert (half.count, half.gpus) == (8, 0.5)
    third = replica_shape([Node(8, 2)], Resources(gpus_per_replica=0.34), series=100)
    assert third.count == 4  # two fit on each device


def test_gpus_an_autoscaler_would_add_are_asked_for() -> None:
    shape = replica_shape([Node(0, 0), Node(16, 0)], Resources(gpus=8), series=100)
    assert (shape.count, shape.gpus) == (8, 1.0)


def test_never_more_replicas_than_series() -> None:
    assert replica_shape([Node(64, 0)], Resources(), series=2).count == 2
    assert replica_shape([Node(64, 8)], Resources(), series=1).count == 1


def test_what_is_asked_for_is_given_where_it_fits() -> None:
    shape = replica_shape([Node(17, 0)], Resources(replicas=2, torch_threads=3), series=100)
    assert (shape.count, shape.torch_threads) == (2, 3)
    assert replica_shape([Node(3, 0)], Resources(replicas=2), series=100).torch_threads == 1


@pytest.mark.parametrize(
    ("nodes", "resources"),
    [([Node(1, 0)], Resources()), ([], Resources()), ([Node(4, 0)], Resources(torch_threads=8))],
)
def test_a_cluster_too_small_is_named_so(nodes: list[Node], resources: Resources) -> None:
    with pytest.raises(ConfigError, match="expected at"):
        replica_shape(nodes, resources, series=1)
