"""Failure codes beyond refused input, and the one status each code gives: code in, Status out."""

from __future__ import annotations

from enum import StrEnum

from ctsam3d.outcome import Reason, Status


class Failure(StrEnum):
    """Why a series whose input was not refused has no result. Codes are stable: they end up in tables."""

    CODEC_UNAVAILABLE = "CODEC_UNAVAILABLE"  # the pixels need a decoder this installation lacks
    STORE_READ = "STORE_READ"  # the store could not be read, after its retries
    STORE_THROTTLED = "STORE_THROTTLED"  # the store kept asking for fewer requests
    OBJECT_VANISHED = "OBJECT_VANISHED"  # an object of the manifest is gone
    OBJECT_CHANGED = "OBJECT_CHANGED"  # an object is no longer the one the manifest lists
    GPU_OOM = "GPU_OOM"  # out of device memory at the smallest batch
    MODEL_NAN = "MODEL_NAN"  # the network returned values that are not finite
    INTERNAL = "INTERNAL"  # a fault of ours
    DECODER_CRASH = "DECODER_CRASH"  # a decoder took its process down, every time
    MEMORY = "MEMORY"  # went over the memory limit, every time
    TIMEOUT = "TIMEOUT"  # went over the time limit, every time
    WORKER_LOST = "WORKER_LOST"  # the worker died with it, every time
    DEVICE_LOST = "DEVICE_LOST"  # the GPU refused to go on with it, every time
    NO_RECORD = "NO_RECORD"  # the run ended and no outcome was ever written


class Withheld(StrEnum):
    """Why a series was given up without an outcome: never recorded, the next run takes it up again."""

    NOT_BEGUN = "NOT_BEGUN"  # the run was told to stop
    ACCESS_DENIED = "ACCESS_DENIED"  # a store refused the credentials
    NOT_WRITTEN = "NOT_WRITTEN"  # the output took no record


_POISONED = frozenset(
    {
        Failure.DECODER_CRASH,
        Failure.MEMORY,
        Failure.TIMEOUT,
        Failure.WORKER_LOST,
        Failure.DEVICE_LOST,
    }
)

# Outcomes of the moment: a later run may replace what is recorded.
RETRIABLE = frozenset({Status.FAILED, Status.LOST, Status.POISONED})


def status_of(reason: Reason | Failure | Withheld) -> Status:
    """The status a series gets for a reason: rejected, failed, poisoned or lost."""
    if isinstance(reason, Reason):
        return Status.REJECTED
    if reason is Failure.NO_RECORD or isinstance(reason, Withheld):
        return Status.LOST
    return Status.POISONED if reason in _POISONED else Status.FAILED
