"""Keep a process's memory and files to itself: nothing in; no core dumps, no files for others to read."""

from __future__ import annotations

import os
import resource


def no_core_dumps() -> None:
    """A core dump would hold a patient's images. Processes started from here inherit this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def own_files_only() -> None:
    """Files this process makes, logs and spilled volumes among them, are its user's alone."""
    os.umask(0o077)
