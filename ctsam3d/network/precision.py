"""How finely the decoder computes, and whether a device has anything to gain from less."""

from __future__ import annotations

from enum import StrEnum

import torch


class Precision(StrEnum):
    """Of the convolutions of a decoder that needs no gradients; their sums, and all between them, are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def dtype(self) -> torch.dtype:
        """As torch names it."""
        return torch.bfloat16 if self is Precision.BFLOAT16 else torch.float32


def fast_in_half_precision(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster: GPUs of some years, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.11 cannot tell
        return False
    can = torch.cpu.get_capabilities()
    return any(can.get(unit) for unit in ("amx_tile", "avx512_bf16"))
