"""What a process of a cluster owes its machine: a call at the beginning of its work, a clean end whatever comes."""

from __future__ import annotations

import ctypes
import resource
import signal

_PR_SET_PDEATHSIG = 1


def prepare() -> None:
    """Keep this process's memory to itself, and have it end with the process that started it.

    Processes started from here inherit the first.
    """
    _no_core_dumps()
    _end_with_parent()


def _no_core_dumps() -> None:
    """A core dump would hold a patient's images."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends.

    A worker whose node is gone ends by itself, but with Ray 2.60 it may lock itself up on the way out and hold its
    weights until somebody looks, on a GPU too. (The kernel means the parent's *thread*: Ray starts workers from its
    main one.)
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # elsewhere than on Linux Ray's own ways have to do
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
