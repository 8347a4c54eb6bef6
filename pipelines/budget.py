"""What one series may cost a worker: seconds and bytes in; a worker that overruns either says so and ends."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.deadline import deadline
from pipelines.faults import ExitCode
from pipelines.reasons import Failure

_LOOK_EVERY_S = 0.2
_LAST_WORDS_S = 5.0  # to say why, before the end comes anyway
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one stage of one series.

    Attributes:
        seconds: of wall time.
        memory_bytes: of the process's own memory, what it shares with others not counted.
    """

    seconds: float
    memory_bytes: int

    @contextmanager
    def watch(self, blame: Callable[[Failure], None]) -> Iterator[None]:
        """End this process if the block goes over the budget, after telling `blame` which limit it was.

        A thread looks on. Where native code never gives up Python's lock the thread is not heard, and the
        deadline, which needs no lock, ends the process without a word. To Ray either looks like a crash.
        """
        done = threading.Event()
        watcher = threading.Thread(target=self._look, args=(done, blame), name="budget", daemon=True)
        with deadline(self.seconds + _LAST_WORDS_S):
            watcher.start()
            try:
                yield
            finally:
                done.set()
                watcher.join(_LAST_WORDS_S)

    def _look(self, done: threading.Event, blame: Callable[[Failure], None]) -> None:
        end_s = time.monotonic() + self.seconds
        while not done.wait(_LOOK_EVERY_S):
            over = Failure.TIMEOUT if time.monotonic() >= end_s else None
            if own_memory_bytes() > self.memory_bytes:
                over = Failure.MEMORY
            if over is not None:
                end_process(lambda cause=over: blame(cause))  # type: ignore[misc]


def end_process(last_words: Callable[[], None]) -> None:
    """End this process at once, as a crash would, after a few seconds at most for its last words."""
    with Path(os.devnull).open("w") as nowhere, suppress(Exception):
        faulthandler.dump_traceback_later(_LAST_WORDS_S, exit=True, file=nowhere)
        last_words()
    os._exit(ExitCode.ABORTED)


def own_memory_bytes() -> int:
    """Resident memory of this process less what it shares, such as Ray's object store; 0 where unknown."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES
