"""Faults S09, S10, S15: what an output says of whose studies it is made, and nothing besides."""

from __future__ import annotations

import json
import zlib
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines import schemas
from pipelines.cli import run_command
from pipelines.config import Privacy
from pipelines.driver import Stores
from pipelines.export import export_nifti
from pipelines.faults import ExitCode, UsageError
from pipelines.identity import is_uid
from pipelines.pseudonyms import Pseudonyms
from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import Store, open_store
from pipelines.texts import plain
from pipelines.verify import verify
from tests.builders import CANARIES
from tests.faults.cohort import Scripted, run, write_series
from tests.faults.stores import MortalStore

PATIENTS = {0: "CANARYONE", 1: "CANARYONE", 2: "CANARYTWO"}
DAYS = {0: "20240105", 1: "20240301", 2: "20240105"}

# Every text an output may hold that came from a header, and everything of a date or place.
TEXTS_OF_HEADERS = {
    "study_instance_uid",
    "series_instance_uid",
    "study_date",
    "modality",
    "manufacturer",
    "kernel",
}
OUR_TEXTS = {
    *("series_key", "status", "reason", "detail", "orientation", "geometry_fix", "structure", "snomed_code"),
    *("truncated_faces", "flags", "prompter", "encoding", "seconds_per_stage", "config_json", "series_by_status"),
    *("weights_sha256", "config_hash", "code_version", "run_id", "record_key", "input_digest", "manifest_id"),
    "prompts_digest",
    *("published_at", "objects"),
}  # fmt: skip


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return is_text(kind.value_type)
    return not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def test_S09_columns_are_those_of_a_list_and_no_other_text_of_a_header_is_among_them() -> None:
    tables = (schemas.STRUCTURES, schemas.SERIES, schemas.MASKS, schemas.RUNS, schemas.MANIFEST)
    texts = {field.name for table in tables for field in table if is_text(field.type)} - {"bits"}
    assert texts == TEXTS_OF_HEADERS | OUR_TEXTS


def patients(store: Store) -> None:
    """Three series of two patients, on three days, in folders named after them."""
    for number, patient in PATIENTS.items():

        def edit(ds: Dataset, i: int, number: int = number, patient: str = patient) -> None:
            ds.PatientID, ds.StudyDate = patient, DAYS[number]
            ds.Manufacturer = "=HYPERLINK(1)" if number == 2 else "Maker"

        write_series(store, number, folder=f"CANARYFOLDER^{patient}/{number}", edit=edit)
    store.put("CANARYFOLDER^BAD/a.dcm", b"\0" * 128 + b"DICM" + b"CANARYBYTES" * 9)


def series_of(output: Store) -> list[dict]:
    shards = SERIES_FILES.shards(output)
    return [row for shard in shards for row in read_shard(output, SERIES_FILES, shard).to_pylist()]


def words(output: MortalStore) -> bytes:
    """Every key, and every byte with what Parquet compresses laid open."""
    found = []
    for key, data in output.objects("").items():
        found += [key.encode(), data]
        if key.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            found += [repr(table.to_pydict()).encode(), repr(table.schema.metadata).encode()]
    return b"\n".join(found)


@pytest.fixture(scope="module")
def source() -> MortalStore:
    store = MortalStore("source")
    patients(store)
    return store


@pytest.fixture(scope="module")
def hidden(source: MortalStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, MortalStore]:
    """Outputs under two keys, `a` twice run, and one without."""
    folder, outputs = tmp_path_factory.mktemp("keys"), {}
    for name in ("a", "b", ""):
        outputs[name] = MortalStore(f"output-{name}")
        (folder / name / "key").parent.mkdir(exist_ok=True)
        (folder / name / "key").write_bytes(name.encode() * 40 + b"\n")
        privacy = Privacy(str(folder / name / "key") if name else None)
        run(Stores(source, outputs[name]), Scripted(), privacy=privacy)
        again = run(Stores(source, outputs[name]), Scripted(), privacy=privacy)
        assert again.computed == 0  # the same pseudonyms again: nothing is new
        assert again.series_by_status == {"ok": 3, "rejected": 1}
        assert verify(outputs[name]).ok
    return outputs


def test_S10_under_a_key_an_output_holds_no_uid_no_date_and_no_name_of_an_object(
    source: MortalStore, hidden: dict[str, MortalStore]
) -> None:
    """Changed: UIDs are kept unless a key is given; an output within a hospital is joined to its archive by them."""
    plain_rows = series_of(hidden[""])
    uids = {row[name] for row in plain_rows for name in ("study_instance_uid", "series_instance_uid")} - {
        None
    }
    assert len(uids) == 6
    open_words, hidden_words = words(hidden[""]), words(hidden["a"])
    for secret in [*uids, "CANARYFOLDER", *(row["series_key"] for row in plain_rows)]:
        assert secret.encode() in open_words
        assert secret.encode() not in hidden_words
    for day in DAYS.values():
        assert date.fromisoformat(day) in {row["study_date"] for row in plain_rows}
        assert date.fromisoformat(day) not in {row["study_date"] for row in series_of(hidden["a"])}
    # Without a key the manifest holds the names of the source's objects, as it must to find them again.
    for everywhere, kept in ((open_words, set(PATIENTS.values())), (hidden_words, set())):
        secrets = {*CANARIES.values(), *PATIENTS.values()}
        assert {value for value in secrets if value.encode() in everywhere} == kept
        assert b"a" * 40 not in everywhere and b"CANARYBYTES" not in everywhere


def test_S10_two_keys_give_pseudonyms_that_have_nothing_in_common(hidden: dict[str, MortalStore]) -> None:
    names = ("study_instance_uid", "series_instance_uid", "series_key", "record_key", "run_id", "study_date")
    for name in names:
        seen = [{row[name] for row in series_of(hidden[key])} - {None} for key in ("a", "b", "")]
        assert all(seen) and not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2]), name


def test_S10_the_days_between_a_patients_studies_are_kept_and_those_between_patients_are_not(
    hidden: dict[str, MortalStore],
) -> None:
    rows = [row for row in series_of(hidden["a"]) if row["study_date"]]
    gaps = sorted(abs((x["study_date"] - y["study_date"]).days) for x in rows for y in rows if x is not y)
    assert 56 in gaps  # 5 January to 1 March
    assert 0 not in gaps  # the two on one day are of two patients


def test_S10_masks_are_exported_by_their_pseudonym(hidden: dict[str, MortalStore], tmp_path: Path) -> None:
    uid = next(row["series_instance_uid"] for row in series_of(hidden["a"]) if row["status"] == "ok")
    assert is_uid(uid) and uid.startswith("2.25.")
    (folder,) = export_nifti(hidden["a"], tmp_path, uid)
    assert folder.name == uid
    assert json.loads((folder / "labels.json").read_text())
    header = zlib.decompress((folder / "labels.nii.gz").read_bytes(), 31)[:352]
    assert not [part for part in header.split(b"\0") if len(part) > 5 and part.isalpha()]


@pytest.mark.parametrize("content", [None, b"", b"CANARYKEY", b" " * 50])
def test_S10_a_key_that_is_none_is_refused_without_a_word_of_it(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Pseudonyms.of_file(file)
    assert "key" in str(caught.value) and "CANARY" not in str(caught.value)
    assert "CANARY" not in repr(Pseudonyms(b"CANARYKEY"))


def test_S10_a_run_with_a_key_that_is_none_does_not_begin(tmp_path: Path, capsys) -> None:
    (tmp_path / "source").mkdir()
    write_series(open_store(str(tmp_path / "source")), 0)
    (tmp_path / "key").write_text("CANARYKEY")
    command = [
        "run",
        str(tmp_path / "source"),
        str(tmp_path / "output"),
        "--pseudonym-key",
        str(tmp_path / "key"),
    ]
    assert run_command(command) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        f"ctsam3d: {tmp_path / 'key'}: a key of 9 bytes, expected at least 32; make one with `openssl rand -hex 32`\n"
    )
    assert not list((tmp_path / "output").rglob("*.parquet"))


@given(st.text(), st.dates(), st.text())
def test_S10_a_pseudonym_is_a_uid_and_a_day_earlier_whatever_it_stands_for(
    uid: str, day: date, patient: str
) -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    assert is_uid(pseudonyms.uid(uid)) and pseudonyms.uid(uid) == Pseudonyms(b"k" * 32).uid(uid)
    assert pseudonyms.uid(uid) != Pseudonyms(b"l" * 32).uid(uid)
    shifted = pseudonyms.day(day, patient)
    assert shifted is None or 1 <= (day - shifted).days <= 3650
    assert pseudonyms.uid(None) is None and pseudonyms.day(None, patient) is None


def test_S15_no_text_of_a_header_is_a_formula_to_a_spreadsheet(hidden: dict[str, MortalStore]) -> None:
    makers = {row["manufacturer"] for row in series_of(hidden[""])}
    assert makers == {"Maker", None}
    assert plain("GE MEDICAL SYSTEMS") and plain("I31f\\3") and plain("B30f")
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "a\nb", "x" * 65, "", None):
        assert plain(text) is None
