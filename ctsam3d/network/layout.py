"""Tensors with channels last in memory, and convolutions that take them as they are."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def laid_out(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, z, y, x) in this type with the channels of a voxel side by side; no copy where it is so already."""
    return tensor.detach().to(dtype=dtype, memory_format=torch.channels_last_3d)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """`F.conv3d` with a float32 bias, on a CPU always by oneDNN: for one sample PyTorch often takes a slower path."""
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        if x.dtype == torch.bfloat16 and not _onednn_takes_bfloat16():
            # what hardware that has the type computes: products of 16 bits each, sums of 32, rounded once
            return convolve(x.float(), weight.float(), bias, padding).to(x.dtype)
        return torch.mkldnn_convolution(x, weight, bias, [padding] * 3, [1] * 3, [1] * 3, 1)
    # added by itself, as cuDNN's convolutions do anyway: rounded to 16 bits first, a bias would shift whole channels
    return F.conv3d(x, weight, padding=padding).add_(bias.view(-1, 1, 1, 1))


@cache
def _onednn_takes_bfloat16() -> bool:
    """Not so on a CPU with AVX2 alone."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Of a layer that has both, without their gradients."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight.detach(), bias.detach()
