"""A seed -> the weights a network starts its training from."""

import torch
from torch import nn

from ctsam3d.network.mask_decoder import ChannelNorm

STD = 0.02

_LINEAR = (nn.Linear, nn.Conv3d, nn.ConvTranspose3d)
_OWN_START = (nn.LayerNorm, nn.BatchNorm3d, nn.PReLU)


def initialise(model: nn.Module, seed: int) -> None:
    """Fill the weights in place as the recipe of arXiv 2403.15063 does: truncated normal, std 0.02.

    Biases become 0, scales of norms 1, their shifts 0, slopes of PReLU 0.25. The same seed gives the same
    weights, on a CPU whichever the device; the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _LINEAR):
            drawn = nn.init.trunc_normal_(torch.empty(module.weight.shape), std=STD, generator=generator)
            with torch.no_grad():
                module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ChannelNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, _OWN_START):
            module.reset_parameters()
