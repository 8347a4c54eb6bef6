"""Records and masks survive their round trip, and nothing damaged passes for whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsam3d.outcome import Status
from pipelines import parquet
from pipelines.masks import MaskDamaged, MaskRow, count_voxels, decode_mask, encode_label, encode_mask
from pipelines.records import RecordDamaged, decode_record, encode_record, read_record
from pipelines.schemas import MASKS, RECORD, SERIES, STRUCTURES
from tests.pipelines.outputs import GRID, make_run, masks_of, record_of, series_ref

REF = series_ref(1)
RUN = make_run([REF])
RECORD_OF_REF = record_of(RUN, REF)

# The published columns that the project promises by name.
PROMISED_STRUCTURES = [
    "study_instance_uid",
    "series_instance_uid",
    "structure",
    "snomed_code",
    "status",
    "reason",
    "volume_ml",
    "volume_soft_ml",
    "voxels",
    "mean_hu",
    "sd_hu",
    "p05_hu",
    "p50_hu",
    "p95_hu",
    "bbox",
    "centroid_xyz_mm",
    "truncated_faces",
    "clicks",
    "confidence",
    "weights_sha256",
    "config_hash",
    "code_version",
    "run_id",
]
PROMISED_SERIES = [
    "study_instance_uid",
    "series_instance_uid",
    "status",
    "reason",
    "modality",
    "rows",
    "columns",
    "slices",
    "spacing_mm",
    "orientation",
    "manufacturer",
    "kernel",
    "slice_thickness",
    "kvp",
    "contrast",
    "seconds_per_stage",
    "peak_memory_bytes",
    "bytes_read",
]


def test_a_record_survives_its_round_trip() -> None:
    assert decode_record(encode_record(RECORD_OF_REF)) == RECORD_OF_REF
    refused = record_of(RUN, REF, Status.REJECTED, "NOT_CT")
    assert decode_record(encode_record(refused)) == refused


def test_the_same_record_is_the_same_bytes() -> None:
    assert encode_record(RECORD_OF_REF) == encode_record(record_of(RUN, REF))


def test_a_record_without_its_masks_has_all_its_numbers() -> None:
    data = encode_record(RECORD_OF_REF)
    whole, narrow = read_record(data), read_record(data, masks=False)
    assert narrow.structures.equals(whole.structures) and narrow.series.equals(whole.series)
    assert (whole.masks.num_rows, narrow.masks.num_rows) == (2, 0)


def test_a_file_from_before_a_column_was_added_reads_as_null_there() -> None:
    table = read_record(encode_record(RECORD_OF_REF)).series
    older = table.drop_columns(["geometry_fix"])
    data = parquet.write([older], older.schema)
    assert parquet.read(data, SERIES)[0].equals(table)
    assert parquet.read(data, SERIES, ["status", "geometry_fix"])[0].to_pylist() == [
        {"status": "ok", "geometry_fix": None}
    ]
    for damaged in (table.drop_columns(["status"]), older.select([*older.column_names[1:], "series_key"])):
        with pytest.raises(parquet.ParquetDamaged, match="schema"):
            parquet.read(parquet.write([damaged], damaged.schema), SERIES)


def test_the_tables_have_the_promised_columns_and_units() -> None:
    assert set(PROMISED_STRUCTURES) <= set(STRUCTURES.names)
    assert set(PROMISED_SERIES) <= set(SERIES.names)
    assert {"record_key", "bbox", "shape_zyx", "affine", "bits"} <= set(MASKS.names)
    assert STRUCTURES.field("volume_ml").metadata == {b"unit": b"ml"}
    table = read_record(encode_record(RECORD_OF_REF))
    assert (table.structures.schema, table.series.schema, table.masks.schema) == (STRUCTURES, SERIES, MASKS)


def test_unknown_is_null_and_never_zero() -> None:
    absent = read_record(encode_record(RECORD_OF_REF)).structures.to_pylist()[2]
    assert absent["status"] == "absent"
    for name in ("volume_ml", "voxels", "mean_hu", "bbox", "clicks", "confidence", "truncated_faces"):
        assert absent[name] is None


def test_every_bit_flip_is_found_or_harmless() -> None:
    data = encode_record(RECORD_OF_REF)
    random, found = np.random.default_rng(3), 0
    for position in random.choice(len(data), 600, replace=False):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(random.integers(8))
        try:
            assert decode_record(bytes(flipped)) == RECORD_OF_REF
        except RecordDamaged as damage:
            found += 1
            assert "\n" not in str(damage)
    assert found > 200  # a third of a small file are Arrow's own types, of which nothing is read


@pytest.mark.parametrize("cut", [0, 4, 100, -1, -200])
def test_a_part_of_a_record_is_damaged(cut: int) -> None:
    data = encode_record(RECORD_OF_REF)
    with pytest.raises(RecordDamaged):
        read_record(data[:cut])


def test_parquet_of_someone_else_is_not_a_record() -> None:
    for table in (
        pa.table({"a": [1]}),
        RECORD.empty_table(),
        RECORD.empty_table().replace_schema_metadata(None),
    ):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        with pytest.raises(RecordDamaged):
            read_record(bytes(sink.getvalue()))


def test_a_record_must_be_of_one_piece() -> None:
    first, second = RECORD_OF_REF.structures[:2]
    for rows in ((), (first, first), (replace(first, mask=second.mask),)):
        with pytest.raises(ValueError):
            encode_record(replace(RECORD_OF_REF, structures=rows))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
def test_any_mask_survives_its_round_trip(shape: tuple[int, int, int], seed: int, density: float) -> None:
    geometry = replace(GRID, shape_zyx=shape)
    mask = np.random.default_rng(seed).random(shape) < density
    row = encode_mask(mask, geometry)
    if row is None:
        assert not mask.any()
        return
    assert np.array_equal(decode_mask(row), mask)
    assert count_voxels(row) == row.voxels == mask.sum()
    assert row.geometry.is_close(geometry)


def test_a_label_is_encoded_as_its_mask_with_or_without_its_box() -> None:
    mask = masks_of(REF)["liver"]
    labels = np.where(mask, 7, 3).astype(np.uint8)
    expected = encode_mask(mask, GRID)
    assert expected is not None
    assert encode_label(labels, 7, GRID) == expected
    assert encode_label(labels, 7, GRID, expected.bbox) == expected
    assert encode_label(labels, 7, GRID, (0, 0, 0, *GRID.shape_zyx)) == expected
    assert encode_label(labels, 9, GRID) is None


def test_a_row_of_the_table_decodes() -> None:
    for row in read_record(encode_record(RECORD_OF_REF)).masks.to_pylist():
        assert np.array_equal(decode_mask(row), masks_of(REF)[row["structure"]])


@pytest.mark.parametrize(
    "change",
    [
        {"shape_zyx": (1 << 20, 1 << 20, 1 << 20)},
        {"shape_zyx": (0, 20, 24)},
        {"bbox": (2, 3, 4, 13, 15, 21)},
        {"bbox": (2, 3, 4, 2, 15, 21)},
        {"bbox": (-1, 3, 4, 7, 15, 21)},
        {"affine": (float("nan"),) * 16},
        {"affine": (1.0,) * 15},
        {"encoding": "pickle"},
        {"bits": b""},
        {"voxels": 1},
        {"voxels": 10**9},
        {"bits": None},
    ],
)
def test_a_mask_row_that_does_not_add_up_is_refused_before_it_is_unpacked(change: dict[str, object]) -> None:
    row = encode_mask(masks_of(REF)["liver"], GRID)
    assert row is not None
    with pytest.raises(MaskDamaged):
        decode_mask(row.to_columns() | change)
    assert MaskRow.from_columns(row.to_columns()) == row
