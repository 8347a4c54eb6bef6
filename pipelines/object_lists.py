"""The objects of very many series while they are found: entries in, in any order; each series' own, sorted, out."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Generic, TypeVar

import pyarrow as pa

from pipelines.store import ObjectInfo

Name = TypeVar("Name", bound=Hashable)
_Packed = tuple[int, bytes]  # how many bytes they were, and what zstd made of them
_LOOSE = 4096


class ObjectLists(Generic[Name]):
    """A list of objects for each name.

    The latest few thousand are held as they are, the others packed: names of one folder are alike, and what is random
    in an ETag is half of its digits. That is a tenth of the memory, for a thousandth of the time it takes to find them.
    """

    def __init__(self) -> None:
        self._loose: dict[Name, list[ObjectInfo]] = {}
        self._count = 0
        self._packed: dict[Name, list[_Packed]] = {}

    def add(self, name: Name, entry: ObjectInfo) -> None:
        """Add an object to the list of this name."""
        self._loose.setdefault(name, []).append(entry)
        self._count += 1
        if self._count >= _LOOSE:
            for listed, entries in self._loose.items():
                self._packed.setdefault(listed, []).append(_pack(entries))
            self._loose.clear()
            self._count = 0

    def take(self, name: Name) -> tuple[ObjectInfo, ...]:
        """The objects of this name, sorted by key, which are then no longer held."""
        entries = self._loose.pop(name, [])
        for packed in self._packed.pop(name, ()):
            entries += _unpack(packed)
        return tuple(sorted(entries, key=lambda entry: entry.key))


def _pack(entries: list[ObjectInfo]) -> _Packed:
    text = json.dumps([(entry.key, entry.size, entry.etag) for entry in entries]).encode()
    return len(text), pa.compress(text, codec="zstd", asbytes=True)


def _unpack(packed: _Packed) -> list[ObjectInfo]:
    length, data = packed
    text = pa.decompress(data, decompressed_size=length, codec="zstd", asbytes=True)
    return [ObjectInfo(*entry) for entry in json.loads(text)]
