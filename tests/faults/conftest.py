"""Fixtures of the fault matrix."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

import pytest

from pipelines.store import Store, open_store
from tests.faults.outcome import told_nothing
from tests.s3_server import S3Server


@pytest.fixture
def aws_store(aws_environment: S3Server) -> Store:
    """An empty place in a bucket of a real server."""
    return open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}")


@pytest.fixture
def nothing_told(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """What is logged, warned of or printed during the test says nothing of the patients of the builders."""
    with caplog.at_level(logging.DEBUG):
        yield
    printed = capsys.readouterr()
    told_nothing(caplog.text, *(warning.message for warning in recwarn.list), printed.out, printed.err)
