"""A process of a cluster whose parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.process import runs, until

# Waits at its end for ever, as a thread that locks itself up does, and is deaf to signals that ask.
WORKER = """
import atexit, signal, time
from pipelines import worker
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if {prepared}:
    worker.prepare()
atexit.register(time.sleep, 600)
print("ready", flush=True)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("prepared", [True, False])
def test_a_worker_that_locks_itself_up_at_its_end_ends_with_its_parent(prepared: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, WORKER.format(prepared=prepared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None and parent.stdout is not None
    worker = int(parent.stdout.readline())
    try:
        assert runs(worker)
        parent.kill()
        parent.wait()
        if prepared:
            until(lambda: not runs(worker))
        else:
            time.sleep(2.0)
            assert runs(worker)  # or this would show nothing
    finally:
        parent.stdin.close()
        parent.stdout.close()
        if runs(worker):
            os.kill(worker, signal.SIGKILL)
