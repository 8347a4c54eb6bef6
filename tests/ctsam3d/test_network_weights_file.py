"""Headers of weights: what they say, how quickly, and what damaged ones lead to."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctsam3d.network.weights_file import (
    HEADER_LIMIT_BYTES,
    METADATA_KEY,
    CheckpointError,
    WeightsFacts,
    info,
    sha256,
)

FACTS = WeightsFacts(
    "localizer", ((-125.0, 225.0), (-1000.0, 600.0)), 6.0, "CC-BY-4.0", {"steps": 10, "dice": {"liver": 0.9}}
)
TENSORS = {"a.weight": np.ones((2, 3), np.float32), "a.steps": np.array(4, np.int64)}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path, metadata={METADATA_KEY: FACTS.to_json()})
    return path


def test_header_gives_back_the_facts_and_the_shapes(weights):
    header = info(weights)
    assert header.facts == FACTS
    assert header.shapes == {"a.weight": (2, 3), "a.steps": ()}
    assert header.dtypes == {"a.weight": "F32", "a.steps": "I64"}
    assert header.numbers == 7
    assert header.file_bytes == weights.stat().st_size


def test_header_is_read_without_torch(weights):
    script = (
        "import sys; from ctsam3d.network.weights_file import info; "
        "print(info(sys.argv[1]).facts.network, 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(weights)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["localizer", "False", "False"]


def test_hash_is_that_of_the_bytes(weights):
    assert sha256(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()


def one_line(raised, path):
    text = str(raised.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) < 1200
    return text


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_refused(weights, kept):
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cut short|damaged") as raised:
        info(weights)
    one_line(raised, weights)


@pytest.mark.parametrize(
    "content",
    [
        b"not weights at all\n" * 50,
        b"PK\x03\x04" + bytes(500),
        b"\x80\x02}q\x00." + bytes(100),
        bytes(64),
        (12).to_bytes(8, "little") + b'{"a": [1, 2}' + bytes(20),
        (2).to_bytes(8, "little") + b"{}",
    ],
)
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected") as raised:
        info(path)
    one_line(raised, path)


def test_an_oversized_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.safetensors"
    length = HEADER_LIMIT_BYTES + 1
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(length + 100)
    with pytest.raises(CheckpointError, match=f"at most {HEADER_LIMIT_BYTES} bytes, found one of {length}"):
        info(path)


def test_a_tensor_said_to_be_larger_than_the_file_is_refused(tmp_path):
    path = tmp_path / "absurd.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="damaged"):
        info(path)


def test_files_that_are_not_there_are_refused(tmp_path):
    for read in (info, sha256):
        for path in (tmp_path / "missing.safetensors", tmp_path):
            with pytest.raises(CheckpointError, match="expected a file of weights, found") as raised:
                read(path)
            one_line(raised, path)


def test_safetensors_of_others_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(TENSORS, path)
    with pytest.raises(CheckpointError, match="expected the metadata entry 'ctsam3d', found none"):
        info(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "expected format version 1, found 2"),
        ({"network": None}, "another type"),
        ({"training": [1]}, "another type"),
        ({"windows_hu": [[1]]}, "expected metadata of weights"),
        ({"windows_hu": 5}, "expected metadata of weights"),
        ({"spacing_mm": float("nan")}, "another type"),
        ({"spacing_mm": "wide"}, "expected metadata of weights"),
        ({"licence": ...}, "expected the field 'licence'"),
    ],
)
def test_metadata_of_another_form_is_refused(tmp_path, change, said):
    entry = json.loads(FACTS.to_json()) | change
    entry = {name: value for name, value in entry.items() if value is not ...}
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path, metadata={METADATA_KEY: json.dumps(entry)})
    with pytest.raises(CheckpointError, match=said) as raised:
        info(path)
    one_line(raised, path)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000])
def test_metadata_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path, metadata={METADATA_KEY: text})
    with pytest.raises(CheckpointError, match="expected") as raised:
        info(path)
    one_line(raised, path)
