"""Cubes and studies on a real GPU: its memory says how many at a time, and the masks are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ctsam3d.imaging.resample import to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.network import checkpoint
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.precision import Precision
from ctsam3d.network.weights_file import WEIGHTS_FOLDER
from ctsam3d.segmentation import segmenter as segmenting
from ctsam3d.segmentation.batch_size import MOST, CudaMemory
from ctsam3d.segmentation.decoder import CubeDecoder, Question, VoxelClick
from ctsam3d.segmentation.patches import Patch
from ctsam3d.segmentation.segmenter import Segmenter, weights_path
from ctsam3d.segmentation.settings import Settings
from tests.ctsam3d.devices import on_cuda

ABDOMEN = Path(__file__).parents[2] / "demo" / "studies" / "totalseg_abdomen"
STRUCTURES = ("liver", "spleen", "aorta", "stomach", "brain")
GPU = torch.device("cuda")
HU = np.random.default_rng(5).integers(-200, 300, (110, 72, 74)).astype(np.int16)


def decoder_on(device: str, batch: int) -> CubeDecoder:
    model = checkpoint.load(weights_path("nano"))[0].eval().to(device)
    return CubeDecoder(model, torch.device(device), batch, FastDecoder(model.mask_decoder).decode)


def questions(count: int) -> list[Question]:
    """As dear as questions are: with previous masks that fill their cubes."""
    unsure = np.full((64, 64, 64), 0.5, dtype=np.float32)
    patches = [Patch("liver", (n, 0, 0)) for n in range(count)]
    return [Question(patch, (VoxelClick(patch.click_zyx),), unsure) for patch in patches]


@pytest.fixture
def clean_memory() -> Iterator[CudaMemory]:
    """A GPU of which this process keeps nothing that it does not use, and may take all again afterwards."""
    torch.cuda.empty_cache()
    yield CudaMemory(GPU)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@on_cuda
@pytest.mark.usefixtures("no_tf32")
def test_a_gpu_without_room_is_asked_less_at_a_time_and_answers_alike(clean_memory: CudaMemory) -> None:
    decoder, asked = decoder_on("cuda", 8), questions(8)
    decoder.answer(HU, asked)  # what is made once, and kept, is no cube's
    room = clean_memory.peak_bytes(lambda: decoder.answer(HU.copy(), asked))
    expected = decoder.answer(HU, asked)
    assert decoder.batch == 8
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved() + 0.6 * room
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(GPU).total_memory)
    answers = decoder.answer(HU.copy(), asked)
    assert 1 <= decoder.batch < 8
    assert np.abs(answers - expected).max() < 2e-3  # other sizes, other algorithms


@on_cuda
def test_as_many_cubes_are_asked_as_fit_half_of_what_is_free(clean_memory: CudaMemory) -> None:
    decoder = decoder_on("cuda", 2)
    decoder.answer(HU, questions(2))
    one, two = (clean_memory.peak_bytes(lambda n=n: decoder.answer(HU.copy(), questions(n))) for n in (1, 2))
    each = two - one
    assert each > 2**20
    torch.cuda.empty_cache()
    hog = torch.empty(max(0, clean_memory.free_bytes() - 2 * (one + 6 * each)), dtype=torch.uint8, device=GPU)
    decoder.fit(clean_memory)
    fitted = decoder.batch
    assert 1 < fitted < MOST
    decoder.answer(HU, questions(2 * fitted))
    assert decoder.batch == fitted  # there was room
    del hog


@on_cuda
@pytest.mark.usefixtures("no_tf32")
def test_answers_about_real_cubes_are_those_of_the_cpu() -> None:
    with np.load(WEIGHTS_FOLDER / "real_cubes.npz", allow_pickle=False) as file:
        cubes = file["hu"]
    here, there = (decoder_on(device, len(cubes)) for device in ("cpu", "cuda"))
    for cube in cubes:
        patch = Patch("liver", (0, 0, 0))
        asked = [Question(patch, (VoxelClick(patch.click_zyx),)), *questions(1)]
        expected, found = here.answer(cube, asked), there.answer(cube, asked)
        assert np.abs(found - expected).max() < 1e-3


@on_cuda
@pytest.mark.parametrize("precision", [None, Precision.FLOAT32])
def test_masks_of_a_study_are_those_of_the_cpu(
    precision: Precision | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctsam3d.imaging.dicom import read_folder

    # the same image for both: resampling has tests of its own
    monkeypatch.setattr(
        segmenting, "to_model_grid", lambda volume, spacing_mm, _: to_model_grid(volume, spacing_mm, GPU)
    )
    volume: Volume = read_folder(ABDOMEN).volume
    exact = Settings(precision=Precision.FLOAT32)
    expected = Segmenter.load(device="cpu", settings=exact).segment(volume, STRUCTURES)
    segmenter = Segmenter.load(device="cuda", settings=Settings(precision=precision))
    found = segmenter.segment(volume, STRUCTURES)
    assert segmenter.settings.precision is not None and segmenter.cubes_at_a_time > 1
    assert {n: f.status for n, f in found.findings.items()} == {
        n: f.status for n, f in expected.findings.items()
    }
    assert len(expected.label_ids) >= 3 and found.label_ids == expected.label_ids
    for label in expected.label_ids.values():
        here, there = expected.labels == label, found.labels == label
        assert 2 * (here & there).sum() / (here.sum() + there.sum()) > 0.99
