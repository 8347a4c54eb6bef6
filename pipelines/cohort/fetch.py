"""Fetch objects ahead of who parses them, and say where they are parsed: a list of objects in, their bytes out."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipelines.prefetch import prefetch
from pipelines.reasons import Failure
from pipelines.sandbox import Sandbox, SandboxFailure
from pipelines.store import Changed, ObjectInfo, Store, StoreError

_DIGEST = re.compile(r'"?([0-9a-f]{32})"?')
# What may be the machine's fault and not the series': worth another child.
_TRIED_AGAIN = frozenset({Failure.DECODER_CRASH, Failure.TIMEOUT})

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Decoding:
    """Where objects are parsed and decoded.

    Attributes:
        sandbox: the child process that does it; None for this process.
        tries: how often a series may take the child's life, or overrun its time.
        memory_bytes: address space of the child for one series; None reckons it from the series' size.
    """

    sandbox: Sandbox | None = None
    tries: int = 1
    memory_bytes: int | None = None

    def tried(self, ask: Callable[[], Answer]) -> Answer:
        """The answer; asked again where it was the child that failed. Raises the last SandboxFailure."""
        for _ in range(self.tries - 1):
            try:
                return ask()
            except SandboxFailure as failure:
                if failure.failure not in _TRIED_AGAIN:
                    raise
        return ask()


def fetch(source: Store, objects: Sequence[ObjectInfo], threads: int) -> Iterator[tuple[str, bytes]]:
    """Objects in the order given, a bounded number of them held or on their way at a time.

    Where ETags are MD5 digests, as on S3 mostly, what came as other bytes is asked for again.

    Raises:
        StoreError: NotFound or Changed where an object is not the one listed.
    """
    tells = True  # whether this store's ETags are digests of the content

    def get(entry: ObjectInfo) -> tuple[str, bytes]:
        nonlocal tells
        data = whole(entry)
        if tells and not _may_be(entry.etag, data):
            again = whole(entry)
            if again == data:
                tells = False  # under some encryption they only look so
            elif not _may_be(entry.etag, again):
                raise StoreError(f"{source.address(entry.key)}: came as other bytes each time")
            data = again
        return entry.key, data

    def whole(entry: ObjectInfo) -> bytes:
        data = source.get(entry.key, entry.etag)
        if len(data) != entry.size:
            raise Changed(f"{source.address(entry.key)}: expected {entry.size} bytes, found {len(data)}")
        return data

    return prefetch(get, objects, threads)


def _may_be(etag: str | None, data: bytes) -> bool:
    """Whether these bytes may have this ETag; one that is no MD5 digest rules nothing out."""
    digest = _DIGEST.fullmatch(etag or "")
    return digest is None or digest.group(1) == hashlib.md5(data, usedforsecurity=False).hexdigest()


class Tally:
    """Bytes that passed, and how long decoding waited for them."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.waited_s = 0.0

    def counted(self, objects: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        while True:
            start = time.monotonic()
            entry = next(objects, None)
            self.waited_s += time.monotonic() - start
            if entry is None:
                return
            self.bytes_read += len(entry[1])
            yield entry
