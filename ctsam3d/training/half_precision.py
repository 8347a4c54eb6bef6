"""Train in bfloat16 where the hardware is quick at it, around one fault of its libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def half_precision(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Where enabled, what autocast knows to be safe runs in bfloat16, but for convolutions over two slices."""
    around_fault = _TwoSlicesInFloat32() if enabled and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled), around_fault:
        yield


class _TwoSlicesInFloat32(TorchFunctionMode):
    """On CPUs with AVX-512 BF16 and no AMX, the gradient of a 3^3 convolution's weights over an image of two slices is
    memory that nothing was written to (torch 2.13); its answer and the gradient of its input are right."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.conv3d and args[0].shape[2] == 2:
            with torch.autocast("cpu", enabled=False):
                return func(args[0].float(), *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))
