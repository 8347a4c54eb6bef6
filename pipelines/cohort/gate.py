"""Who may begin: a series' key in, yes or no out; closed, it tells when the last that had begun has ended.

One small actor of the cluster keeps the answer, for a row may be loaded or segmented on any machine. Loading ahead
is cheap and is given up when the gate closes; a series has begun when a replica has taken it up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ANSWER_S = 60.0


@ray.remote(num_cpus=0, max_restarts=0)
class _Keeper:
    """Keys that were let in, until it closes."""

    def __init__(self) -> None:
        self._admitted: set[str] = set()
        self._closed = False

    def is_open(self) -> bool:
        """Whether series are still let in."""
        return not self._closed

    def admits(self, key: str) -> bool:
        """Let a series in; one that was let in before, and is tried again, always is."""
        if not self._closed:
            self._admitted.add(key)
        return key in self._admitted

    def close(self) -> set[str]:
        """Let nobody in from now on; who was ever let in."""
        self._closed = True
        return self._admitted


@dataclass(frozen=True, slots=True)
class Porter:
    """The workers' side of the gate. One that is gone, with the machine it was on, holds nobody up."""

    keeper: Any

    def is_open(self) -> bool:
        """Whether it is worth loading more series."""
        return self._ask(self.keeper.is_open.remote)

    def admits(self, key: str) -> bool:
        """Whether the series may begin."""
        return self._ask(self.keeper.admits.remote, key)

    def _ask(self, question: Callable[..., Any], *words: str) -> bool:
        try:
            return bool(ray.get(question(*words), timeout=_ANSWER_S))
        except (RayError, OSError):
            return True


class Gate:
    """The driver's side of the gate: closes it when told to stop."""

    def __init__(self, stop: threading.Event) -> None:
        # Beside the driver: any other machine may go while the run lasts.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._keeper: Any = _Keeper.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._stop = stop
        self._left = threading.Event()
        self._inside: set[str] | None = None  # who was let in before it closed
        self._ended: set[str] = set()
        self._watcher = threading.Thread(target=self._close_when_told, name="gate", daemon=True)

    def __enter__(self) -> Gate:
        self._watcher.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._left.set()
        ray.kill(self._keeper)

    @property
    def porter(self) -> Porter:
        """The workers' side."""
        return Porter(self._keeper)

    @property
    def is_idle(self) -> bool:
        """Whether the gate is closed and everyone who was let in has ended."""
        return self._inside is not None and self._inside <= self._ended

    def ended(self, key: str) -> None:
        """A series ended."""
        self._ended.add(key)

    def _close_when_told(self) -> None:
        while not self._left.wait(0.2):
            if self._stop.is_set():
                try:
                    self._inside = set(ray.get(self._keeper.close.remote(), timeout=_ANSWER_S))
                except (RayError, OSError):
                    self._inside = set()  # the cluster is on its way out: nothing to wait for
                return
