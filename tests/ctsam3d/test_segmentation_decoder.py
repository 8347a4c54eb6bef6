"""Questions about cubes: those that are alike are asked together, cubes are embedded once, precision is earned."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctsam3d.network import checkpoint
from ctsam3d.network.config import SIZES
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d, Embeddings
from ctsam3d.network.precision import Precision
from ctsam3d.prompting.prompt import CoarseStructure
from ctsam3d.segmentation import precision_gate
from ctsam3d.segmentation.batch_size import MOST, fitting_batch
from ctsam3d.segmentation.cover import Coverer
from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.embedding_cache import EmbeddingCache
from ctsam3d.segmentation.patches import Patch
from ctsam3d.segmentation.segmenter import Segmenter, Settings, weights_path
from tests.ctsam3d.devices import torch_threads

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
        decoder.fit(Tank(free=10**9, fixed=0, each=1))
        assert decoder.batch == 1
        with pytest.raises(torch.OutOfMemoryError):
            decoder.answer(HU, questions)
        return
    answers = decoder.answer(HU, questions)
    assert decoder.batch == room == max(asked for asked, _ in counted.asked)
    roomy = CubeDecoder(model, torch.device("cpu"), 4, FastDecoder(model.mask_decoder).decode)
    assert np.abs(answers - roomy.answer(HU, questions)).max() < 1e-4


class Tank:
    """A memory of so many bytes, of which decoding takes some at once and some for each cube."""

    def __init__(self, free: int, fixed: int, each: int) -> None:
        self.free, self.fixed, self.each = free, fixed, each
        self.decoded: list[int] = []

    def decode(self, cubes: int) -> None:
        self.decoded.append(cubes)

    def free_bytes(self) -> int:
        return self.free

    def peak_bytes(self, work: Callable[[], object]) -> int:
        work()
        return self.fixed + self.each * self.decoded[-1]


@pytest.mark.parametrize(
    ("free", "fixed", "each", "expected"),
    [
        (2000, 0, 100, 10),
        (2000, 500, 100, 5),
        (2099, 500, 100, 5),
        (10**12, 500, 100, MOST),
        (150, 500, 100, 1),  # one cube may still fit, and if not it is said when it is asked
        (2000, 500, 0, 2),  # two take no more than one: as if each took all
    ],
)
def test_as_many_cubes_as_fit_half_of_what_is_free(free: int, fixed: int, each: int, expected: int) -> None:
    tank = Tank(free, fixed, each)
    assert fitting_batch(tank, tank.decode) == expected
    assert tank.decoded == [1, 1, 2]


def test_a_decoder_that_was_fitted_asks_so_many_at_a_time_and_answers_alike(model: CtSam3d) -> None:
    counted = Counted(model)
    tank = Tank(free=12 * 100, fixed=0, each=100)

    def watched(embeddings: Embeddings, clicks: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        tank.decode(len(clicks))
        return counted.decode(embeddings, clicks, *others)

    decoder = CubeDecoder(model, torch.device("cpu"), 4, watched)
    decoder.fit(tank)
    assert counted.asked == [(1, True), (1, True), (2, True)]  # what it was measured by
    questions = [question((n, 0, 0)) for n in range(7)]
    answers = decoder.answer(HU, questions)
    assert counted.asked[3:] == [(6, False), (1, False)]
    plain = CubeDecoder(model, torch.device("cpu"), 4, FastDecoder(model.mask_decoder).decode)
    assert np.abs(answers - plain.answer(HU, questions)).max() < 1e-4


def test_covering_asks_as_many_cubes_as_the_decoder_takes(model: CtSam3d) -> None:
    mask = np.zeros((30, 12, 12), dtype=np.bool_)
    mask[2:28, 2:10, 2:10] = True
    coarse = {"liver": CoarseStructure(mask, mask.astype(np.float32) * 0.9, confidence=0.9)}
    hu = RNG.integers(-200, 300, tuple(4 * n for n in mask.shape)).astype(np.int16)
    found = []
    for batch in (1, 3):
        counted = Counted(model)
        decoder = CubeDecoder(model, torch.device("cpu"), batch, counted.decode)
        ((name, canvas, cubes),) = Coverer(decoder, Settings(reach_blocks=3), coarse_prompt=False).cover(
            hu, coarse
        )
        assert name == "liver" and cubes > 3
        sizes = [asked for asked, _ in counted.asked]
        assert max(sizes) == batch and sum(sizes) == cubes
        found.append(canvas.probability())
    assert np.abs(found[0] - found[1]).max() < 1e-4


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


def test_bundled_weights_in_float32_answer_on_real_cubes_as_the_plain_decoder_does(model: CtSam3d) -> None:
    with torch_threads(2):
        found = precision_gate.gap(model, model, FastDecoder(model.mask_decoder), coarse_prompt=True)
    assert found.moved <= 1e-5  # the order of additions differs, nothing else


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
