"""Weights made from names alone, and what the network must compute with them.

`python -m tests.ctsam3d.network_reference` writes the fixtures anew. Do so only after
test_network_parity.py has passed against the published network's own outputs in the shared folder.
"""

import functools
import gzip
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsam3d.network import build
from ctsam3d.network.config import SIZES
from ctsam3d.network.model import CtSam3d

SHARED = Path(__file__).parents[2].parent / "shared" / "parity"
FIXTURES = Path(__file__).parent / "fixtures"
SHAPES = FIXTURES / "state_dict_shapes.json.gz"
OUTPUTS = FIXTURES / "restv2_tiny_outputs.npz"


def shapes_of(size: str) -> dict[str, list[int]]:
    """Names and shapes of a size's state dict, made without memory for the weights."""
    with torch.device("meta"):
        model = build(size)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def procedural(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fill every tensor from its name and shape, by the rules of the parity fixture."""
    return {name: _procedural(name, tuple(tensor.shape)) for name, tensor in state.items()}


def _procedural(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = np.exp(0.1 * normal)
    elif name.endswith(".adn.A.weight"):
        values = np.full(shape, 0.25)
    elif name.endswith(("bias", "running_mean")):
        values = 0.1 * normal
    elif len(shape) >= 2:
        values = normal / math.sqrt(math.prod(shape[1:]))
    else:
        values = 1 + 0.1 * normal
    return torch.from_numpy(np.asarray(values, np.float32))


@functools.cache
def tiny() -> CtSam3d:
    """The tiny network with procedural weights, in evaluation mode. Not to be changed by a test."""
    with torch.device("meta"):
        model = build("restv2_tiny")
    model.load_state_dict(procedural(model.state_dict()), assign=True)
    return model.eval()


def cubes() -> Tensor:
    """Two smooth cubes (2, 1, 64, 64, 64) in [0, 1], always the same."""
    coarse = np.random.default_rng(7).random((2, 1, 9, 9, 9), dtype=np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(64, 64, 64), mode="trilinear")
    return fine.clamp(0, 1)


@torch.no_grad()
def outputs() -> dict[str, NDArray[np.float32]]:
    """Strided outputs of the tiny network: embeddings, a corrected mask, a heat map."""
    model, pair = tiny(), cubes()
    embeddings = model.embed(pair)
    first, second = embeddings.take([0]), embeddings.take([1])
    clicks = torch.tensor([[[12.7, 40, 9], [70.0, -3, 30], [14, 41, 9], [0, 0, 0]]])
    labels = torch.tensor([[1, 0, 1, -1]])
    mask, quality = model.decode_with_quality(second, clicks, labels, previous_mask=pair[:1])
    heat = model.propose_click(pair[:1], pair[:1], pair[1:])
    sampled = {
        "stage1": first.stage1[..., ::4, ::4, ::4],
        "stage2": first.stage2[..., ::4, ::4, ::4],
        "stage3": first.stage3[..., ::2, ::2, ::2],
        "stage4": first.stage4,
        "mask": mask[..., ::5, ::5, ::5],
        "quality": quality,
        "heat": heat[..., ::5, ::5, ::5],
    }
    return {name: tensor.numpy() for name, tensor in sampled.items()}


def fixture_shapes() -> dict[str, Any]:
    """Names and shapes of every size, as they were when parity was shown."""
    shapes: dict[str, Any] = json.loads(gzip.decompress(SHAPES.read_bytes()))
    return shapes


def _write() -> None:
    shapes = json.dumps({size: shapes_of(size) for size in SIZES}, separators=(",", ":"))
    SHAPES.write_bytes(gzip.compress(shapes.encode(), mtime=0))
    np.savez_compressed(OUTPUTS, **outputs())


if __name__ == "__main__":
    _write()
