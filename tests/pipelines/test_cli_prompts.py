"""Prompts on the command line: the kind is seen, results say who prompted, and a mistake is one line with its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.prompting.files import kind_of, read_prompts
from ctsam3d.prompting.prompt import PromptError, PromptKind
from pipelines.cli import run_command
from pipelines.config import RunConfig
from pipelines.prompts import PromptSource, content_sha256
from pipelines.segmenters import BundledOrFile
from pipelines.single import segment_file
from tests.anatomy import ORGANS, anatomy_series
from tests.ctsam3d.label_files import label_map, write_nifti

CLICK = {"structure": "liver", "x_mm": -26.0, "y_mm": -6.0, "z_mm": -22.0}
IDS = {name: label for label, name in enumerate(ORGANS, 1)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test anatomy as a DICOM folder."""
    folder = tmp_path_factory.mktemp("study")
    for name, data in anatomy_series():
        (folder / Path(name).name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def labels(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map of it with names beside it."""
    geometry = read_folder(study).volume.geometry
    path = tmp_path_factory.mktemp("labels") / "labels.nii.gz"
    return write_nifti(path, label_map(IDS, geometry), geometry, beside={v: k for k, v in IDS.items()})


def clicks(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_the_kind_is_seen_from_the_content_whatever_the_name(
    labels: Path, study: Path, tmp_path: Path
) -> None:
    nifti = tmp_path / "labels.nii"
    write_nifti(nifti, np.zeros((2, 2, 2), np.uint8), read_folder(study).volume.geometry)
    renamed = nifti.rename(tmp_path / "scan")
    dicom = next(study.iterdir())
    assert {kind_of(path) for path in (labels, study, renamed, dicom)} == {PromptKind.MASK}
    assert kind_of(clicks(tmp_path / "labels.txt", CLICK)) is PromptKind.CLICKS
    (tmp_path / "x").write_text("hello")
    with pytest.raises(PromptError, match="found neither"):
        kind_of(tmp_path / "x")
    with pytest.raises(PromptError, match="localizer reads no prompts"):
        read_prompts(labels, PromptKind.LOCALIZER)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompter", "mask"], ["--prompter mask needs --prompts"]),
        (["--prompter", "localizer", "--prompts", "clicks.json"], ["--prompter localizer", "give one"]),
        (["--prompter", "atlas"], ["atlas"]),
        (["--prompts", "missing.json"], ["missing.json", "No such file"]),
        (["--prompts", "wrong.json"], ["wrong.json: row 1, field y_mm: missing"]),
        (["--prompts", "clicks.json", "--prompter", "mask"], ["clicks.json: expected a .nii"]),
        (["--prompts", "clicks.json", "--structures", "spleen"], ["'spleen'", "nor the prompts", "liver"]),
    ],
)
def test_a_mistake_is_one_line_before_weights_are_loaded(
    arguments: list[str],
    words: list[str],
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    clicks(Path("clicks.json"), CLICK)
    clicks(Path("wrong.json"), {k: v for k, v in CLICK.items() if k != "y_mm"})
    monkeypatch.setattr(BundledOrFile, "load", lambda self: pytest.fail("weights were loaded"))
    assert run_command(["segment", str(study), "out", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert all(word in said.err for word in words), said.err
    assert not Path("out").exists()


def test_results_say_who_prompted_and_are_named_by_the_prompts(
    study: Path, labels: Path, tmp_path: Path
) -> None:
    """With the bundled weights, of the label map and of clicks; names in the file are all that `all` asks for."""
    rows = segment_file(study, tmp_path / "mask", RunConfig(), BundledOrFile("nano"), PromptSource(labels))
    assert {row.structure for row in rows} == set(ORGANS)
    assert {row.prompter for row in rows} == {"mask"}
    facts = json.loads((tmp_path / "mask" / "series.json").read_text())
    assert (facts["prompter"], facts["labels_unknown"]) == ("mask", 0)
    assert facts["prompts_sha256"] == content_sha256(labels)
    names = {name: int(k) for k, name in json.loads((tmp_path / "mask" / "labels.json").read_text()).items()}
    assert {"liver", "spleen"} <= set(names)

    path = clicks(tmp_path / "clicks.json", CLICK)
    (row,) = segment_file(study, tmp_path / "clicks", RunConfig(), BundledOrFile("nano"), PromptSource(path))
    assert (row.structure, row.prompter) == ("liver", "clicks")
    first, second = (pq.read_table(tmp_path / kind / "structures.parquet") for kind in ("mask", "clicks"))
    assert first["prompter"].unique().to_pylist() == ["mask"]
    assert (
        first["flags"].null_count < first.num_rows
    )  # measured rows have a list, an empty one where all is well
    assert first["record_key"][0] != second["record_key"][0]


def test_prompts_beside_the_image_are_named_with_their_file(study: Path, tmp_path: Path) -> None:
    path = clicks(tmp_path / "clicks.json", CLICK | {"z_mm": 900})
    with pytest.raises(Exception, match="clicks.json: row 1, field z_mm: found 900, outside of the image"):
        segment_file(study, tmp_path / "out", RunConfig(), BundledOrFile("nano"), PromptSource(path))


def test_prompts_are_named_by_their_content_and_their_names(labels: Path, tmp_path: Path) -> None:
    whole = content_sha256(labels)
    copy = tmp_path / "other.nii.gz"
    copy.write_bytes(labels.read_bytes())
    assert content_sha256(copy) != whole  # the JSON that names its labels is part of it
    (tmp_path / "other.json").write_bytes(labels.with_name("labels.json").read_bytes())
    assert content_sha256(copy) == whole
    (tmp_path / "other.json").write_text('{"1": "spleen"}')
    assert content_sha256(copy) != whole
    before = content_sha256(tmp_path)
    copy.rename(tmp_path / "liver.nii.gz")
    assert content_sha256(tmp_path) != before  # in a folder the file's name is the structure's
