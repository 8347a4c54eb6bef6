"""A network <-> a file of weights; the published params.pth -> such a file. Nothing read is ever executed.

Every key, shape and type is compared with the network the header names before a tensor is read. There is no
lenient loading: a file fits whole or not at all.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctsam3d.network import build
from ctsam3d.network.config import SIZES, SPACING_MM
from ctsam3d.network.model import CtSam3d
from ctsam3d.network.weights_file import (
    METADATA_KEY,
    CheckpointError,
    CheckpointInfo,
    Shape,
    WeightsFacts,
    info,
    sha256,
)

__all__ = [
    "CheckpointError",
    "CheckpointInfo",
    "WeightsFacts",
    "convert",
    "info",
    "load",
    "read_tensors",
    "save",
    "save_tensors",
    "sha256",
]

_COUNTER = "num_batches_tracked"  # the one kind of tensor that holds an integer
_LISTED = 3  # differences named in an error; the others are counted


def save(
    path: Path | str,
    model: CtSam3d,
    training: Mapping[str, Any],
    licence: str = "Apache-2.0",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network's weights, size, windows and spacing, with facts on its training that JSON can hold.

    `dtype` is that of the stored floats: float16 halves the file and `load` gives float32 all the same.
    The same weights and facts give the same bytes. The file appears whole or not at all.
    """
    config = model.config
    facts = WeightsFacts(config.size, config.windows_hu, SPACING_MM, licence, training)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_tensors(path, tensors, facts)


def load(path: Path | str) -> tuple[CtSam3d, CheckpointInfo]:
    """Make the network a file holds: float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or does not fit its network in every tensor.
    """
    header = info(path)
    facts = header.facts
    if facts.network not in SIZES:
        raise CheckpointError(path, f"expected a network of {', '.join(SIZES)}, found {facts.network!r}")
    expected_input = (SIZES[facts.network].windows_hu, SPACING_MM)
    if (facts.windows_hu, facts.spacing_mm) != expected_input:
        raise CheckpointError(
            path,
            f"expected windows and spacing of {facts.network}, {expected_input}, "
            f"found {(facts.windows_hu, facts.spacing_mm)}",
        )
    model = _outline(facts.network)
    differences = _differences(_shapes(model.state_dict()), header.shapes)
    differences += [
        f"{name}: unexpected type {dtype}"
        for name, dtype in header.dtypes.items()
        if dtype not in (("I64",) if name.endswith(_COUNTER) else ("F32", "F16", "BF16"))
    ][:_LISTED]
    if differences:
        raise CheckpointError(path, f"not the tensors expected of {facts.network}: {'; '.join(differences)}")
    tensors, _ = read_tensors(path)
    _check_finite(path, tensors)
    model.load_state_dict({name: _plain(tensor) for name, tensor in tensors.items()}, assign=True)
    return model.eval(), header


def convert(params_pth: Path | str, out: Path | str, licence: str = "see the publisher's terms") -> str:
    """Turn the published file, a pickle of {"model_state_dict": ...}, into a checkpoint of ours.

    Returns:
        The size of the network: one of the published ones, whichever has exactly these tensors.

    Raises:
        CheckpointError: another kind of file, or a tensor missing, unknown or of another shape than in every
            published size; the first differences from the nearest size are listed.
    """
    found = _read_published(params_pth)
    outlines = {size: _outline(size) for size, config in SIZES.items() if config.positional_features}
    differences = {
        size: _differences(_shapes(model.state_dict()), _shapes(found), listed=None)
        for size, model in outlines.items()
    }
    size = min(differences, key=lambda name: len(differences[name]))
    if differences[size]:
        listed = _differences(_shapes(outlines[size].state_dict()), _shapes(found))
        raise CheckpointError(
            params_pth, f"of no published size; from {size}, the nearest, differ: {'; '.join(listed)}"
        )
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_floating_point() == name.endswith(_COUNTER):
            raise CheckpointError(params_pth, f"{name}: unexpected type {tensor.dtype}, {tensor.layout}")
    _check_finite(params_pth, found)
    model = outlines[size]
    model.load_state_dict({name: _plain(tensor) for name, tensor in found.items()}, assign=True)
    save(out, model, {"converted_from_sha256": sha256(params_pth), "paper": "arXiv 2403.15063"}, licence)
    return size


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], facts: WeightsFacts) -> None:
    """Write any network's tensors under the same kind of header; the file appears whole or not at all."""
    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(plain, partial, metadata={METADATA_KEY: facts.to_json()})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Read any network's tensors, on the CPU, as stored, with the header.

    Raises:
        CheckpointError: the file is no checkpoint or is damaged.
    """
    header = info(path)
    try:
        return load_file(path, device="cpu"), header
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"expected a whole safetensors file, found it damaged: {error}") from None


def _outline(size: str) -> CtSam3d:
    """The network without memory for its weights: names and shapes alone."""
    with torch.device("meta"):
        return build(size)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _plain(tensor: Tensor) -> Tensor:
    """A copy of our own (a tensor as read may be a window onto the file), floats in 32 bits."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64, copy=True).contiguous()


def _differences(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], listed: int | None = _LISTED
) -> list[str]:
    """Say which names or shapes differ: the first of each kind, all where `listed` is None."""
    kinds = (
        [f"{name} missing" for name in expected if name not in found],
        [f"{name} unknown" for name in found if name not in expected],
        [
            f"{name} expected {expected[name]}, found {found[name]}"
            for name in expected
            if name in found and found[name] != expected[name]
        ],
    )
    lines = []
    for kind in kinds:
        lines += kind[:listed]
        if listed is not None and len(kind) > listed:
            lines.append(f"{len(kind) - listed} more like the last")
    return lines


def _check_finite(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(path, f"expected finite numbers in {name}, found others")


def _read_published(path: Path | str) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(path, f"expected a file of weights, found: {error.strerror or error}") from None
    except Exception as error:  # the unpickler fails in a dozen ways, and its advice is to trust the file
        raise CheckpointError(
            path,
            f"expected PyTorch weights holding tensors alone, found something else ({type(error).__name__})",
        ) from None
    tensors = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise CheckpointError(path, 'expected {"model_state_dict": {name: tensor}}, found something else')
    return tensors
