"""Questions about cubes: those that are alike are asked together, cubes are embedded once, precision is earned."""

import logging

import numpy as np
import pytest
import torch

from ctsam3d.network import checkpoint
from ctsam3d.network.config import SIZES
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d, Embeddings
from ctsam3d.network.precision import Precision
from ctsam3d.segmentation import precision_gate
from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.embedding_cache import EmbeddingCache
from ctsam3d.segmentation.patches import Patch
from ctsam3d.segmentation.segmenter import Segmenter, Settings, weights_path

RNG = np.random.default_rng(5)
HU = RNG.integers(-200, 300, (70, 72, 74)).astype(np.int16)


@pytest.fixture(scope="module")
def model() -> CtSam3d:
    return checkpoint.load(weights_path("nano"))[0].eval()


class Counted:
    """The decoder of a network, and the prompts it was asked with."""

    def __init__(self, model: CtSam3d) -> None:
        self.fast = FastDecoder(model.mask_decoder)
        self.asked: list[tuple[int, bool]] = []

    def decode(
        self,
        embeddings: Embeddings,
        clicks: torch.Tensor,
        labels: torch.Tensor,
        previous: torch.Tensor | None,
    ) -> torch.Tensor:
        self.asked.append((len(clicks), previous is not None))
        return self.fast.decode(embeddings, clicks, labels, previous)


def question(origin: tuple[int, int, int], *, beside: bool = False, previous: bool = False) -> Question:
    patch = Patch("liver", origin)
    clicks = (VoxelClick(patch.click_zyx),) + ((VoxelClick((3, 4, 5), positive=False),) if beside else ())
    coarse = np.full((64, 64, 64), 0.25, dtype=np.float32) if previous else None
    return Question(patch, clicks, coarse)


@pytest.mark.parametrize("room", [1, 2, 0])
def test_a_device_without_room_is_asked_less_at_a_time_down_to_one_cube(model: CtSam3d, room: int) -> None:
    counted = Counted(model)

    def cramped(embeddings: Embeddings, clicks: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if len(clicks) > room:
            raise torch.OutOfMemoryError("no room")
        return counted.decode(embeddings, clicks, *others)

    questions = [question((n, 0, 0)) for n in range(5)]
    decoder = CubeDecoder(model, torch.device("cpu"), 4, cramped)
    if room == 0:
        with pytest.raises(torch.OutOfMemoryError):
            decoder.answer(HU, questions)
        return
    answers = decoder.answer(HU, questions)
    assert decoder.batch == room == max(asked for asked, _ in counted.asked)
    roomy = CubeDecoder(model, torch.device("cpu"), 4, FastDecoder(model.mask_decoder).decode)
    assert np.abs(answers - roomy.answer(HU, questions)).max() < 1e-4


def test_centred_clicks_are_asked_apart_from_what_would_slow_them(model: CtSam3d) -> None:
    counted = Counted(model)
    decoder = CubeDecoder(model, torch.device("cpu"), 2, counted.decode)
    questions = [
        question((0, 0, 0)), question((1, 0, 0), previous=True), question((2, 0, 0)),
        question((0, 0, 0), beside=True), question((4, 0, 0)),
    ]  # fmt: skip
    together = decoder.answer(HU, questions)
    assert counted.asked == [(2, False), (1, False), (2, True)]
    plain = CubeDecoder(model, torch.device("cpu"), 1)
    for answer, asked in zip(together, questions, strict=True):
        assert np.abs(answer - plain.answer(HU, [asked])[0]).max() <= 1e-4


def test_a_cube_is_embedded_once_whatever_is_asked_of_it() -> None:
    embedded: list[tuple[int, int, int]] = []

    def embed(patches: list[Patch]) -> Embeddings:
        embedded.extend(patch.origin_zyx for patch in patches)
        stage = torch.tensor([float(patch.origin_zyx[0]) for patch in patches])[:, None]
        return Embeddings(stage, stage, stage, stage)

    def of(hu: np.ndarray, *origins: int) -> list[float]:
        patches = [Patch(f"structure {n}", (origin, 0, 0)) for n, origin in enumerate(origins)]
        return cache.of(hu, patches, embed).stage1[:, 0].tolist()

    cache = EmbeddingCache(most=3)
    assert of(HU, 5, 7, 5) == [5, 7, 5] and embedded == [(5, 0, 0), (7, 0, 0)]
    assert of(HU, 7, 9, 5) == [7, 9, 5] and embedded[2:] == [(9, 0, 0)]
    assert of(HU, 1, 2, 3, 4) == [1, 2, 3, 4]  # more than are kept
    assert of(HU, 4, 5) == [4, 5] and embedded[-1] == (5, 0, 0)
    assert of(HU.copy(), 4) == [4] and embedded[-1] == (4, 0, 0)  # another volume


def test_bundled_weights_bear_bfloat16_and_the_settings_say_what_was_chosen(
    model: CtSam3d, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = FastDecoder(model.mask_decoder)
    half = FastDecoder(model.mask_decoder, Precision.BFLOAT16)
    found = precision_gate.gap(model, exact, half, coarse_prompt=True)
    assert found.is_small and found.moved > 0
    for fast, chosen in ((True, Precision.BFLOAT16), (False, Precision.FLOAT32)):
        monkeypatch.setattr(precision_gate, "fast_in_half_precision", lambda device, fast=fast: fast)
        assert Segmenter.load(device="cpu").settings.precision is chosen
    asked = Settings(precision=Precision.FLOAT32)
    assert Segmenter.load(device="cpu", settings=asked).settings.precision is Precision.FLOAT32


def test_weights_that_do_not_bear_it_get_float32_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = CtSam3d(SIZES["nano"]).eval()
    with torch.no_grad():  # answers that hang on the last bits of large numbers
        model.mask_decoder.mask_prediction_head[0].weight.mul_(1e3)
    monkeypatch.setattr(precision_gate, "fast_in_half_precision", lambda device: True)
    with caplog.at_level(logging.INFO):
        decoder = precision_gate.fastest_decoder(model, coarse_prompt=False)
    assert decoder.precision is Precision.FLOAT32
    assert "float32 is used" in caplog.text
