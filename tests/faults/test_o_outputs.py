"""Faults O01-O08: records and tables that are cut, changed, foreign, half written or of nobody."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctsam3d.prompting.clicks import read_clicks
from ctsam3d.prompting.prompt import PromptError
from pipelines import parquet
from pipelines.driver import Stores
from pipelines.faults import Aborted
from pipelines.records import RecordDamaged, decode_record, encode_record, read_record
from pipelines.schemas import SERIES
from pipelines.shards import MASK_FILES, SERIES_FILES, STRUCTURE_FILES, Layout, read_shard
from pipelines.verify import Problem, verify
from tests.faults.cohort import Scripted, run, uid_of, write_series
from tests.faults.stores import Crash, MortalStore
from tests.threshold import STRUCTURES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source() -> MortalStore:
    store = MortalStore("source")
    for number in range(3):
        write_series(store, number)
    write_series(store, 3, drop=(2,))
    return store


@pytest.fixture(scope="module")
def whole(source: MortalStore) -> dict[str, bytes]:
    """The objects of an output in which nothing is wrong."""
    output = MortalStore("output")
    assert run(Stores(source, output)).series_by_status == {"ok": 3, "rejected": 1}
    return output.objects("")


@pytest.fixture
def output(whole: dict[str, bytes]) -> MortalStore:
    store = MortalStore("output")
    for key, data in whole.items():
        store.put(key, data)
    assert verify(store).ok
    return store


def record_of(output: MortalStore, number: int) -> str:
    """Where the record of a series lies."""
    records = output.objects("records")
    (key,) = [
        k for k, data in records.items() if decode_record(data).series.series_instance_uid == uid_of(number)
    ]
    return key


def problems(output: MortalStore) -> dict[Problem, str]:
    return {finding.problem: finding.key for finding in verify(output).findings}


def repaired(source: MortalStore, output: MortalStore) -> None:
    """A run that is asked to replaces what cannot be believed, and keeps it for people to look at."""
    damaged = dict(output.objects("records"))
    summary = run(Stores(source, output), replace_damaged=True)
    assert summary.computed == 1
    assert summary.series_by_status == {"ok": 3, "rejected": 1}
    assert verify(output).ok, verify(output).findings
    kept = list(output.objects("quarantine").values())
    assert len(kept) == 1 and kept[0] in damaged.values()
    assert not run(Stores(source, output), replace_damaged=True).computed


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"PAR1", lambda data: b"PAR1" * 9],
    ids=["empty", "half", "magic", "magics"],
)
def test_O01_a_record_that_is_no_record_is_named_and_made_again_on_request(
    source: MortalStore, output: MortalStore, damage
) -> None:
    """Changed: verification ends with code 2, as all that came to its end with something to look at; 1 is a mistake."""
    key = record_of(output, 1)
    output.put(key, damage(output.get(key)))
    name = key.rpartition("/")[2].removesuffix(".parquet")
    assert problems(output) == {Problem.RECORD_DAMAGED: name}
    assert run(Stores(source, output)).computed == 0  # a record stands until someone asks for another
    assert problems(output) == {Problem.RECORD_DAMAGED: name}
    repaired(source, output)


@pytest.mark.parametrize("layout", [STRUCTURE_FILES, SERIES_FILES, MASK_FILES])
def test_O01_a_table_that_is_no_table_ends_a_run_that_needs_it_and_is_made_again_on_request(
    source: MortalStore, output: MortalStore, layout: Layout
) -> None:
    key = layout.path(next(layout.shards(output)))
    output.put(key, output.get(key)[:-9])
    assert set(problems(output).values()) == {key}
    if layout is not MASK_FILES:  # masks are read only where they change
        with pytest.raises(Aborted, match="--replace-damaged"):
            run(Stores(source, output))
    run(Stores(source, output), replace_damaged=True)
    assert verify(output).ok


def test_O02_a_bit_that_flips_in_a_record_or_a_table_is_found_or_harmless(output: MortalStore) -> None:
    random, found = np.random.default_rng(11), 0
    record = record_of(output, 0)
    table = SERIES_FILES.path(next(SERIES_FILES.shards(output)))
    for key, read in (
        (record, lambda data: decode_record(data)),
        (table, lambda data: parquet.read(data, SERIES)[0]),
    ):
        data = output.get(key)
        truth = read(data)
        for position in random.choice(len(data), 150, replace=False):
            flipped = bytearray(data)
            flipped[position] ^= 1 << int(random.integers(8))
            try:
                assert read(bytes(flipped)) == truth
            except (RecordDamaged, parquet.ParquetDamaged):
                found += 1
    assert found > 80  # in the descriptions of Arrow's own types a bit makes no difference


class Payload(pa.ExtensionType):
    """A column type of somebody else's that does as it likes when it is read."""

    opened: list[bytes] = []

    def __init__(self) -> None:
        super().__init__(pa.string(), "tests.payload")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"do something"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Payload:
        cls.opened.append(serialized)
        return cls()


@pytest.fixture
def payload() -> Iterator[type[Payload]]:
    pa.register_extension_type(Payload())
    yield Payload
    pa.unregister_extension_type("tests.payload")


def test_O03_a_file_with_types_that_name_code_is_not_opened_far_enough_to_run_it(
    output: MortalStore, payload: type[Payload], tmp_path: Path
) -> None:
    """S17 as well: a listing of studies in Parquet is read in the same way."""
    table = read_shard(output, SERIES_FILES, next(SERIES_FILES.shards(output)))
    column = table.schema.get_field_index("modality")
    hostile = table.set_column(
        column, "modality", pa.ExtensionArray.from_storage(Payload(), table["modality"].combine_chunks())
    )
    sink = pa.BufferOutputStream()
    pq.write_table(hostile, sink)
    data = sink.getvalue().to_pybytes()
    pq.read_table(pa.BufferReader(data))
    assert payload.opened  # elsewhere it does its work
    payload.opened.clear()
    record = record_of(output, 0)
    output.put(record, data)
    for layout in (SERIES_FILES, STRUCTURE_FILES):
        output.put(layout.path(next(layout.shards(output))), data)
    for run_key in [key for key in output.objects("runs") if key.endswith("manifest.parquet")]:
        output.put(run_key, data)
    assert not verify(output).ok
    with pytest.raises(RecordDamaged):
        read_record(data)
    (tmp_path / "clicks.parquet").write_bytes(data)
    with pytest.raises(PromptError, match="column"):
        read_clicks(tmp_path / "clicks.parquet")
    assert not payload.opened


def test_S17_a_hostile_listing_is_not_opened_far_enough_to_run_it(
    output: MortalStore, payload: type[Payload], tmp_path: Path
) -> None:
    test_O03_a_file_with_types_that_name_code_is_not_opened_far_enough_to_run_it(output, payload, tmp_path)


def test_O04_a_schema_of_another_version_is_refused_and_one_that_lacks_later_columns_is_read(
    output: MortalStore,
) -> None:
    table = read_shard(output, SERIES_FILES, next(SERIES_FILES.shards(output)))
    newer = SERIES.with_metadata({b"ctsam3d.schema_version": b"2"})
    with pytest.raises(parquet.ParquetDamaged, match="version"):
        parquet.read(parquet.write([table], newer), SERIES)
    older = pa.schema([field for field in SERIES if field.name not in parquet.ADDED_COLUMNS], SERIES.metadata)
    assert len(older) < len(SERIES)
    read = parquet.read(parquet.write([table.select(older.names)], older), SERIES)[0]
    assert read.schema == SERIES and read["study_date"].null_count == table.num_rows
    fewer = SERIES.remove(SERIES.get_field_index("kernel"))
    with pytest.raises(parquet.ParquetDamaged):
        parquet.read(parquet.write([table.select(fewer.names)], fewer), SERIES)


def test_O05_nothing_is_written_but_by_the_store() -> None:
    """Ray's and pyarrow's own writers of folders may wipe what lies beside: none is called."""
    banned = ("write_parquet", "write_dataset", "write_to_dataset", "write_table", "to_parquet", "write_csv")
    called = set()
    for file in (ROOT / "pipelines").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in banned
            ):
                called.add((file.name, ast.unparse(node.func)))
    # One file's writer, into memory, and the file a person asked `segment` for.
    assert called <= {("parquet.py", "writer.write_table"), ("single.py", "pq.write_table")}, called


def test_O06_a_mask_that_is_gone_or_is_not_the_one_measured_is_found(
    source: MortalStore, output: MortalStore
) -> None:
    key = record_of(output, 2)
    record = decode_record(output.get(key))
    first, *others = record.structures
    assert first.mask is not None
    flipped = bytes([first.mask.bits[0] ^ 0x80]) + first.mask.bits[1:]
    for mask in (None, replace(first.mask, bits=flipped)):
        changed = replace(record, structures=(replace(first, mask=mask), *others))
        output.put(key, encode_record(changed))
        assert Problem.MASK_DISAGREES in problems(output)
    repaired(source, output)


def test_O07_a_record_of_nobodys_run_is_harmless_and_is_used_by_the_run_it_is_of(source: MortalStore) -> None:
    """Changed: a mask lies in its record, so that there are none without a row; a record without a run there is."""
    for operations in range(10, 60):
        output = MortalStore("output")
        with pytest.raises(Crash):
            run(Stores(source, output.living(operations)), Scripted())
        if len(orphans := output.objects("records")) == 2:
            break
    assert len(orphans) == 2
    other = Scripted(threshold_hu=-400)
    assert run(Stores(source, output), other).series_by_status == {"ok": 3, "rejected": 1}
    assert verify(output).ok
    assert orphans.items() <= output.objects("records").items()
    summary = run(Stores(source, output), Scripted())
    assert summary.computed == 4 - len(orphans)
    assert verify(output).ok


@dataclass(frozen=True)
class Looked(MortalStore):
    """A store at whose tables a reader looks after every write."""

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        if key.startswith("tables/"):
            look(self)


LOOKS: Counter[str] = Counter()


def look(output: MortalStore) -> None:
    """What a reader who globs the tables sees: every series whole, and none twice."""
    rows = {
        layout.name: [
            row
            for shard in layout.shards(output)
            for row in read_shard(output, layout, shard, ["series_key", "record_key"]).to_pylist()
        ]
        for layout in (SERIES_FILES, STRUCTURE_FILES)
    }
    LOOKS["looks"] += 1
    series = Counter(row["series_key"] for row in rows["series"])
    assert set(series.values()) <= {1}
    structures = Counter((row["series_key"], row["record_key"]) for row in rows["structures"])
    assert set(structures.values()) <= {len(STRUCTURES)}
    assert len({key for key, _ in structures}) == len(structures)  # no series of two runs at once
    LOOKS["mixed"] += {row["record_key"] for row in rows["series"]} != {record for _, record in structures}


def test_O08_a_reader_sees_every_series_whole_at_every_moment_of_a_publication(source: MortalStore) -> None:
    """Changed: there is no list of files to read by; a series never changes its file, and files are replaced whole."""
    LOOKS.clear()
    output = Looked("output")
    for hu in (-500, -400):
        run(Stores(source, output), Scripted(threshold_hu=hu))
    assert LOOKS["looks"] > 10
    assert LOOKS["mixed"] > 0  # it did look in the midst of it
    assert verify(output).ok
