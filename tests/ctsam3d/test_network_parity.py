"""The network against what the published one computes, and against itself as it was when that was shown."""

import json

import numpy as np
import pytest
import torch

from ctsam3d.network import click_maps
from ctsam3d.network.config import SIZES
from ctsam3d.network.model import Embeddings
from tests.ctsam3d import network_reference as reference

TOLERANCE = 1e-4
PUBLISHED = [size for size in SIZES if size != "nano"]
CASES = ("one_click", "refine", "corner", "overlap")

needs_shared = pytest.mark.skipif(
    not reference.SHARED.is_dir(), reason="the published network's outputs lie in the shared folder"
)


def error(found, expected):
    assert tuple(found.shape) == expected.shape
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_those_once_shown_to_be_right(size):
    expected = reference.fixture_shapes()[size]
    assert reference.shapes_of(size) == expected


@needs_shared
@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(size):
    expected = json.loads((reference.SHARED / "state-dict.json").read_text())[size]
    assert reference.shapes_of(size) == expected


@pytest.mark.parametrize(
    ("size", "millions"),
    [("restv2_tiny", 74.02), ("restv2_small", 84.74), ("restv2_base", 99.45), ("restv2_large", 135.29)],
)
def test_sizes_have_as_many_parameters_as_the_paper_says(size, millions):
    with torch.device("meta"):
        model = reference.build(size)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_outputs_are_those_computed_when_parity_was_shown():
    found = reference.outputs()
    with np.load(reference.OUTPUTS) as expected:
        assert set(found) == set(expected.files)
        for name in found:
            assert error(found[name], expected[name]) <= TOLERANCE, name


@pytest.fixture(scope="module")
def published():
    with np.load(reference.SHARED / "restv2_tiny.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def cases():
    return json.loads((reference.SHARED / "cases.json").read_text())


@pytest.fixture(scope="module")
def volumes(published):
    return {name: torch.from_numpy(published[f"volume_{name}"].astype(np.float32)) for name in "ab"}


@pytest.fixture(scope="module")
def embeddings(volumes) -> dict[str, Embeddings]:
    with torch.no_grad():
        return {name: reference.tiny().embed(volume) for name, volume in volumes.items()}


def clicks_of(case):
    return torch.tensor([case["points"]], dtype=torch.float32), torch.tensor([case["labels"]])


@needs_shared
@pytest.mark.parametrize("name", "ab")
def test_embeddings_are_the_published_ones(name, published, embeddings):
    for stage, (found, stride) in enumerate(zip(embeddings[name], (2, 1, 1, 1), strict=True), start=1):
        strided = found[..., ::stride, ::stride, ::stride]
        assert error(strided, published[f"volume_{name}/stage{stage}"]) <= TOLERANCE


@needs_shared
def test_every_case_of_the_fixture_is_tested(cases):
    assert set(cases) == set(CASES)


@needs_shared
@pytest.mark.parametrize("name", CASES)
def test_click_maps_are_the_published_ones(name, cases, published):
    maps = click_maps.draw(*clicks_of(cases[name]), 64)[0]
    assert error(maps[..., ::2, ::2, ::2], published[f"{name}/click_maps"]) <= 1e-6
    np.testing.assert_allclose(maps.sum((1, 2, 3)).numpy(), published[f"{name}/click_sum"], rtol=1e-6)


@needs_shared
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_masks_and_quality_are_the_published_ones(name, cases, published, embeddings):
    case = cases[name]
    previous = torch.from_numpy(published[f"{case['prev']}/mask"])[None] if "prev" in case else None
    mask, quality = reference.tiny().decode_with_quality(
        embeddings[case["vol"]], *clicks_of(case), previous_mask=previous
    )
    expected = published[f"{name}/mask"]
    stride = 64 // expected.shape[-1]
    assert error(mask[0, :, ::stride, ::stride, ::stride], expected) <= TOLERANCE
    assert error(quality[0], published[f"{name}/quality"]) <= TOLERANCE


@needs_shared
@torch.no_grad()
def test_cross_patch_heat_map_is_the_published_one(volumes, published):
    mask = torch.from_numpy(published["one_click/mask"])[None]
    heat = reference.tiny().propose_click(volumes["a"], mask, volumes["b"])
    assert error(heat[0], published["cross_patch/heatmap"]) <= TOLERANCE
