"""Large arrays that come and go fault their pages in once, not each time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_WORK = """
import resource, sys
import torch
from ctsam3d.network.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit("no allocator that can be told")
def work():
    return sum(float(array.sum()) for array in [torch.ones(7_000_000) for _ in range(8)])
for _ in range(10):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _WORK, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory as it likes")
def test_freed_memory_is_used_again() -> None:
    given_back, kept = _faults("given back"), _faults("kept")
    assert kept <= 0.4 * given_back, f"{kept} page faults of {given_back}"
