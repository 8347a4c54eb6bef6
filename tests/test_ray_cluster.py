"""The cluster file: of Ray's own schema, with both pools, and closed to the world."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_it_follows_the_schema_ray_checks_it_against(cluster: dict) -> None:
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_a_head_that_computes_nothing_and_two_pools_that_scale(cluster: dict) -> None:
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    cpu, gpu = kinds["cpu_worker"], kinds["gpu_worker"]
    assert "GPU" not in cpu["resources"] and gpu["resources"]["GPU"] >= 1
    for pool in (cpu, gpu):
        assert pool["min_workers"] < pool["max_workers"]
    assert cpu["max_workers"] + gpu["max_workers"] <= cluster["max_workers"]


def test_nothing_is_open_to_the_world(cluster: dict) -> None:
    assert cluster["provider"]["use_internal_ips"] is True
    for rule in cluster["provider"]["security_group"]["IpPermissions"]:
        assert all(span["CidrIp"].startswith("10.") for span in rule["IpRanges"])
    starts = [
        line
        for name in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in cluster[name]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
