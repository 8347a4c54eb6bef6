"""Checkpoints: round trips, strictness, the published file, and that nothing read is executed."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctsam3d.network import build, checkpoint
from ctsam3d.network.checkpoint import CheckpointError, WeightsFacts
from ctsam3d.network.config import SIZES
from tests.ctsam3d import network_reference as reference

TRAINING = {"steps": 3, "data": ["a", "b"], "dice": {"liver": 0.5}}
NAME = "mask_decoder.spade1.conv_0.weight"


@pytest.fixture(scope="module")
def nano():
    return build("nano").eval()


@pytest.fixture(scope="module")
def saved(nano, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    checkpoint.save(path, nano, TRAINING, licence="Apache-2.0")
    return path


def rewrite(saved, path, facts=None, **changes):
    """The saved file with tensors put in, replaced, or (None) taken out."""
    tensors = load_file(saved) | changes
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    checkpoint.save_tensors(path, tensors, facts or checkpoint.info(saved).facts)
    return path


def test_a_network_comes_back_from_its_file(nano, saved):
    model, header = checkpoint.load(saved)
    assert model.config == nano.config
    assert not model.training
    assert header.facts == WeightsFacts("nano", nano.config.windows_hu, 1.5, "Apache-2.0", TRAINING)
    expected = nano.state_dict()
    found = model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())


def test_a_loaded_network_does_not_hang_on_its_file(nano, saved, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(saved.read_bytes())
    model, _ = checkpoint.load(path)
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))
    expected = nano.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_same_weights_and_facts_give_the_same_bytes(saved, tmp_path):
    script = (
        "import sys; from ctsam3d.network import checkpoint; model, header = checkpoint.load(sys.argv[1]); "
        "checkpoint.save(sys.argv[2], model, header.facts.training)"
    )
    again = tmp_path / "again.safetensors"
    subprocess.run([sys.executable, "-c", script, str(saved), str(again)], check=True, timeout=120)
    assert checkpoint.sha256(again) == checkpoint.sha256(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_weights_stored_in_half_precision_are_half_the_size_and_load_as_float32(nano, saved, tmp_path):
    path = tmp_path / "half.safetensors"
    checkpoint.save(path, nano, TRAINING, dtype=torch.float16)
    assert path.stat().st_size < 0.55 * saved.stat().st_size
    tensor = checkpoint.load(path)[0].state_dict()[NAME]
    assert torch.equal(tensor, nano.state_dict()[NAME].half().float())


def test_another_networks_tensors_travel_under_the_same_header(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.BatchNorm3d(4))
    facts = WeightsFacts("localizer", ((-125.0, 225.0),), 6.0, "Apache-2.0", {"structures": ["liver"]})
    path = tmp_path / "localizer.safetensors"
    checkpoint.save_tensors(path, network.state_dict(), facts)
    tensors, header = checkpoint.read_tensors(path)
    assert header.facts == facts
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(CheckpointError, match="expected a network of nano, .*, found 'localizer'"):
        checkpoint.load(path)


def test_tensors_that_do_not_fit_are_refused_by_name(saved, tmp_path):
    path = tmp_path / "weights.safetensors"
    odd = torch.zeros(1)
    cases = [
        ({NAME: None}, f"{NAME} missing"),
        ({"extra.weight": odd}, "extra.weight unknown"),
        ({NAME: torch.zeros(64, 64, 3, 3)}, rf"{NAME} expected \(64, 64, 3, 3, 3\), found \(64, 64, 3, 3\)"),
        ({NAME: torch.zeros(64, 64, 3, 3, 3, dtype=torch.int32)}, f"{NAME}: unexpected type I32"),
        ({"image_encoder.stem.proj.1.num_batches_tracked": torch.tensor(0.5)}, "unexpected type F32"),
        ({NAME: torch.full((64, 64, 3, 3, 3), float("nan"))}, f"expected finite numbers in {NAME}"),
        ({f"extra{n}": odd.clone() for n in range(9)}, "6 more"),
    ]
    for changes, said in cases:
        rewrite(saved, path, **changes)
        with pytest.raises(CheckpointError, match=said) as raised:
            checkpoint.load(path)
        assert str(raised.value).startswith(str(path))
        assert "\n" not in str(raised.value)


def test_facts_that_do_not_fit_the_network_are_refused(saved, tmp_path):
    path = tmp_path / "weights.safetensors"
    windows = SIZES["nano"].windows_hu
    for facts, said in [
        (WeightsFacts("nano", windows[:1], 1.5, "", {}), "expected windows and spacing of nano"),
        (WeightsFacts("nano", windows, 1.0, "", {}), "expected windows and spacing of nano"),
        (
            WeightsFacts("restv2_tiny", SIZES["restv2_tiny"].windows_hu, 1.5, "", {}),
            "expected of restv2_tiny",
        ),
        (WeightsFacts("huge", windows, 1.5, "", {}), "found 'huge'"),
    ]:
        rewrite(saved, path, facts)
        with pytest.raises(CheckpointError, match=said):
            checkpoint.load(path)


def test_a_failed_save_leaves_the_earlier_file(nano, saved, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(saved.read_bytes())
    with pytest.raises(TypeError):
        checkpoint.save(path, nano, {"not": object()})
    assert checkpoint.sha256(path) == checkpoint.sha256(saved)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny network's procedural weights as the publisher wrote such files."""
    path = tmp_path_factory.mktemp("published") / "params.pth"
    torch.save({"model_state_dict": reference.tiny().state_dict(), "epoch": 1}, path)
    return path


def test_the_published_file_becomes_a_checkpoint_of_its_size(published, tmp_path):
    out = tmp_path / "tiny.safetensors"
    (tmp_path / "config.py").write_text("raise SystemExit('imported')")
    (published.parent / "config.py").write_text("raise SystemExit('imported')")
    assert checkpoint.convert(published, out) == "restv2_tiny"
    model, header = checkpoint.load(out)
    assert header.facts.network == "restv2_tiny"
    assert header.facts.windows_hu == ((-125.0, 225.0),)
    assert header.facts.training["converted_from_sha256"] == checkpoint.sha256(published)
    expected = reference.tiny().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_published_file_that_differs_is_refused_with_the_first_differences(tmp_path):
    with torch.device("meta"):
        state = build("restv2_base").state_dict()
    # one number shared by all elements: the shapes are what is looked at
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}
    del state["image_encoder.stem.norm.bias"]
    state["module.extra"] = torch.zeros(2)
    state[NAME] = torch.zeros(256, 255, 3, 3, 3)
    path, out = tmp_path / "params.pth", tmp_path / "out.safetensors"
    torch.save({"model_state_dict": state}, path)
    with pytest.raises(CheckpointError) as raised:
        checkpoint.convert(path, out)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert "from restv2_base, the nearest, differ" in text
    assert "image_encoder.stem.norm.bias missing; module.extra unknown" in text
    assert f"{NAME} expected (256, 256, 3, 3, 3), found (256, 255, 3, 3, 3)" in text
    assert not out.exists()


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_does_not_execute(tmp_path, legacy):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Malice(touched)))
    assert touched.exists()  # the payload works where it is let
    touched.unlink()
    path = tmp_path / "params.pth"
    torch.save(
        {"model_state_dict": {"a": torch.zeros(1), "b": Malice(touched)}},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(CheckpointError, match="something else") as raised:
        checkpoint.convert(path, tmp_path / "out.safetensors")
    assert not touched.exists()
    assert "weights_only" not in str(raised.value)  # no advice to trust the file
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        {"model_state_dict": [1, 2]},
        {"model_state_dict": {"a": 3}},
        {"model_state_dict": {}},
        [torch.zeros(2)],
    ],
)
def test_a_pickle_of_another_form_is_refused(tmp_path, content):
    path = tmp_path / "params.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="expected|differ"):
        checkpoint.convert(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(300)])
def test_a_file_that_is_no_pickle_is_refused(tmp_path, content):
    path = tmp_path / "params.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected PyTorch weights") as raised:
        checkpoint.convert(path, tmp_path / "out.safetensors")
    assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="expected a file of weights, found: No such file"):
        checkpoint.convert(tmp_path / "missing.pth", tmp_path / "out.safetensors")
