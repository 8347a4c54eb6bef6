"""Marks for tests that need a GPU, or run on the CPU and on one; and how many threads a CPU computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

_NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ("cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _NO_CUDA]))


def on_cuda(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that needs a CUDA device; where there is none it is skipped."""
    marked: Callable[..., Any] = pytest.mark.gpu(_NO_CUDA(test))
    return marked


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads, on which the order of additions hangs, and with it the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
