"""The command line as a person meets it: exit codes, one line for a mistake, results on stdout alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.manifest import Manifest
from tests.phantom import write_phantom
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line a mistake is answered with; fails where there is more, or a traceback."""
        assert "Traceback" not in self.err + self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert self.out == ""
        return lines[0]


def ctsam3d(*arguments: str | Path, **environment: str) -> Done:
    """Run the command in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=ROOT,
        env=clean | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "SOURCE"),
        (["run", "a", "b", "--colour", "red"], "--colour"),
        (["runn"], "runn"),
        (["export", "a", "b"], "--format"),
        (["export", "a", "b", "--format", "dicom"], "dicom"),
        (["weights", "inform"], "inform"),
    ],
)
def test_wrong_usage_is_one_line_and_code_1(arguments: list[str], words: str) -> None:
    done = ctsam3d(*arguments)
    assert done.code == 1
    assert words.lower() in done.line.lower()


def test_places_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for arguments in (
        ["run", missing, tmp_path / "out"],
        ["verify", missing],
        ["discover", missing, "--manifest", "m"],
    ):
        done = ctsam3d(*arguments)
        assert done.code == 1
        assert str(missing) in done.line and "does not exist" in done.line
    done = ctsam3d("run", "gs://bucket/x", tmp_path / "out")
    assert done.code == 1 and "gs://" in done.line
    assert not (tmp_path / "out").exists()


def test_an_output_inside_its_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    done = ctsam3d("run", tmp_path / "source", tmp_path / "source" / "out")
    assert done.code == 1 and "one inside the other" in done.line
    assert list((tmp_path / "source").iterdir()) == []


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = ctsam3d("discover", tmp_path / "empty", "--manifest", tmp_path / "m.parquet")
    assert done.code == 1
    assert "no DICOM objects" in done.line
    assert not (tmp_path / "m.parquet").exists()


def test_a_wrong_setting_is_named_with_its_file_before_anything_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[resources]\nreplicas = 'many'\n")
    done = ctsam3d("run", tmp_path / "a", tmp_path / "b", "--config", file)
    assert done.code == 1
    assert str(file) in done.line and "resources.replicas" in done.line and "'many'" in done.line


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"not weights at all")
    for arguments in (["weights", "info", file], ["weights", "convert", file, tmp_path / "out.safetensors"]):
        done = ctsam3d(*arguments)
        assert done.code == 1
        assert str(file) in done.line


@pytest.mark.s3
def test_a_missing_bucket_and_bad_credentials_are_named(tmp_path: Path, s3_server: S3Server) -> None:
    good = s3_server.environment
    done = ctsam3d("run", "s3://no-such-bucket/x", tmp_path / "out", **good)
    assert done.code == 1 and "no-such-bucket" in done.line and "does not exist" in done.line
    bad = good | {"AWS_SECRET_ACCESS_KEY": "wrong-secret-0123456789"}
    done = ctsam3d("discover", f"s3://{s3_server.bucket}", "--manifest", tmp_path / "m", **bad)
    assert done.code == 1 and "access denied" in done.line
    assert "wrong-secret" not in done.err


def test_an_endpoint_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        done = ctsam3d("run", "s3://bucket/x", tmp_path / "out", "--endpoint-url", url, **keys)
    assert done.code == 1 and "no answer" in done.line


def test_discover_writes_a_manifest_and_prints_what_it_found(tmp_path: Path) -> None:
    write_phantom(tmp_path / "source" / "a", 1)
    write_phantom(tmp_path / "source" / "b", 2)
    done = ctsam3d("discover", tmp_path / "source", "--manifest", tmp_path / "m.parquet")
    assert (done.code, done.err) == (0, "")
    assert "series    2" in done.out and str(tmp_path / "m.parquet") in done.out
    assert len(Manifest.decode((tmp_path / "m.parquet").read_bytes())) == 2
    assert "Secret" not in done.out


def test_structures_are_listed_as_json_and_as_a_table_that_fits() -> None:
    listed = {facts["name"]: facts for facts in json.loads(ctsam3d("structures", "--json").out)}
    assert listed["kidney_left"]["snomed_code"] == "64033007"
    assert listed["kidney_left"]["laterality"] == "left"
    assert listed["kidney_left"]["plausible_ml"] == [30, 800]
    assert listed["kidney_left"]["found_by"] == ["localizer", "mask", "clicks"]
    assert listed["rib_left_4"]["found_by"] == ["mask", "clicks"]
    assert listed["visceral_fat"]["snomed_code"] is None
    for width in (80, 120):
        done = ctsam3d("structures", COLUMNS=str(width))
        lines = done.out.splitlines()
        assert done.code == 0 and max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)
        assert {line.split()[0] for line in lines if line.split()} >= set(listed)


def test_info_as_json_is_json_on_stdout_alone() -> None:
    done = ctsam3d("info", "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["cpus"] == os.cpu_count()
    assert facts["packages"]["ray"]
