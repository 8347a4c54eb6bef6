"""Stand over a run: outcomes in as they come; a run that stands still, fails as a whole or is told to stop ends.

Watchdog   no series ended for too long     the run is interrupted, and if it does not hear, ended
Breaker    most series end for one reason   it is us, not them: the run is ended
Stopping   SIGTERM, as before a spot machine goes: no more series are begun, those begun are finished
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ctsam3d.outcome import Status
from pipelines.cohort.commit import Outcome
from pipelines.faults import Aborted, ExitCode
from pipelines.reasons import Withheld

_HEARD_WITHIN_S = 60.0
_BARKS = 4


class Watchdog:
    """Interrupts the main thread when nobody came for too long; ends the process if that is not heard."""

    def __init__(self, limit_s: float, heard_within_s: float = _HEARD_WITHIN_S) -> None:
        self._limit_s = limit_s
        self._heard_within_s = heard_within_s
        self._seen_s = time.monotonic()
        self._over = threading.Event()
        self._barked = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block lasts. Raises Aborted where it stood still.

        Only a main thread can be interrupted; in another, what runs there must have a limit of its own.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if deaf:  # as shells start what a script puts in the background
            signal.signal(signal.SIGINT, self._on_bark)
        watcher = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.seen()
        watcher.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._barked:
                raise Aborted(self._message()) from None
            raise
        finally:
            self._over.set()
            if deaf:
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_bark(self, signum: int, frame: FrameType | None) -> None:
        """Hear the watchdog and nobody else."""
        if self._barked:
            raise KeyboardInterrupt

    def seen(self) -> None:
        """A series ended."""
        self._seen_s = time.monotonic()

    def _message(self) -> str:
        return f"no series ended for {self._limit_s:.0f} s: the run stands still"

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() - self._seen_s > self._limit_s:
                break
        else:
            return
        self._barked = True
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(_BARKS):  # one may be lost in a library that swallows whatever is raised
            signal.pthread_kill(main, signal.SIGINT)
            if self._over.wait(self._heard_within_s / _BARKS):
                return
        print(f"ctsam3d: {self._message()}; ended where it stood", file=sys.stderr, flush=True)
        os._exit(ExitCode.ABORTED)


class Breaker:
    """Judges a run by how its series end."""

    def __init__(self, after: int, share: float) -> None:
        self._after = after
        self._share = share
        self._ended = 0
        self._reasons: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one series that ended.

        Raises:
            Aborted: the credentials are refused, or more than the share of all ended for one reason.
        """
        if outcome.reason == Withheld.ACCESS_DENIED:
            raise Aborted("a store refuses the credentials it took before")
        self._ended += 1
        if outcome.status is not Status.OK and outcome.reason:
            self._reasons[outcome.reason] += 1
        for reason, count in self._reasons.most_common(1):
            if self._ended >= self._after and count > self._share * self._ended:
                raise Aborted(
                    f"{count} of {self._ended} series ended with {reason}: that is not the series' fault"
                )


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """The event that SIGTERM sets while the block lasts; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_sigterm(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    former = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, former)
