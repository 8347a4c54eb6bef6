"""The network's contract on tensors: shapes, batches, gradients, what is refused."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ctsam3d.network import build
from ctsam3d.network.config import SIZES
from ctsam3d.network.initialisation import initialise
from ctsam3d.network.model import CtSam3d

SLIM = dataclasses.replace(
    SIZES["nano"],
    size="slim",
    embedding_widths=(6, 8, 10, 12),
    prompt_width=8,
    upsampled_widths=(8, 10, 12, 14, 16),
)


@pytest.fixture(scope="module")
def slim() -> CtSam3d:
    """Nano made narrow, to be quick, with weights large enough that clicks matter."""
    model = CtSam3d(SLIM)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(5)
    clicks = torch.tensor(
        [
            [[30.0, 30, 30], [10, 50, 20], [0, 0, 0]],
            [[-20.0, 80, 5], [11, 11, 11], [12, 12, 12]],
            [[63.0, 0, 63], [31, 31, 31], [5, 6, 7]],
        ]
    )
    return {
        "cubes": torch.rand((3, 2, 64, 64, 64), generator=generator),
        "clicks": clicks,
        "labels": torch.tensor([[1, 0, -1], [1, 0, 0], [0, 1, 1]]),
        "previous": torch.rand((3, 1, 64, 64, 64), generator=generator),
    }


def answer(model, batch, samples):
    """Everything the network says of these samples, computed together."""
    cubes = batch["cubes"][samples]
    embeddings = model.embed(cubes)
    mask, quality = model.decode_with_quality(
        embeddings, batch["clicks"][samples], batch["labels"][samples], batch["previous"][samples]
    )
    # the cube's mask here is one whose voxels cannot cross 0.5 for a rounding error
    heat = model.propose_click(cubes, batch["previous"][samples], cubes.flip(2))
    return *embeddings, mask, quality, heat


@torch.no_grad()
def test_a_batch_of_three_equals_three_batches_of_one(slim, batch):
    together = answer(slim, batch, [0, 1, 2])
    alone = [answer(slim, batch, [n]) for n in range(3)]
    for parts, whole in zip(zip(*alone, strict=True), together, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_calls_share_no_state(slim, batch):
    first = answer(slim, batch, [0])
    answer(slim, batch, [1, 2])
    for before, after in zip(first, answer(slim, batch, [0]), strict=True):
        assert torch.equal(before, after)


@torch.no_grad()
def test_shapes_and_kinds_of_the_answers(slim, batch):
    embeddings = slim.embed(batch["cubes"][:2])
    assert [tuple(e.shape) for e in embeddings] == [
        (2, 6, 16, 16, 16),
        (2, 8, 8, 8, 8),
        (2, 10, 4, 4, 4),
        (2, 12, 2, 2, 2),
    ]
    clicks, labels = batch["clicks"][:2], batch["labels"][:2]
    mask = slim.decode(embeddings, clicks, labels)
    logits = slim.decode_logits(embeddings, clicks, labels)
    assert mask.shape == (2, 1, 64, 64, 64)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, logits.sigmoid())
    assert 0 <= mask.min() < mask.max() <= 1


@torch.no_grad()
def test_clicks_and_previous_mask_change_the_mask(slim, batch):
    embeddings = slim.embed(batch["cubes"][:1])
    here, there = torch.tensor([[[20.0, 20, 20]]]), torch.tensor([[[44.0, 20, 20]]])
    one = slim.decode(embeddings, here, torch.tensor([[1]]))
    others = (
        slim.decode(embeddings, there, torch.tensor([[1]])),
        slim.decode(embeddings, here, torch.tensor([[0]])),
        slim.decode(embeddings, here, torch.tensor([[1]]), batch["previous"][:1]),
    )
    assert all((one - other).abs().max() > 1e-3 for other in others)
    assert torch.equal(one, slim.decode(embeddings, here, torch.tensor([[1]]), torch.zeros_like(one)))


@torch.no_grad()
def test_embeddings_can_be_taken_for_several_prompts_on_one_cube(slim, batch):
    embeddings = slim.embed(batch["cubes"][:2])
    taken = embeddings.take([1, 0, 1])
    assert torch.equal(taken.stage3[0], embeddings.stage3[1])
    assert torch.equal(taken.stage3[2], embeddings.stage3[1])
    assert torch.equal(taken.stage4[1], embeddings.stage4[0])


@torch.no_grad()
def test_only_whether_the_mask_exceeds_a_half_counts_for_the_neighbour(slim, batch):
    cube, mask = batch["cubes"][:1], batch["previous"][:1]
    heat = slim.propose_click(cube, mask, batch["cubes"][1:2])
    assert torch.equal(heat, slim.propose_click(cube, mask > 0.5, batch["cubes"][1:2]))
    assert not torch.equal(heat, slim.propose_click(cube, mask > 0.6, batch["cubes"][1:2]))


def test_every_trained_weight_gets_a_finite_gradient_from_the_recipes_start(batch):
    model = build("nano")
    initialise(model, seed=0)
    model.train()
    cubes = batch["cubes"][:2]
    logits = model.decode_logits(model.embed(cubes), batch["clicks"][:2], batch["labels"][:2])
    heat = model.propose_click(cubes, logits.detach().sigmoid(), cubes.flip(0))
    target = (cubes[:, :1] > 0.5).float()
    (F.binary_cross_entropy_with_logits(logits, target) + F.mse_loss(heat, target)).backward()
    for name, parameter in model.named_parameters():
        if "iou_prediction_head" in name:  # no loss here, as in the published recipe
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for part in (model.image_encoder, model.mask_decoder, model.cpp_predictor):
        norm = sum(float(p.grad.square().sum()) for p in part.parameters() if p.grad is not None)
        assert norm > 0


def test_shapes_that_do_not_fit_are_refused(slim, batch):
    clicks, labels = batch["clicks"], batch["labels"]
    with pytest.raises(ValueError, match=r"cubes of shape \(3, 2, 64, 64, 64\), found \(3, 1, 64, 64, 64\)"):
        slim.embed(batch["cubes"][:, :1])
    with torch.no_grad():
        embeddings = slim.embed(batch["cubes"])
    with pytest.raises(ValueError, match="clicks for 2 cubes with embeddings of 3"):
        slim.decode(embeddings, clicks[:2], labels[:2])
    with pytest.raises(ValueError, match="previous mask"):
        slim.decode(embeddings, clicks, labels, batch["previous"][:, 0])
    with pytest.raises(ValueError, match="mask"):
        slim.propose_click(batch["cubes"], batch["previous"][:1], batch["cubes"])


def test_an_unknown_size_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no network of size 'huge'; sizes are nano, restv2_tiny"):
        build("huge")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_a_gpu_gives_the_same_answers(slim, batch):
    expected = answer(slim, batch, [0, 1, 2])
    on_gpu = CtSam3d(SLIM).to("cuda").eval()
    on_gpu.load_state_dict(slim.state_dict())
    found = answer(on_gpu, {name: tensor.cuda() for name, tensor in batch.items()}, [0, 1, 2])
    for here, there in zip(expected, found, strict=True):
        torch.testing.assert_close(there.cpu(), here, atol=1e-2, rtol=1e-2)
