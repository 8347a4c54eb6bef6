"""Attempts that did not come to their end, counted across runs: a record's name in, this attempt's number out.

An attempt is written down before it begins and struck out when it ends, so that what is left in the ledger is under
way, or died with its worker, its machine or its run. A series that died often enough is not touched again until its
attempts are forgotten.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass

from pipelines.identity import is_key
from pipelines.reasons import Failure
from pipelines.store import NotFound, Store, StoreError

LOAD, SEGMENT = "load", "segment"
_PREFIX = "attempts"


@dataclass(frozen=True, slots=True)
class Ledger:
    """Attempts at the records of one output.

    Attributes:
        output: the store that holds the records.
        max_attempts: how often a stage of a series may be begun without an end, in all runs together.
    """

    output: Store
    max_attempts: int

    def begin(self, record_key: str, stage: str) -> int | None:
        """Claim the next attempt: 1, 2, ...; None when all are used up. Raises StoreError."""
        for number in range(1, self.max_attempts + 1):
            # Words of its own, so that a write whose answer was lost is not mistaken for another's.
            if self.output.put_if_absent(_path(record_key, stage, number), uuid.uuid4().hex.encode()):
                return number
        return None

    def end(self, record_key: str, stage: str, number: int) -> None:
        """Strike the attempt out. One that stays, because the store failed, counts as one that died."""
        with suppress(StoreError):
            self.output.delete(_path(record_key, stage, number))

    def blame(self, record_key: str, stage: str, number: int, cause: Failure) -> None:
        """Say why this attempt is about to end its worker."""
        self.output.put(_path(record_key, stage, number), str(cause).encode())

    def cause(self, record_key: str, stage: str) -> Failure:
        """Why the last attempt ended; WORKER_LOST where it had no time to say."""
        try:
            return Failure(self.output.get(_path(record_key, stage, self.max_attempts)).decode())
        except (ValueError, NotFound):
            return Failure.WORKER_LOST


def forget_attempts(output: Store, record_key: str) -> None:
    """Let a series be begun anew."""
    for entry in list(output.list(f"{_PREFIX}/{record_key[:2]}/{record_key}")):
        output.delete(entry.key)


def _path(record_key: str, stage: str, number: int) -> str:
    if not is_key(record_key):
        raise ValueError("not the name of a record")
    return f"{_PREFIX}/{record_key[:2]}/{record_key}/{stage}-{number}"
