"""Where pyarrow finds an object of a Store: a store and a key in, a path and a filesystem out.

Ray and DuckDB read Parquet through pyarrow's own client; everything else goes through `pipelines.store`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from pipelines.store import Store, check_key

_TRIES = 10


def arrow_location(store: Store, key: str) -> tuple[str, fs.FileSystem]:
    """The object's path and the filesystem to read it with; credentials come from the environment."""
    check_key(key)
    parts = urlsplit(store.uri)
    if parts.scheme != "s3":
        return str(Path(store.uri) / key), fs.LocalFileSystem()
    options: dict[str, Any] = {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES)}
    if store.endpoint_url:
        endpoint = urlsplit(store.endpoint_url)
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    path = "/".join(part for part in (parts.netloc, parts.path.strip("/"), key) if part)
    return path, fs.S3FileSystem(region=region, **options)
