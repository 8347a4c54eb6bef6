"""Prompt one series: what was said of it in; its label map, parsed where nothing can be harmed, out.

Clicks travel with the series and need nothing. Which structures a label map is of, and whether it or clicks can be of
this volume, is for the prompter to say, when the model's grid is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ctsam3d.imaging.dicom import Limits
from ctsam3d.imaging.label_maps import MAX_JSON_BYTES
from ctsam3d.imaging.packed_labels import PackedLabels, read_packed
from ctsam3d.outcome import Reason, Rejected
from pipelines.cohort.fetch import Decoding, Tally, fetch
from pipelines.cohort.work import Work, guarded
from pipelines.sandbox import SandboxFailure, memory_for
from pipelines.store import Store

_LEAST_VOXELS = 1 << 27  # that a label map may have, however small the image
_FETCH_THREADS = 2


def prompt(work: Work, store: Store | None, limits: Limits, decoding: Decoding = Decoding()) -> Work:  # noqa: B008 (frozen)
    """Fetch and parse the label map of a loaded series that has one; any other passes through untouched.

    What cannot be used refuses the series: without its prompts it would be another result under the same name.
    """
    given = work.prompts
    if given is None or not given.maps:
        return work
    assert store is not None

    def step(work: Work) -> Work:
        assert work.volume is not None
        if len(given.maps) > 1:
            raise Rejected(Reason.PROMPTS_INVALID, f"found {len(given.maps)} label maps, expected one")
        most_names_bytes = min(MAX_JSON_BYTES, limits.max_object_bytes)
        for entry, most_bytes in ((given.maps[0], limits.max_object_bytes), (given.names, most_names_bytes)):
            if entry is not None and entry.size > most_bytes:
                raise Rejected(
                    Reason.PROMPTS_INVALID, f"an object of {entry.size} bytes, expected at most {most_bytes}"
                )
        voxels = max(work.volume.hu.size, _LEAST_VOXELS)
        memory_bytes = decoding.memory_bytes or memory_for(sum(entry.size for entry in given.objects), voxels)
        tally = Tally()
        try:
            labels = decoding.tried(
                lambda: _read(
                    tally.counted(fetch(store, given.objects, _FETCH_THREADS)), limits, memory_bytes, decoding
                )
            )
        except Rejected as refusal:
            raise Rejected(Reason.PROMPTS_INVALID, f"{refusal.reason}: {refusal.detail}") from None
        except SandboxFailure as failure:
            stopped = work.stopped(failure.failure, f"prompts: {failure.detail}")
            return stopped.spent("fetch_prompts", tally.waited_s, tally.bytes_read)
        peak_bytes = decoding.sandbox.peak_memory_bytes if decoding.sandbox else 0
        prompted = replace(work, labels=labels)
        return prompted.spent("fetch_prompts", tally.waited_s, tally.bytes_read, peak_bytes)

    return guarded("prompts", step, work)


def _read(
    objects: Iterator[tuple[str, bytes]], limits: Limits, memory_bytes: int, decoding: Decoding
) -> PackedLabels:
    packed_bytes = limits.max_pixel_bytes // 8  # a bit for each byte that pixels may take
    if decoding.sandbox is not None:
        return decoding.sandbox.read_labels(objects, limits, packed_bytes, memory_bytes)
    file, *beside = (data for _, data in objects)
    return read_packed(file, beside[0] if beside else None, packed_bytes)
