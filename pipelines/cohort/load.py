"""Load one series: its objects in a bucket in, a Volume in HU and the facts of its headers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ctsam3d.imaging.decoders import DecoderMissing
from ctsam3d.imaging.dicom import DicomSeries, Limits, read_series
from ctsam3d.outcome import Reason, Rejected
from pipelines.cohort.fetch import Decoding, Tally, fetch
from pipelines.cohort.work import Work, guarded
from pipelines.manifest import SeriesRef
from pipelines.reasons import Failure
from pipelines.sandbox import SandboxFailure, memory_for
from pipelines.store import Store


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
        tally = Tally()
        try:
            series, peak_bytes = decoding.tried(
                lambda: _read(
                    work.ref, tally.counted(fetch(source, objects, fetch_threads)), limits, decoding
                )
            )
        except SandboxFailure as failure:
            stopped = work.stopped(failure.failure, failure.detail)
            return stopped.spent("fetch", tally.waited_s, tally.bytes_read)
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
