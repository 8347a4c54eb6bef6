"""Load one series: its objects in a bucket in, a Volume in HU and the facts of its headers out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ctsam3d.imaging.dicom import Limits, read_series
from ctsam3d.outcome import Reason, Rejected
from pipelines.cohort.work import Work, guarded
from pipelines.prefetch import prefetch
from pipelines.reasons import Failure
from pipelines.store import Changed, ObjectInfo, Store


def load(work: Work, source: Store, limits: Limits, fetch_threads: int = 16) -> Work:
    """Fetch the objects of the manifest's row ahead of decoding, and stack them into a Volume.

    An object that is gone, or no longer the one the manifest lists, fails the series: its record is named by
    what the manifest saw. One over the size limit refuses it before anything is fetched.
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
        try:
            series = read_series(tally.counted(fetch(source, objects, fetch_threads)), limits)
        except RuntimeError:  # says so itself: no decoder here for the transfer syntax
            return work.stopped(Failure.CODEC_UNAVAILABLE)
        loaded = replace(work, volume=series.volume, facts=series.facts)
        return loaded.spent("fetch", tally.waited_s, tally.bytes_read)

    return guarded("load", step, work)


def fetch(source: Store, objects: Sequence[ObjectInfo], threads: int) -> Iterator[tuple[str, bytes]]:
    """Objects in the order given, a bounded number of them held or on their way at a time.

    Raises:
        StoreError: NotFound or Changed where an object is not the one listed.
    """

    def get(entry: ObjectInfo) -> tuple[str, bytes]:
        data = source.get(entry.key, entry.etag)
        if len(data) != entry.size:
            raise Changed(f"{source.address(entry.key)}: expected {entry.size} bytes, found {len(data)}")
        return entry.key, data

    return prefetch(get, objects, threads)


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
