"""In bfloat16 nearly the same is learned as in float32, also where a library's fault would make it noise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctsam3d.training.half_precision import half_precision

_CPU = torch.device("cpu")


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_gradients_of_weights_are_those_of_float32(depth: int) -> None:
    generator = torch.Generator().manual_seed(depth)
    convolution = nn.Conv3d(32, 32, 3, padding=1)
    image = torch.randn(4, 32, depth, 8, 8, generator=generator)
    gradients = []
    for enabled in (False, True):
        convolution.zero_grad()
        rubbish = [torch.full((n,), 1e30) for n in (1_000, 30_000, 1_000_000)]
        del rubbish  # what a kernel leaves unwritten shows
        with half_precision(_CPU, enabled=enabled):
            answer = convolution(image)
        answer.float().square().sum().backward()
        assert convolution.weight.grad is not None
        gradients.append(convolution.weight.grad.flatten().clone())
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.999


def test_convolutions_run_in_bfloat16_unless_over_two_slices() -> None:
    convolution = nn.Conv3d(4, 4, 3, padding=1)
    with half_precision(_CPU, enabled=True):
        assert convolution(torch.ones(1, 4, 4, 8, 8)).dtype == torch.bfloat16
        assert convolution(torch.ones(1, 4, 2, 8, 8)).dtype == torch.float32
        assert convolution(torch.ones(1, 4, 2, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32
    with half_precision(_CPU, enabled=False):
        assert convolution(torch.ones(1, 4, 4, 8, 8)).dtype == torch.float32
