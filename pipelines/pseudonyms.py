"""Pseudonyms: UIDs, object keys and dates in; others, which only a holder of the same key can tell again, out.

A pseudonym is a keyed hash (HMAC-SHA-256): without the key nobody can make it from a UID he guesses, with it the same
UID gives the same pseudonym tonight and next year. The days between two studies of a patient are kept.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from pipelines.faults import UsageError

_LEAST_BYTES, _MOST_BYTES = 32, 4096
_MOST_DAYS = 3650
_UUID_ROOT = "2.25."  # the root of UIDs that are a number of 128 bits


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Those that one key makes."""

    key: bytes = field(repr=False)

    @classmethod
    def of_file(cls, path: Path) -> Pseudonyms:
        """Those of the key in a file, white space around it left out. Raises UsageError, without a word of the key."""
        try:
            with path.open("rb") as file:
                key = file.read(_MOST_BYTES).strip()
        except OSError as fault:
            raise UsageError(f"{path}: the key of the pseudonyms cannot be read ({fault.strerror})") from None
        if len(key) < _LEAST_BYTES:
            raise UsageError(
                f"{path}: a key of {len(key)} bytes, expected at least {_LEAST_BYTES}; make one with "
                "`openssl rand -hex 32`"
            )
        return cls(key)

    @property
    def fingerprint(self) -> str:
        """The key's own name, which says nothing of it: a run under another key is another run."""
        return self.text("fingerprint", "")

    def uid(self, uid: str | None) -> str | None:
        """A UID in place of a UID; None stays None."""
        return None if uid is None else _UUID_ROOT + str(int.from_bytes(self._hash("uid", uid)[:16]))

    def text(self, kind: str, text: str) -> str:
        """32 hexadecimal digits in place of a text; other ones for another kind of text."""
        return self._hash(kind, text)[:16].hex()

    def day(self, day: date | None, patient: str) -> date | None:
        """A date one day to ten years earlier, by as much for all dates of a patient; None where there is none."""
        if day is None:
            return None
        earlier = 1 + int.from_bytes(self._hash("days", patient)[:8]) % _MOST_DAYS
        try:
            return day - timedelta(days=earlier)
        except OverflowError:
            return None

    def _hash(self, kind: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), "sha256")
