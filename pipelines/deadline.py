"""A limit on how long one series may hold a worker: seconds in; a worker that overruns them ends."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer.

    The watch is a thread of the interpreter's own that needs no lock of Python, so that a loop in native code
    is ended as well. To Ray it looks like any crash: the series is tried again, a bounded number of times.
    """
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
