"""How many cubes a device decodes at a time: its free memory, and what the network takes of it for a cube, in.

Only a GPU is asked. On a CPU a few cubes are as fast as many, whatever the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

MOST = 32  # cubes: with so many a large GPU is busy, and their embeddings are all that is kept
_SHARE = 0.5  # of what is free: the localizer and resampling need room too, and replicas may share a device


class Memory(Protocol):
    """The memory of a device."""

    def free_bytes(self) -> int:
        """What this process could still take."""
        ...

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """The most that some work holds at a time, beside what was held before."""
        ...


class CudaMemory:
    """The memory of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """What no process has, and what torch keeps for this one without using it."""
        free: int = torch.cuda.mem_get_info(self._device)[0]
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """As torch counts what it has given out."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device) - before


def fitting_batch(memory: Memory, decode: Callable[[int], object]) -> int:
    """Cubes that fit, from 1 to `MOST`; `decode` decodes so many, by which is measured what one more takes."""
    decode(1)  # what is made once, and kept, is no cube's
    one, two = (memory.peak_bytes(partial(decode, cubes)) for cubes in (1, 2))
    each = two - one if two > one else max(one, 1)
    room = int(_SHARE * memory.free_bytes()) - (one - each)
    return max(1, min(MOST, room // each))
