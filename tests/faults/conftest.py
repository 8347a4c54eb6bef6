"""Fixtures of the fault matrix."""

from __future__ import annotations

import uuid

import pytest

from pipelines.store import Store, open_store
from tests.s3_server import S3Server


@pytest.fixture
def aws_store(aws_environment: S3Server) -> Store:
    """An empty place in a bucket of a real server."""
    return open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}")
