"""Fixtures of the fault matrix."""

from __future__ import annotations

import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.store import Store, open_store
from tests.faults import ward
from tests.faults.outcome import told_nothing
from tests.faults.process import Started
from tests.faults.run_troubled import Asked
from tests.s3_server import S3Server


@pytest.fixture
def aws_store(aws_environment: S3Server) -> Store:
    """An empty place in a bucket of a real server."""
    return open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}")


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """An empty folder for studies."""
    return open_store(str(tmp_path / "source"), create=True)


@pytest.fixture
def nothing_told(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """What is logged, warned of or printed during the test says nothing of the patients of the builders."""
    with caplog.at_level(logging.DEBUG):
        yield
    printed = capsys.readouterr()
    told_nothing(caplog.text, *(warning.message for warning in recwarn.list), printed.out, printed.err)


@dataclass(frozen=True)
class Troubles:
    """A run on a cluster and a bucket in which everything went wrong that can.

    Attributes:
        output: where its records are.
        notes: of its segmenter.
        cluster: folder of Ray's logs and sockets, which is otherwise emptied.
        code, out, err: how it ended, and what it said.
    """

    output: Store
    notes: Path
    cluster: Path
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def troubles(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubles]:
    """The one run on Ray that most rows on workers, and the search for canaries, look at."""
    pytest.importorskip("ray")
    notes, address = tmp_path_factory.mktemp("notes"), f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))  # a short path, for sockets
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        ward.fill(open_store(f"{address}/source"))
        asked = Asked(
            f"{address}/source", f"{address}/output", str(notes), ward.CONFIG, ward.PARTS, ward.ONCE
        )
        started = Started(asked, {"RAY_TMPDIR": str(folder), "CTSAM3D_DEBUG": "1"})
        try:
            code, out, err = started.ended()
            (cluster,) = folder.iterdir()
            yield Troubles(open_store(f"{address}/output"), notes, cluster, code, out, err)
        finally:
            started.end()
            shutil.rmtree(folder, ignore_errors=True)
