"""Seconds a prompt: the plain decoder in float32, ours in float32, ours in bfloat16; and how far apart they are.

float32 is all of it: what GPUs multiply in TF32 unless told otherwise has a row of its own.

A first click is centred and alone; a second has the first's answer and a click elsewhere. Cubes are real, bundled ones.
The nano network has its bundled weights, the published size weights filled by rule: times do not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Figure, Work, against, clock_on, interleaved
from ctsam3d.network import checkpoint, windows
from ctsam3d.network.config import SIZES
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d, Embeddings
from ctsam3d.network.precision import Precision, fast_in_half_precision
from ctsam3d.network.weights_file import WEIGHTS_FOLDER
from ctsam3d.segmentation.batch_size import MOST
from ctsam3d.segmentation.segmenter import Settings, weights_path
from tests.ctsam3d import network_reference

PLAIN, OURS, HALF = "plain float32", "ours float32", "ours bfloat16"
TF32 = " TF32"  # after the name of what else is float32
Decode = Callable[..., torch.Tensor]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", default=["nano"], choices=list(SIZES), help="networks")
    parser.add_argument("--prompts", nargs="+", type=int, default=[1, 8], help="prompts asked together")
    parser.add_argument("--bfloat16", action="store_true", help="time it where it is not faster, too")


@torch.inference_mode()
def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    with _tf32(False):
        for size in chosen.sizes:
            model = _model(size).to(chosen.device)
            yield from _embedding(model, size, chosen)
            for prompts in chosen.prompts:
                yield from _of(model, size, prompts, chosen)


def _model(size: str) -> CtSam3d:
    if size == "nano":
        return checkpoint.load(weights_path("nano"))[0].eval()
    model = CtSam3d(SIZES[size])
    model.load_state_dict(network_reference.procedural(model.state_dict()))
    return model.eval()


def _cubes(model: CtSam3d, count: int) -> torch.Tensor:
    with np.load(WEIGHTS_FOLDER / "real_cubes.npz", allow_pickle=False) as file:
        hu = torch.from_numpy(file["hu"])
    cubes = windows.apply(hu, model.config.windows_hu).transpose(0, 1)[torch.arange(count) % len(hu)]
    return cubes.to(next(model.parameters()).device)


def _most(chosen: argparse.Namespace) -> int:
    """Cubes that a segmenter asks at a time; of a GPU with room for them."""
    return Settings().batch if chosen.device == "cpu" else MOST


def _embedding(model: CtSam3d, size: str, chosen: argparse.Namespace) -> list[Figure]:
    figures = []
    for count in (1, _most(chosen)):
        cubes = _cubes(model, count)
        works: dict[str, Work] = {"": lambda cubes=cubes: model.embed(cubes)}  # type: ignore[misc]
        if chosen.device == "cuda":
            works[TF32] = _in_tf32(works[""])
        found = interleaved(works, chosen.repeats, clock_on(chosen.clock, chosen.device))
        each = {name: seconds / count for name, seconds in found.items()}
        figures += against("decode", each, "s", "", f"{size}, embedding of a cube, {count} together")
    return figures


def _of(model: CtSam3d, size: str, prompts: int, chosen: argparse.Namespace) -> list[Figure]:
    """For a number of prompts, asked in batches as a segmenter does."""
    batch = min(prompts, _most(chosen))
    embeddings = model.embed(_cubes(model, batch))
    decoders: dict[str, Decode] = {PLAIN: model.decode, OURS: FastDecoder(model.mask_decoder).decode}
    if chosen.device == "cuda":
        decoders |= {name + TF32: _in_tf32(decode) for name, decode in decoders.items()}
    if fast_in_half_precision(torch.device(chosen.device)) or chosen.bfloat16:
        decoders[HALF] = FastDecoder(model.mask_decoder, Precision.BFLOAT16).decode
    centre = torch.full((batch, 1, 3), 32.0)
    both = torch.cat([centre, torch.tensor([44.0, 20, 32]).expand(batch, 1, 3)], 1)
    one, two = torch.ones((batch, 1), dtype=torch.long), torch.tensor([[1, 0]]).expand(batch, 2)
    answer = model.decode(embeddings, centre, one)
    figures = []
    for kind, asked in (("first click", (centre, one, None)), ("second click", (both, two, answer))):
        prefix = f"{size}, {kind}, {prompts} prompts, "
        works = {
            name: _asking(decode, embeddings, asked, prompts // batch) for name, decode in decoders.items()
        }
        seconds = interleaved(works, chosen.repeats, clock_on(chosen.clock, chosen.device))
        each = {name: found / prompts for name, found in seconds.items()}
        figures += against("decode", each, "s", PLAIN, prefix)
        exact = model.decode(embeddings, *asked)
        for name, decode in decoders.items():
            if name != PLAIN and prompts == chosen.prompts[-1]:
                found = decode(embeddings, *asked)
                moved = float((found - exact).abs().max())
                figures.append(Figure("decode", f"{prefix}{name}: largest |dp|", moved, ""))
                figures.append(Figure("decode", f"{prefix}{name}: Dice", _dice(found, exact), ""))
    return figures


def _asking(decode: Decode, embeddings: Embeddings, asked: tuple[object, ...], times: int) -> Work:
    def work() -> None:
        for _ in range(times):
            decode(embeddings, *asked)

    return work


def _in_tf32(work: Callable[..., Any]) -> Callable[..., Any]:
    def allowed(*asked: object) -> object:
        with _tf32(True):
            return work(*asked)

    return allowed


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions and matrix products of float32 may be computed in TF32; as it was, after."""
    of_each = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [of.allow_tf32 for of in of_each]
    try:
        for of in of_each:
            of.allow_tf32 = allowed
        yield
    finally:
        for of, was in zip(of_each, before, strict=True):
            of.allow_tf32 = was


def _dice(a: torch.Tensor, b: torch.Tensor) -> float:
    mine, theirs = a > 0.5, b > 0.5
    total = int(mine.sum() + theirs.sum())
    return 2 * int((mine & theirs).sum()) / total if total else 1.0
