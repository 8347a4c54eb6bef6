"""Load one series: its objects in a bucket in, a Volume in HU and the facts of its headers out."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ctsam3d.imaging.decoders import DecoderMissing
from ctsam3d.imaging.dicom import DicomSeries, Limits, read_series
from ctsam3d.outcome import Reason, Rejected
from pipelines.cohort.work import Work, guarded
from pipelines.manifest import SeriesRef
from pipelines.prefetch import prefetch
from pipelines.reasons import Failure
from pipelines.sandbox import Sandbox, SandboxFailure, memory_for
from pipelines.store import Changed, ObjectInfo, Store, StoreError

_DIGEST = re.compile(r'"?([0-9a-f]{32})"?')
# What may be the machine's fault and not the series': worth another child.
_TRIED_AGAIN = frozenset({Failure.DECODER_CRASH, Failure.TIMEOUT})


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


def load(
    work: Work,
    source: Store,
    limits: Limits,
    fetch_threads: int = 16,
    decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
) -> Work:
    """Fetch the objects of the manifest's row ahead of decoding, and stack them into a Volume.

    An object that is gone, or no longer the one the manifest lists, fails the series: its record is named by
    what the manifest saw. One over the size limit refuses it before anything is fetched. A series that takes the
    sandbox's life or overruns its bounds every time is poisoned.
    """

    def step(work: Work) -> Work:
        objects = work.ref.objects
        largest_bytes = max((entry.size for entry in objects), default=0)
        if largest_bytes > limits.max_object_bytes:
            raise Rejected(
                Reason.TOO_LARGE,
                f"an object of {largest_bytes} bytes, expected at most {limits.max_object_bytes}",
            )
        tally = _Tally()
        for left in reversed(range(decoding.tries)):
            passing = tally.counted(fetch(source, objects, fetch_threads))
            try:
                series, peak_bytes = _read(work.ref, passing, limits, decoding)
            except SandboxFailure as failure:
                if left and failure.failure in _TRIED_AGAIN:
                    continue
                stopped = work.stopped(failure.failure, failure.detail)
                return stopped.spent("fetch", tally.waited_s, tally.bytes_read)
            break
        loaded = replace(work, volume=series.volume, facts=series.facts)
        return loaded.spent("fetch", tally.waited_s, tally.bytes_read, peak_bytes)

    return guarded("load", step, work)


def _read(
    ref: SeriesRef, objects: Iterator[tuple[str, bytes]], limits: Limits, decoding: Decoding
) -> tuple[DicomSeries, int]:
    """The series, and the peak of the child's memory (0 without one)."""
    if decoding.sandbox is None:
        try:
            return read_series(objects, limits), 0
        except DecoderMissing as lack:
            raise SandboxFailure(Failure.CODEC_UNAVAILABLE, lack.transfer_syntax_uid) from None
    memory_bytes = decoding.memory_bytes
    if memory_bytes is None:
        voxels = ref.image_count * (ref.rows or 0) * (ref.columns or 0)
        memory_bytes = memory_for(ref.bytes_total, voxels or limits.max_pixel_bytes // 2)
    series = decoding.sandbox.read_series(objects, limits, memory_bytes)
    return series, decoding.sandbox.peak_memory_bytes


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


class _Tally:
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
