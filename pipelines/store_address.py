"""An address of a store in, the obstore backends behind it out: local folders and S3, with finite retries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, S3Store

from pipelines.store_errors import FAULTS, NO_CREDENTIALS, AccessDenied, InvalidLocation, NotFound, translate

# Where keys come from when not from the machine's own metadata service.
_KEY_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
# A store that is started again is away for some seconds, which must cost no series. A pause is drawn between the first
# one and three times the one before: of requests that are made 15 times, one in seventy draws such short ones that it
# is given up within four seconds; of 31 times, one in a thousand within twelve.
_RETRIES: dict[str, Any] = {
    "max_retries": 30,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 3,
    },
}
# At first contact somebody waits, and no answer most likely means a wrong address.
_FEW_RETRIES: dict[str, Any] = _RETRIES | {"max_retries": 4}
_TIMEOUTS: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}


def check_key(key: str) -> str:
    """Return `key` when it names an object inside a store; raise InvalidLocation otherwise.

    Refused: empty, absolute, backslash, control characters, and empty, `.` or `..` segments.
    """
    control = any(ord(c) < 32 or ord(c) == 127 for c in key)
    if control or "\\" in key or any(segment in ("", ".", "..") for segment in key.split("/")):
        raise InvalidLocation(f"not an acceptable key (of {len(key)} characters): {ascii(key[:80])}")
    return key


@dataclass(frozen=True, slots=True)
class Backends:
    """One store, opened with different patience.

    Attributes:
        patient: repeats failed requests for up to a minute.
        quick: repeats them a few times.
        single: does not, for writes that must not be repeated blindly.
    """

    patient: Any
    quick: Any
    single: Any


def open_backends(uri: str, endpoint_url: str | None) -> Backends:
    """A store by its address; a folder is as patient in every way."""
    if not is_s3(uri):
        local = _local(uri)
        return Backends(local, local, local)
    patient, quick, single = (
        _s3(uri, endpoint_url, retries) for retries in (_RETRIES, _FEW_RETRIES, {"max_retries": 0})
    )
    return Backends(patient, quick, single)


def without_slash(uri: str) -> str:
    """An S3 address without slashes at its end."""
    return "s3://" + uri.removeprefix("s3://").rstrip("/")


def is_s3(uri: str) -> bool:
    """Whether the address is of S3; anything else is a folder or refused."""
    return uri.startswith("s3://")


def endpoint_of_environment() -> str | None:
    """The S3 service that the standard AWS variables name; None for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def local_path(uri: str) -> Path:
    """The absolute path behind a path or a file:// address."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InvalidLocation(f"a file:// address has three slashes, found a host name in {uri!r}")
        return Path(unquote(parts.path)).absolute()
    if "://" in uri:
        raise InvalidLocation(
            f"{parts.scheme}:// is not supported; use a folder, file:// or s3://bucket/prefix"
        )
    if not uri:
        raise InvalidLocation("the address of a folder or bucket is empty")
    return Path(uri).expanduser().absolute()


def _local(path: str) -> LocalStore:
    if not Path(path).exists():
        raise NotFound(f"{path}: the folder does not exist")
    if not Path(path).is_dir():
        raise InvalidLocation(f"{path}: not a folder")
    try:
        return LocalStore(path)
    except FAULTS as fault:
        raise translate(fault, path) from None


def _s3(uri: str, endpoint_url: str | None, retries: dict[str, Any]) -> S3Store:
    parts = urlsplit(uri)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not bucket or any(c in bucket for c in "@:") or parts.query or parts.fragment:
        raise InvalidLocation("expected s3://bucket or s3://bucket/prefix, without keys or options in it")
    keyless = not any(map(os.environ.get, _KEY_VARIABLES))
    if keyless and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise AccessDenied(f"{uri}: {NO_CREDENTIALS}")
    options = dict(_TIMEOUTS)
    settings: dict[str, Any] = {}
    if endpoint_url:
        scheme = urlsplit(endpoint_url).scheme
        if scheme not in ("http", "https"):
            raise InvalidLocation("the endpoint must start with http:// or https://")
        options["allow_http"] = scheme == "http"
        settings["endpoint"] = endpoint_url.rstrip("/")
    settings["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return S3Store(
            bucket,
            prefix=check_key(prefix) if prefix else None,
            client_options=options,  # type: ignore[arg-type]
            retry_config=retries,  # type: ignore[arg-type]
            **settings,
        )
    except FAULTS as fault:
        raise translate(fault, uri) from None
