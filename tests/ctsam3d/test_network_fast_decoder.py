"""The fast decoder against the plain one: the same probabilities, whatever the prompts, and no work done twice."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctsam3d.network import fast_decoder, layout
from ctsam3d.network.config import SIZES
from ctsam3d.network.fast_decoder import FastDecoder
from ctsam3d.network.model import CtSam3d, Embeddings
from ctsam3d.network.modulation import is_centred
from ctsam3d.network.precision import Precision
from tests.ctsam3d import network_reference as reference
from tests.ctsam3d.devices import on_cuda, torch_threads

EXACT = 1e-5  # of probability: the order of additions differs, nothing else
CENTRE = [32.0, 32, 32]


def slim_model() -> CtSam3d:
    """The nano network with a decoder of widths that are all different, and weights by name."""
    config = dataclasses.replace(
        SIZES["nano"],
        embedding_widths=(6, 8, 10, 12),
        prompt_width=8,
        upsampled_widths=(8, 10, 12, 14, 16),
    )
    model = CtSam3d(config)
    model.load_state_dict(reference.procedural(model.state_dict()))
    return model.eval()


@pytest.fixture(scope="module")
def slim() -> CtSam3d:
    return slim_model()


@pytest.fixture(scope="module")
def fast(slim: CtSam3d) -> FastDecoder:
    return FastDecoder(slim.mask_decoder)


@pytest.fixture(scope="module")
def embeddings(slim: CtSam3d) -> Embeddings:
    with torch.no_grad():
        return slim.embed(reference.cubes().expand(-1, 2, -1, -1, -1))


def previous(cube: int, below: float = 0.0) -> Tensor:
    """A smooth probability, zero where it would be less than `below`."""
    smooth = reference.cubes()[cube : cube + 1]
    return torch.where(smooth < below, 0.0, smooth)


PROMPTS = {
    "centred": ([[CENTRE]], [[1]], None),
    "centred with padding": ([[CENTRE, [1.0, 2, 3]]], [[1, -1]], None),
    "off centre": ([[[10.0, 50, 21]]], [[1]], None),
    "in a corner": ([[[63.0, 0, 63]]], [[1]], None),
    "outside": ([[[-7.0, 90, 31]]], [[1]], None),
    "negative at the centre": ([[CENTRE]], [[0]], None),
    "several": ([[CENTRE, [12.7, 40, 9], [14, 41, 9], [50, 8, 60]]], [[1, 0, 1, 0]], None),
    "none": ([[CENTRE]], [[-1]], None),
    "previous mask": ([[CENTRE]], [[1]], previous(0)),
    "small previous mask": ([[CENTRE]], [[1]], previous(1, below=0.8)),
    "empty previous mask": ([[CENTRE, [9, 9, 9]]], [[1, 0]], torch.zeros(1, 1, 64, 64, 64)),
}


@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_probabilities_are_those_of_the_plain_decoder(name, slim, fast, embeddings) -> None:
    clicks, labels, mask = PROMPTS[name]
    prompts = torch.tensor(clicks), torch.tensor(labels), mask
    expected = slim.decode(embeddings.take([0]), *prompts)
    assert expected.std() > 0.01  # weights under which the mask is not everywhere the same
    found = fast.decode(embeddings.take([0]), *prompts)
    assert found.dtype == torch.float32 and found.shape == (1, 1, 64, 64, 64)
    assert (found - expected).abs().max() <= EXACT


@torch.no_grad()
def test_a_batch_of_different_prompts_is_each_prompt_alone(slim, fast, embeddings) -> None:
    clicks = torch.tensor([[CENTRE, [0, 0, 0]], [CENTRE, [9, 50, 33]], [[20, 20, 20], [44, 41, 40]]])
    labels = torch.tensor([[1, -1], [1, 0], [1, 1]])
    three = embeddings.take([0, 1, 1])
    for mask in (None, torch.cat([torch.zeros(1, 1, 64, 64, 64), previous(0), previous(1, below=0.9)])):
        together = fast.decode(three, clicks, labels, mask)
        assert (together - slim.decode(three, clicks, labels, mask)).abs().max() <= EXACT
        for n in range(3):
            one = slice(n, n + 1)
            alone = fast.decode(
                three.take([n]), clicks[one], labels[one], None if mask is None else mask[one]
            )
            assert (together[one] - alone).abs().max() <= EXACT


@torch.no_grad()
def test_the_published_width_gives_the_published_decoders_probabilities() -> None:
    model = reference.tiny()
    embeddings = model.embed(reference.cubes()[:1])
    fast = FastDecoder(model.mask_decoder)
    prompts = torch.tensor([[[12.7, 40, 9], [50, 8, 60]]]), torch.tensor([[1, 0]])
    assert (fast.decode(embeddings, *prompts) - model.decode(embeddings, *prompts)).abs().max() <= EXACT


@torch.no_grad()
def test_in_bfloat16_masks_are_nearly_the_same(slim, embeddings) -> None:
    fast = FastDecoder(slim.mask_decoder, Precision.BFLOAT16)
    for name in ("centred", "several", "small previous mask"):
        clicks, labels, mask = PROMPTS[name]
        prompts = torch.tensor(clicks), torch.tensor(labels), mask
        expected = slim.decode(embeddings.take([0]), *prompts)
        found = fast.decode(embeddings.take([0]), *prompts)
        assert 0 < (found - expected).abs().max() <= 0.05


def test_a_convolution_in_bfloat16_answers_alike_without_hardware_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 16, 5, 6, 7), (8, 16, 3, 3, 3)))
    bias = torch.randn(8, generator=generator)
    x, weight = (layout.laid_out(part, torch.bfloat16) for part in (x, weight))
    monkeypatch.setattr(layout, "_onednn_takes_bfloat16", lambda: False)
    found = layout.convolve(x, weight, bias, padding=1)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=1)
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()  # rounded once, to 8 bits


@pytest.mark.parametrize("threads", [1, 2])
def test_statistics_of_a_norm_lose_no_digits_to_how_many_voxels_there_are(threads: int) -> None:
    voxels = 10 + torch.randn((32, 32, 32, 32), generator=torch.Generator().manual_seed(0))
    variance, mean = torch.var_mean(voxels.double(), (0, 1, 2), correction=0)
    with torch_threads(threads):  # each adds its share of the voxels
        found_mean, found_variance = fast_decoder._statistics(voxels)
    rounding = torch.finfo(torch.float32).eps
    assert ((found_mean - mean).abs() <= rounding * mean).all()
    assert ((found_variance - variance).abs() <= 4 * rounding * variance).all()


@torch.no_grad()
def test_what_a_prompt_does_not_change_is_not_computed(fast) -> None:
    centred, one = torch.tensor([[CENTRE]]), torch.tensor([[1]])
    assert fast.modulator.of(centred, one) is fast.modulator.of(centred.expand(1, 1, 3), one)
    elsewhere = fast.modulator.of(torch.tensor([[[12.0, 12, 12]]]), one)
    assert 0 < elsewhere.computed < 0.3
    nothing = fast.modulator.of(centred, torch.tensor([[-1]]))
    assert nothing.computed == 0
    assert fast.modulator.of(centred, one, previous(0)).computed == 1


def test_one_positive_click_on_the_centre_voxel_is_centred_and_nothing_else_is() -> None:
    clicks = torch.tensor([[CENTRE, [1, 1, 1]], [[32.9, 32, 32.5], [1, 1, 1]], [CENTRE, [1, 1, 1]]])
    clicks = torch.cat([clicks, torch.tensor([[[31.9, 32, 32], [1, 1, 1]], [CENTRE, CENTRE]])])
    labels = torch.tensor([[1, -1], [1, -1], [1, 0], [1, -1], [1, 1]])
    assert is_centred(clicks, labels) == [True, True, False, False, False]
    assert is_centred(clicks[:1], torch.tensor([[0, -1]])) == [False]


def test_clicks_that_do_not_fit_are_refused(fast, embeddings) -> None:
    with pytest.raises(ValueError, match="clicks for 1 cubes with embeddings of 2"):
        fast.decode(embeddings, torch.tensor([[CENTRE]]), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="a label is none of"):
        fast.decode(embeddings.take([0]), torch.tensor([[CENTRE]]), torch.tensor([[2]]))
    with pytest.raises(ValueError, match="previous mask"):
        fast.decode(
            embeddings.take([0]), torch.tensor([[CENTRE]]), torch.tensor([[1]]), torch.zeros(2, 1, 64, 64, 64)
        )


@on_cuda
@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize(("precision", "limit"), [(Precision.FLOAT32, 1e-4), (Precision.BFLOAT16, 0.05)])
@torch.no_grad()
def test_a_gpu_gives_the_plain_decoders_probabilities(slim, embeddings, precision, limit) -> None:
    fast = FastDecoder(slim_model().cuda().mask_decoder, precision)
    there = Embeddings(*(stage.cuda() for stage in embeddings.take([0])))
    for name, (clicks, labels, mask) in PROMPTS.items():
        prompts = torch.tensor(clicks), torch.tensor(labels)
        expected = slim.decode(embeddings.take([0]), *prompts, mask)
        found = fast.decode(there, *prompts, None if mask is None else mask.cuda())
        assert found.is_cuda and found.dtype == torch.float32
        assert (found.cpu() - expected).abs().max() <= limit, name


@on_cuda
@pytest.mark.usefixtures("no_tf32")
@torch.no_grad()
def test_a_gpu_gives_a_batch_of_different_prompts_each_prompts_own_answer(slim, embeddings) -> None:
    fast = FastDecoder(slim_model().cuda().mask_decoder)
    clicks = torch.tensor([[CENTRE, [0, 0, 0]], [CENTRE, [9, 50, 33]], [[20, 20, 20], [44, 41, 40]]])
    labels = torch.tensor([[1, -1], [1, 0], [1, 1]])
    three = embeddings.take([0, 1, 1])
    mask = torch.cat([torch.zeros(1, 1, 64, 64, 64), previous(0), previous(1, below=0.9)])
    expected = slim.decode(three, clicks, labels, mask)
    # clicks may lie on either device
    for on in ("cpu", "cuda"):
        there = Embeddings(*(stage.cuda() for stage in three))
        found = fast.decode(there, clicks.to(on), labels.to(on), mask.cuda())
        assert (found.cpu() - expected).abs().max() <= 1e-4
