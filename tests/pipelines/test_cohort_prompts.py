"""Prompts for a cohort from an address: what was said of each series, and what is wrong with the address as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.prompting.prompt import Click
from pipelines.cohort_prompts import CohortPrompts, read_cohort_prompts
from pipelines.faults import UsageError
from pipelines.pseudonyms import Pseudonyms
from pipelines.series_prompts import SeriesPrompts
from pipelines.store import open_store
from tests.s3_server import S3Server

A, B = "1.2.3.4", "1.2.3.5"
LIVER = {"structure": "liver", "x_mm": -30.0, "y_mm": 5.0, "z_mm": 40.0, "positive": True, "series_uid": A}
SPLEEN = {"structure": "Spleen", "x_mm": 30.0, "y_mm": 5.0, "z_mm": 40.0, "series_uid": B}
ROWS = [LIVER, SPLEEN, {**LIVER, "x_mm": -1.0, "positive": False}]


def written(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def folder(path: Path, **files: bytes) -> str:
    """Files whose names have `_` for `.`."""
    path.mkdir()
    for name, data in files.items():
        (path / name.strip("_").replace("_", ".")).write_bytes(data)
    return str(path)


def digests(prompts: CohortPrompts) -> dict[str, str]:
    return {uid: said.digest for uid, said in prompts.by_series.items()}


def test_clicks_are_told_apart_by_their_series_whatever_the_format(tmp_path: Path) -> None:
    listed = read_cohort_prompts(written(tmp_path / "clicks.json", ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "clicks.parquet")
    packed = read_cohort_prompts(f"file://{tmp_path / 'clicks.parquet'}")
    assert listed.by_series == packed.by_series and set(listed.by_series) == {A, B}
    assert [row.click for row in listed.by_series[A].clicks] == [
        Click((-30.0, 5.0, 40.0)),
        Click((-1.0, 5.0, 40.0), positive=False),
    ]
    assert listed.clicked == listed.nameable == ("liver", "spleen")  # as the catalogue has them
    assert listed.store is None


def test_what_is_said_of_a_series_is_named_by_its_own_content(tmp_path: Path) -> None:
    before = digests(read_cohort_prompts(written(tmp_path / "a.json", ROWS)))
    moved = [SPLEEN, LIVER, {**LIVER, "x_mm": -1.5, "positive": False}]
    after = digests(read_cohort_prompts(written(tmp_path / "b.json", moved)))
    assert (before[B], before[A]) == (after[B], before[A]) and before[A] != after[A]
    turned = [LIVER, SPLEEN, {**LIVER, "x_mm": -1.0}]
    assert digests(read_cohort_prompts(written(tmp_path / "c.json", turned)))[A] not in (before[A], after[A])
    text = read_cohort_prompts(str(tmp_path / "a.json")).by_series[A].to_json()
    assert A not in text and SeriesPrompts.from_json(text).digest == before[A]


def test_label_maps_are_listed_and_never_looked_for(tmp_path: Path) -> None:
    address = folder(
        tmp_path / "maps",
        **{"_1_2_3_4_nii_gz": b"a", "_1_2_3_5_dcm": b"b", "_1_2_3_6_nii": b"c", "_1_2_3_6_json": b"d"},
        labels_json=b'{"1": "liver"}',
        notes_txt=b"x",
        **{"_1_2_dcm_exe": b"x", "_1_nii": b"x", "_1__2_nii": b"x"},
    )
    (tmp_path / "maps" / "sub").mkdir()
    (tmp_path / "maps" / "sub" / "1.2.3.7.nii").write_bytes(b"x")
    found = read_cohort_prompts(address)
    assert {uid: [entry.key for entry in said.objects] for uid, said in found.by_series.items()} == {
        "1.2.3.4": ["1.2.3.4.nii.gz", "labels.json"],
        "1.2.3.5": ["1.2.3.5.dcm"],
        "1.2.3.6": ["1.2.3.6.nii", "1.2.3.6.json"],
    }
    assert found.nameable == tuple(CATALOGUE) and found.clicked == ()

    before = digests(found)
    (tmp_path / "maps" / "labels.json").write_text('{"1": "spleen"}')
    after = digests(read_cohort_prompts(address))
    assert {uid for uid in before if before[uid] != after[uid]} == {"1.2.3.4"}  # the one that it names


def test_pseudonyms_lead_to_the_same_prompts(tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(b"k" * 40)
    found = read_cohort_prompts(written(tmp_path / "clicks.json", ROWS))
    renamed = found.renamed(pseudonyms)
    assert renamed.by_series[pseudonyms.uid(A) or ""] == found.by_series[A]
    assert A not in renamed.by_series and len(renamed.by_series) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the folder does not exist"),
        (b"", "clicks.json: neither Parquet nor JSON"),
        (b"\0" * 400, "clicks.json: neither Parquet nor JSON"),
        (b"PAR1 and something else", "clicks.json: cannot be read as Parquet"),
        ([], "clicks.json: found no rows"),
        ([LIVER, {k: v for k, v in LIVER.items() if k != "series_uid"}], "row 2, field series_uid: missing"),
        ([LIVER | {"structure": "livr"}], "'livr' is not in the catalogue; nearest: liver"),
        ([LIVER | {"series_uid": "../../1.2.3"}], "field series_uid: expected a DICOM UID"),
        ([LIVER] * 1001, "found 1001 clicks of one series, expected at most 1000"),
    ],
)
def test_clicks_that_cannot_be_used_are_named(tmp_path: Path, content: Any, words: str) -> None:
    address = str(tmp_path / "clicks.json")
    if content is not None:
        written(tmp_path / "clicks.json", content)
    with pytest.raises(UsageError) as caught:
        read_cohort_prompts(address)
    assert words in str(caught.value) and address in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "found neither clicks nor label maps"),
        ({"liver_nii_gz": b"x"}, "found neither clicks nor label maps"),
        ({"_1_2_nii": b"x", "labels_json": b"[1]"}, "labels.json: expected names by label"),
        ({"_1_2_nii": b"x", "labels_json": b'{"1": "lump"}'}, "none of the 1 names is in the catalogue"),
    ],
)
def test_a_folder_without_usable_label_maps_is_named(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_cohort_prompts(folder(tmp_path / "maps", **files))
    assert words in str(caught.value) and str(tmp_path / "maps") in str(caught.value)


def test_parquet_that_unpacks_without_end_is_refused_before_it_is(tmp_path: Path) -> None:
    bomb = pa.table({"structure": pa.DictionaryArray.from_arrays([0] * 4000, ["x" * (1 << 20)])})
    pq.write_table(bomb, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 4 << 20
    with pytest.raises(UsageError, match="unpacks to more than"):
        read_cohort_prompts(str(tmp_path / "bomb.parquet"))
    long = pa.table({"structure": pa.DictionaryArray.from_arrays([0] * 1_000_001, ["liver"])})
    pq.write_table(long, tmp_path / "long.parquet")
    with pytest.raises(UsageError, match="found 1000001 rows"):
        read_cohort_prompts(str(tmp_path / "long.parquet"))


@pytest.mark.s3
def test_an_object_and_a_prefix_are_told_apart(aws_environment: S3Server) -> None:
    bucket = f"s3://{aws_environment.bucket}"
    store = open_store(bucket)
    store.put("prompts-of-cohort/clicks", json.dumps(ROWS).encode())
    store.put("prompts-of-cohort/maps/1.2.3.4.dcm", b"x")
    assert set(read_cohort_prompts(f"{bucket}/prompts-of-cohort/clicks").by_series) == {A, B}
    found = read_cohort_prompts(f"{bucket}/prompts-of-cohort/maps/")
    assert found.store is not None and found.by_series[A].maps[0].key == "1.2.3.4.dcm"
    for nowhere in ("prompts-of-cohort/none.json", "prompts-of-cohort"):
        with pytest.raises(UsageError, match="found neither clicks nor label maps"):
            read_cohort_prompts(f"{bucket}/{nowhere}")
    with pytest.raises(UsageError, match="no-such-bucket"):
        read_cohort_prompts("s3://no-such-bucket/clicks.json")
