"""Stores for the tests of the commit protocol: one in memory whose process dies at a chosen operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from obstore.store import MemoryStore

from pipelines.store import ObjectInfo, Store
from pipelines.store_address import Backends


class Crash(BaseException):
    """The process died. Nothing catches it, as nothing catches a kill."""


@dataclass
class Life:
    """How long a process lives, counted in operations on its store.

    Attributes:
        operations: after so many operations it dies; None lives on.
        applied: whether the last one still takes effect.
        done: operations so far.
    """

    operations: int | None = None
    applied: bool = True
    done: int = 0
    lock: Lock = field(default_factory=Lock)

    def step(self, operation: Callable[[], Any]) -> Any:
        with self.lock:
            self.done += 1
            over = self.operations is not None and self.done >= self.operations
            dead = over and (self.done > (self.operations or 0) or not self.applied)
        if dead:
            raise Crash
        result = operation()
        if over:
            raise Crash
        return result


@dataclass(frozen=True)
class MortalStore(Store):
    """Objects in memory, which outlive the process that `life` is of."""

    life: Life = field(default_factory=Life)
    memory: Any = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_backends", Backends(self.memory, self.memory, self.memory))

    def living(self, operations: int | None = None, applied: bool = True) -> MortalStore:
        """The same objects for another process."""
        return MortalStore(self.uri, life=Life(operations, applied), memory=self.memory)

    def get(self, key: str, if_match: str | None = None) -> bytes:
        return self.life.step(lambda: Store.get(self, key, if_match))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.life.step(lambda: Store.get_range(self, key, start, length))

    def put(self, key: str, data: bytes) -> None:
        self.life.step(lambda: Store.put(self, key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.life.step(lambda: Store.put_if_absent(self, key, data))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(self.life.step(lambda: list(Store.list(self, prefix))))

    def exists(self, key: str) -> bool:
        return self.life.step(lambda: Store.exists(self, key))

    def delete(self, key: str) -> None:
        self.life.step(lambda: Store.delete(self, key))

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What is there, seen from outside."""
        seen = self.living()
        return {entry.key: Store.get(seen, entry.key) for entry in Store.list(seen, prefix)}
