"""Processes that tests can kill: what a run is asked in, its process and all it has started out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults.run_troubled import Asked

ROOT = Path(__file__).parents[2]


class Started:
    """A run in a process of its own."""

    def __init__(self, asked: Asked, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "faults" / "run_troubled.py", asked.to_argument()],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children: set[int] = set()

    def wait_until(self, seen: Callable[[], bool]) -> None:
        """Until something can be seen while the run is alive; fails if it ends before."""
        while not seen():
            assert self.process.poll() is None, self.process.communicate()[1]
            self.children |= descendants(self.process.pid)
            time.sleep(0.1)
        self.children |= descendants(self.process.pid)
        assert self.process.poll() is None, self.process.communicate()[1]

    def ended(self, timeout: float = 280) -> tuple[int, str, str]:
        """Its exit code and what it said, once it has ended by itself."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def end(self) -> None:
        """End what is left of the run: this process and those it started, by their ids."""
        for pid in [self.process.pid, *self.children]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()


def descendants(pid: int) -> set[int]:
    """Ids of the processes started by a process, and by those."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            ids = {int(word) for word in children.read_text().split()}
        except OSError:
            continue
        found |= ids.union(*(descendants(child) for child in ids))
    return found


def runs(pid: int) -> bool:
    """Whether a process is alive; one that nobody has asked how it ended is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_of(pid: int) -> str:
    """What a process was started as, or has named itself since; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def until(is_so: Callable[[], bool]) -> None:
    """Until something is so; fails after a minute."""
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute")
