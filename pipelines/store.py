"""Objects in a folder or s3://bucket/prefix: an address in, a Store to get, put, put-if-absent and list out.

Only this module writes objects. A key is relative to the store's address, with `/` between segments.
Every retry is finite and quick; errors are those of `pipelines.store_errors`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

from pipelines.store_errors import (
    FAULTS,
    NO_CREDENTIALS,
    AccessDenied,
    Changed,
    ConditionIgnored,
    InvalidLocation,
    NotFound,
    StoreError,
    Throttled,
    Unreachable,
    translate,
)

__all__ = [
    "AccessDenied",
    "Changed",
    "ConditionIgnored",
    "InvalidLocation",
    "NotFound",
    "ObjectInfo",
    "Store",
    "StoreError",
    "Throttled",
    "Unreachable",
    "check_key",
    "open_store",
]

# Where keys come from when not from the machine's own metadata service.
_KEY_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_LIST_PAGE = 1000
_RETRIES: dict[str, Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
_TIMEOUTS: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its key, its size in bytes, and the store's mark of its content, if it gives one."""

    key: str
    size: int
    etag: str | None


def check_key(key: str) -> str:
    """Return `key` when it names an object inside a store; raise InvalidLocation otherwise.

    Refused: empty, absolute, backslash, control characters, and empty, `.` or `..` segments.
    """
    segments = key.split("/")
    if (
        "\\" in key
        or any(ord(c) < 32 or ord(c) == 127 for c in key)
        or any(s in ("", ".", "..") for s in segments)
    ):
        raise InvalidLocation(f"not an acceptable key (of {len(key)} characters): {ascii(key[:80])}")
    return key


@dataclass(frozen=True)
class Store:
    """Objects under one address. Safe to share between threads; a pickled copy opens the address again.

    Attributes:
        uri: `s3://bucket/prefix` or an absolute local path.
        endpoint_url: where the S3 service answers; None for the standard AWS variables.
    """

    uri: str
    endpoint_url: str | None = None
    _backend: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        backend = _s3(self.uri, self.endpoint_url) if _is_s3(self.uri) else _local(self.uri)
        object.__setattr__(self, "_backend", backend)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.endpoint_url)

    def address(self, key: str) -> str:
        """What people call the object `key`: its full address."""
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri

    def get(self, key: str, if_match: str | None = None) -> bytes:
        """The whole object. Raises NotFound, or Changed when `if_match` is given and its ETag is another."""
        options: Any = {"if_match": if_match} if if_match else None
        try:
            return obstore.get(self._backend, check_key(key), options=options).bytes().to_bytes()
        except FAULTS as fault:
            raise translate(fault, self.address(key)) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer at the end of the object, none past it."""
        if start < 0 or length <= 0:
            raise ValueError(f"expected start >= 0 and length > 0, found {start} and {length}")
        try:
            return obstore.get_range(self._backend, check_key(key), start=start, length=length).to_bytes()
        except FAULTS as fault:
            if "StartTooLarge" in str(fault) or "status code: 416" in str(fault):
                return b""
            raise translate(fault, self.address(key)) from None

    def put(self, key: str, data: bytes) -> None:
        """Write or replace the object: a reader sees the former bytes or the new, never a part."""
        try:
            obstore.put(self._backend, check_key(key), data)
        except FAULTS as fault:
            raise translate(fault, self.address(key)) from None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write the object unless one is there. True: these bytes were written; False: another was first.

        A write whose answer was lost is settled by reading: an object of these very bytes counts as written.
        """
        try:
            obstore.put(self._backend, check_key(key), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except FAULTS as fault:
            error = translate(fault, self.address(key))
            if not isinstance(error, Unreachable):
                raise error from None
            try:
                return self.get(key) == data
            except StoreError:
                raise error from None
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects under the folder `prefix`, page by page; sorted on S3, in no order on a local folder."""
        folder = prefix.strip("/")
        pages = obstore.list(self._backend, check_key(folder) if folder else None, chunk_size=_LIST_PAGE)
        try:
            for page in pages:
                for entry in page:
                    yield ObjectInfo(entry["path"], entry["size"], entry["e_tag"])
        except FAULTS as fault:
            raise translate(fault, self.address(folder)) from None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            obstore.head(self._backend, check_key(key))
        except FAULTS as fault:
            error = translate(fault, self.address(key))
            if isinstance(error, NotFound):
                return False
            raise error from None
        return True

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is as good as removed."""
        try:
            obstore.delete(self._backend, check_key(key))
        except FAULTS as fault:
            error = translate(fault, self.address(key))
            if not isinstance(error, NotFound):
                raise error from None

    def check_reachable(self) -> None:
        """Raise the StoreError that any later use would meet: no bucket, no access, no answer."""
        next(self.list(), None)

    def check_put_if_absent(self) -> None:
        """Raise ConditionIgnored unless the second of two writes to one key loses. Leaves nothing behind."""
        key = f"probes/{uuid.uuid4().hex}"
        try:
            self.put_if_absent(key, b"first")
            second = self.put_if_absent(key, b"second")
            if second or self.get(key) != b"first":
                raise ConditionIgnored(
                    f"{self.uri}: the store does not honour If-None-Match, records are not safe on it"
                )
        finally:
            self.delete(key)


def open_store(uri: str, endpoint_url: str | None = None, *, create: bool = False) -> Store:
    """Open a local folder (a path or file://) or s3://bucket/prefix, and make sure that it answers.

    Args:
        uri: the address.
        endpoint_url: the S3 service, http:// allowed; else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or AWS.
        create: make a missing local folder. A bucket is never made.

    Raises:
        StoreError: missing folder or bucket, refused credentials, no answer; one line each.
    """
    if _is_s3(uri):
        store = Store(uri.rstrip("/"), endpoint_url or _endpoint_of_environment())
    else:
        folder = _local_path(uri)
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as fault:
                raise translate(fault, str(folder)) from None
        store = Store(str(folder))
    store.check_reachable()
    return store


def _is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def _endpoint_of_environment() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _local_path(uri: str) -> Path:
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


def _s3(uri: str, endpoint_url: str | None) -> S3Store:
    parts = urlsplit(uri)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not bucket or parts.username or parts.port or parts.query or parts.fragment:
        raise InvalidLocation("expected s3://bucket or s3://bucket/prefix, without keys or options in it")
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not any(
        map(os.environ.get, _KEY_VARIABLES)
    ):
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
            retry_config=_RETRIES,  # type: ignore[arg-type]
            **settings,
        )
    except FAULTS as fault:
        raise translate(fault, uri) from None
