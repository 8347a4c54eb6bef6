"""Keep a process's memory to itself: nothing in, no core dumps out."""

from __future__ import annotations

import resource


def no_core_dumps() -> None:
    """A core dump would hold a patient's images. Processes started from here inherit this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
