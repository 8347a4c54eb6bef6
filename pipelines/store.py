"""Objects in a folder or s3://bucket/prefix: an address in, a Store to get, put, put-if-absent and list out.

Only this module writes objects. A key is relative to the store's address, with `/` between segments.
Every retry is finite; errors are those of `pipelines.store_errors`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError

from pipelines.store_address import (
    Backends,
    check_key,
    endpoint_of_environment,
    is_s3,
    local_path,
    open_backends,
    without_slash,
)
from pipelines.store_errors import (
    FAULTS,
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

_LIST_PAGE = 1000
_CREATE_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its key, its size in bytes, and the store's mark of its content, if it gives one."""

    key: str
    size: int
    etag: str | None


@dataclass(frozen=True)
class Store:
    """Objects under one address. Safe to share between threads; a pickled copy opens the address again.

    Attributes:
        uri: `s3://bucket/prefix` or an absolute local path.
        endpoint_url: where the S3 service answers; None for the standard AWS variables.
    """

    uri: str
    endpoint_url: str | None = None
    _backends: Backends = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_backends", open_backends(self.uri, self.endpoint_url))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.endpoint_url)

    def address(self, key: str) -> str:
        """What people call the object `key`: its full address."""
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri

    def get(self, key: str, if_match: str | None = None) -> bytes:
        """The whole object. Raises NotFound, or Changed when `if_match` is given and its ETag is another."""
        options: Any = {"if_match": if_match} if if_match else None
        try:
            return obstore.get(self._backends.patient, check_key(key), options=options).bytes().to_bytes()
        except FAULTS as fault:
            raise translate(fault, self.address(key)) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer at the end of the object, none past it."""
        if start < 0 or length <= 0:
            raise ValueError(f"expected start >= 0 and length > 0, found {start} and {length}")
        try:
            return obstore.get_range(
                self._backends.patient, check_key(key), start=start, length=length
            ).to_bytes()
        except FAULTS as fault:
            if "StartTooLarge" in str(fault) or "status code: 416" in str(fault):
                return b""
            raise translate(fault, self.address(key)) from None

    def put(self, key: str, data: bytes) -> None:
        """Write or replace the object: a reader sees the former bytes or the new, never a part."""
        try:
            obstore.put(self._backends.patient, check_key(key), data)
        except FAULTS as fault:
            raise translate(fault, self.address(key)) from None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write the object unless one is there. True: these bytes were written; False: another was first.

        A write whose answer was lost is tried again; an object there by then is ours if it holds these
        very bytes.
        """
        error: StoreError | None = None
        for pause_s in _CREATE_PAUSES_S:
            time.sleep(pause_s)
            try:
                obstore.put(self._backends.single, check_key(key), data, mode="create", use_multipart=False)
                return True
            except AlreadyExistsError as fault:
                if "status code: 409" not in str(fault):  # 409: two writes met, and neither need have won
                    return error is not None and self.get(key) == data
                error = Unreachable(f"{self.address(key)}: writers kept meeting, given up after retries")
            except FAULTS as fault:
                error = translate(fault, self.address(key))
                if not isinstance(error, Unreachable):
                    raise error from None
        assert error is not None
        raise error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects under the folder `prefix`, page by page; sorted on S3, in no order on a local folder."""
        return self._listed(prefix.strip("/"), self._backends.patient)

    def _listed(self, folder: str, backend: Any) -> Iterator[ObjectInfo]:
        pages = obstore.list(backend, check_key(folder) if folder else None, chunk_size=_LIST_PAGE)
        try:
            for page in pages:
                for entry in page:
                    yield ObjectInfo(entry["path"], entry["size"], entry["e_tag"])
        except FAULTS as fault:
            raise translate(fault, self.address(folder)) from None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            obstore.head(self._backends.patient, check_key(key))
        except FAULTS as fault:
            error = translate(fault, self.address(key))
            if isinstance(error, NotFound):
                return False
            raise error from None
        return True

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is as good as removed."""
        try:
            obstore.delete(self._backends.patient, check_key(key))
        except FAULTS as fault:
            error = translate(fault, self.address(key))
            if not isinstance(error, NotFound):
                raise error from None

    def check_reachable(self) -> None:
        """Raise the StoreError that any later use would meet: no bucket, no access, no answer."""
        next(self._listed("", self._backends.quick), None)

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
    if is_s3(uri):
        store = Store(without_slash(uri), endpoint_url or endpoint_of_environment())
    else:
        folder = local_path(uri)
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as fault:
                raise translate(fault, str(folder)) from None
        store = Store(str(folder))
    store.check_reachable()
    return store
