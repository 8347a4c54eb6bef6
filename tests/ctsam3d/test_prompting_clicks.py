"""Clicks from files: the same from JSON and Parquet, wrong ones named by row and field, and structures from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.prompting.clicks import read_clicks
from ctsam3d.prompting.prompt import Click, PromptError, PromptKind
from ctsam3d.segmentation.grow import Growth
from ctsam3d.segmentation.segmenter import Segmenter, Settings

A, B = "1.2.3.4", "1.2.3.5"
LIVER = {"structure": "liver", "x_mm": -30.0, "y_mm": 5.0, "z_mm": 40, "positive": True}
ROWS = [
    LIVER,
    {"structure": "Left rib 4", "x_mm": 30.0, "y_mm": 5.0, "z_mm": 40.0, "positive": True},
    {**LIVER, "x_mm": -1.0, "positive": False},
]


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def grid(shape: tuple[int, int, int] = (40, 50, 60)) -> Volume:
    """Air on the model grid, its middle at the origin."""
    x, y, z = (-(n - 1) / 2 * 1.5 for n in reversed(shape))
    geometry = Geometry.from_spacing(shape, (1.5, 1.5, 1.5), (x, y, z))
    return Volume(np.full(shape, -1000, np.int16), geometry)


def test_json_and_parquet_give_the_same_clicks(tmp_path: Path) -> None:
    listed = write(tmp_path / "a.json", ROWS)
    nested = write(tmp_path / "b.json", {"clicks": ROWS})
    table = tmp_path / "clicks"  # told apart by content, whatever the name
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    for path in (listed, nested, table):
        prompter = read_clicks(path)
        assert prompter.kind is PromptKind.CLICKS
        assert prompter.structures == ("liver", "rib_left_4")
        prompts = prompter.prompts(grid((100, 50, 60)), ("liver", "rib_left_4", "spleen"))
        assert set(prompts) == {"liver", "rib_left_4"}
        assert prompts["liver"].clicks == (Click((-30.0, 5.0, 40.0)), Click((-1.0, 5.0, 40.0), False))
        assert prompts["liver"].coarse is None


def test_an_optional_column_may_be_null_in_some_rows(tmp_path: Path) -> None:
    rows = [{**LIVER, "series_uid": A}, {**LIVER, "positive": None, "series_uid": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (prompt,) = read_clicks(tmp_path / "c.parquet", A).prompts(grid((100, 50, 60)), ("liver",)).values()
    assert [click.positive for click in prompt.clicks] == [True, True]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"structure": "livr"}, ["row 2", "field structure", "'livr'", "liver"]),
        ({"structure": 7}, ["row 2", "field structure", "7"]),
        ({"structure": "kidney"}, ["row 2", "field structure", "kidney_left"]),  # which of the two?
        ({"y_mm": float("nan")}, ["row 2", "field y_mm", "nan", "finite"]),
        ({"x_mm": float("inf")}, ["row 2", "field x_mm", "inf"]),
        ({"x_mm": 10**400}, ["row 2", "field x_mm", "1000"]),
        ({"z_mm": "40"}, ["row 2", "field z_mm", "'40'"]),
        ({"z_mm": True}, ["row 2", "field z_mm", "True"]),
        ({"z_mm": None}, ["row 2", "field z_mm", "None"]),
        ({"positive": 1}, ["row 2", "field positive", "true or false"]),
        ({"positve": False}, ["row 2", "field positve", "unknown", "did you mean positive"]),
        ({"series_uid": "../x"}, ["row 2", "field series_uid"]),
    ],
)
def test_a_wrong_value_is_named_by_row_and_field(
    tmp_path: Path, changed: dict[str, Any], words: list[str]
) -> None:
    path = write(tmp_path / "c.json", [LIVER, LIVER | changed])
    with pytest.raises(PromptError) as error:
        read_clicks(path)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["structure", "x_mm", "y_mm", "z_mm"])
def test_what_is_missing_is_named(tmp_path: Path, field: str) -> None:
    rows = [{k: v for k, v in LIVER.items() if k != field}]
    with pytest.raises(PromptError, match=f"row 1, field {field}: missing"):
        read_clicks(write(tmp_path / "c.json", rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    with pytest.raises(PromptError, match=f"column {field}: missing"):
        read_clicks(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "no rows"),
        (b'{"points": []}', "list of clicks"),
        (b"[3]", "row 1, found int"),
        (b"x_mm,y_mm", "neither Parquet nor JSON"),
        (b"PAR1 and then something else", "Parquet"),
        (b"[" * 100_000, "neither Parquet nor JSON"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(PromptError, match=words):
        read_clicks(tmp_path / "c")


def test_many_faults_are_counted_not_all_listed(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as error:
        read_clicks(write(tmp_path / "c.json", [{"structure": "x"}] * 1000))
    assert len(str(error.value).splitlines()) <= 11


def test_a_click_outside_of_the_volume_is_named_with_the_volume(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", [LIVER | {"z_mm": 0}, LIVER | {"x_mm": 45.5, "z_mm": 0}])
    with pytest.raises(PromptError) as error:
        read_clicks(path).prompts(grid(), ("liver",))
    assert (
        str(error.value)
        == "row 2, field x_mm: found 45.5, outside of the image, which goes from -45.0 to 45.0"
    )
    inside = write(tmp_path / "d.json", [LIVER | {"x_mm": 44.9, "z_mm": 0}])
    assert read_clicks(inside).prompts(grid(), ("liver",))


def test_negative_clicks_alone_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", [LIVER, {**LIVER, "structure": "spleen", "positive": False}])
    with pytest.raises(PromptError, match="row 2, field positive: spleen has no positive click"):
        read_clicks(path)


def test_clicks_of_other_series_are_left_out(tmp_path: Path) -> None:
    rows = [{**LIVER, "series_uid": A}, {**LIVER, "structure": "spleen", "series_uid": B}]
    path = write(tmp_path / "c.json", rows)
    assert read_clicks(path, A).structures == ("liver",)
    assert read_clicks(path, B).structures == ("spleen",)
    with pytest.raises(PromptError, match="no click of this series; clicks of 2 others"):
        read_clicks(path, "1.9")
    with pytest.raises(PromptError, match="2 series"):
        read_clicks(path)


def test_a_click_grows_to_a_structure_that_no_localizer_knows(tmp_path: Path) -> None:
    """Through the real network: what the click points at is there, and nowhere else."""
    shape = (40, 48, 48)
    z, y, x = np.mgrid[:40, :48, :48]
    hu = np.full(shape, -50, np.int16)
    ball = (z - 20) ** 2 + (y - 24) ** 2 + (x - 14) ** 2 < 9**2
    hu[ball] = 120
    volume = Volume(hu, grid(shape).geometry)
    centre = volume.geometry.to_world_xyz_mm(np.array([20, 24, 14]))
    click = dict(zip(("x_mm", "y_mm", "z_mm"), map(float, centre), strict=True))
    path = write(tmp_path / "c.json", [{"structure": "thymus"} | click])
    segmenter = Segmenter.load(settings=Settings(growth=Growth(most_cubes=4)))
    assert "thymus" not in segmenter.structures
    found = segmenter.segment(volume, ("thymus", "liver"), read_clicks(path))
    assert found.findings["liver"].status is Status.ABSENT
    assert found.findings["thymus"].prompter is PromptKind.CLICKS
    assert found.findings["liver"].prompter is PromptKind.LOCALIZER  # nobody clicked on it
    mask = found.labels == found.label_ids["thymus"]
    assert mask[20, 24, 14]
    assert np.argwhere(mask).mean(axis=0)[2] < 24  # on the side of the click
