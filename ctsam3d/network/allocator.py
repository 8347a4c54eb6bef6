"""Have the C library keep what is freed, for a process that works in large arrays that come and go."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_KEPT_BYTES = (1 << 31) - 1
# larger arrays have pages of their own, or the heap would end up in pieces too small for them
_LARGEST_KEPT_BYTES = 1 << 25


def keep_freed_memory() -> bool:
    """Keep up to 2 GiB of freed memory, that of arrays of up to 32 MiB; whether the C library can be told to.

    glibc gives each large array pages of its own and hands them back when it is freed; the next one faults every page
    in anew. In segmenting a study that is a tenth of all CPU time. Call it before much is allocated.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES))
