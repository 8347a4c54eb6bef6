"""Progress of a run: outcomes counted as they arrive, one line for people on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from ctsam3d.outcome import Status

_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 15.0


class Progress:
    """Counts outcomes and says where a run stands: in place on a terminal, else a plain line now and then."""

    def __init__(
        self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._counts: Counter[str] = Counter()
        self._stream = stream or sys.stderr
        self._clock = clock
        self._start_s = clock()
        self._first_s: float | None = (
            None  # when the first outcome came: starting a cluster is no part of the rate
        )
        self._shown_s = float("-inf")
        self._in_place = self._stream.isatty()
        self._show("" if self._in_place else "\n")

    def add(self, status: str) -> None:
        """Count one series that ended."""
        self._counts[status] += 1
        if self._first_s is None:
            self._first_s = self._clock()
        every_s = _TERMINAL_EVERY_S if self._in_place else _PLAIN_EVERY_S
        if self._clock() - self._shown_s >= every_s:
            self._show("" if self._in_place else "\n")

    def close(self) -> None:
        """Show where the run ended, and leave the line."""
        self._show("\n")

    def line(self) -> str:
        """`12/40 series  ok 10  rejected 1  failed 1  3.2/min  ETA 8 min`."""
        done = sum(self._counts.values())
        refused = self._counts[Status.REJECTED]
        good = self._counts[Status.OK]
        parts = [
            f"{done}/{self._total} series",
            f"ok {good}",
            f"rejected {refused}",
            f"failed {done - good - refused}",
        ]
        now_s = self._clock()
        if done:
            # The first outcome pays for starting up; from the second on its arrival is where counting starts.
            since_s, counted = (self._first_s, done - 1) if done > 1 else (self._start_s, done)
            elapsed_s = max(now_s - (since_s or self._start_s), 1e-3)
            rate_per_s = counted / elapsed_s
            parts.append(f"{rate_per_s * 60:.1f}/min")
            if done < self._total:
                parts.append(f"ETA {_span((self._total - done) / rate_per_s)}")
        return "  ".join(parts)

    def _show(self, end: str) -> None:
        self._shown_s = self._clock()
        start = "\r\x1b[2K" if self._in_place else ""
        with suppress(OSError):  # a full disk or a reader that left is no reason to end a run
            print(start + self.line(), end=end, file=self._stream, flush=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
