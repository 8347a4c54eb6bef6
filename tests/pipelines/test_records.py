"""Records and masks survive their round trip, and nothing damaged passes for whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctsam3d.outcome import Status
from pipelines import parquet
from pipelines.masks import (
    PACKED,
    RUNS,
    MaskDamaged,
    MaskRow,
    count_voxels,
    decode_inside,
    decode_mask,
    encode_label,
    encode_mask,
)
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


def test_a_record_lacks_arrows_own_schema_and_a_table_has_it_for_its_units() -> None:
    data = encode_record(RECORD_OF_REF)
    assert b"ARROW:schema" not in data
    table = parquet.write([read_record(data).masks], MASKS)
    voxels = pq.read_schema(pa.BufferReader(table)).field("voxels")
    assert voxels.metadata[b"unit"] == b"voxel of the source grid"


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
    assert found > 200  # much of a small file are statistics of its columns, of which nothing is read


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


def packed(mask: NDArray[np.bool_]) -> MaskRow:
    """The row of a mask on a grid of its size, as all were written once."""
    row = encode_mask(mask, replace(GRID, shape_zyx=mask.shape))
    assert row is not None
    z0, y0, x0, z1, y1, x1 = row.bbox
    return replace(row, encoding=PACKED, bits=np.packbits(mask[z0:z1, y0:y1, x0:x1]).tobytes())


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 1.0),
)
def test_any_mask_survives_its_round_trip(
    shape: tuple[int, int, int], grain: tuple[int, int, int], seed: int, density: float
) -> None:
    noise = np.random.default_rng(seed).random(shape) < density
    mask = np.kron(noise, np.ones(grain, dtype=np.bool_))
    geometry = replace(GRID, shape_zyx=mask.shape)
    row = encode_mask(mask, geometry)
    if row is None:
        assert not mask.any()
        return
    for written in (row, packed(mask)):
        assert np.array_equal(decode_mask(written), mask)
        assert decode_inside(written).shape == written.size
        assert count_voxels(written) == written.voxels == mask.sum()
    assert row.geometry.is_close(geometry)


@pytest.mark.parametrize("between", [65534, 65535, 65536, 65537, 131070, 131071, 150_000])
def test_runs_may_lie_as_far_apart_as_they_like(between: int) -> None:
    mask = np.zeros((2, 3, between + 3), dtype=np.bool_)
    mask[0, :, : between // 2] = True
    mask[1, 2, [0, 1 + between]] = True
    for turned in (mask, mask.transpose(2, 1, 0), mask.transpose(0, 2, 1)):
        row = encode_mask(turned, replace(GRID, shape_zyx=turned.shape))
        assert row is not None and np.array_equal(decode_mask(row), turned)


def test_organs_are_written_as_runs_and_noise_as_bits() -> None:
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    ball = z**2 + y**2 + x**2 <= 400
    noise = np.random.default_rng(1).random(ball.shape) < 0.5
    for mask, encoding in ((ball, RUNS), (noise, PACKED)):
        row = encode_mask(mask, replace(GRID, shape_zyx=mask.shape))
        assert row is not None and row.encoding == encoding
        assert len(row.bits) <= 4 * len(packed(mask).bits)


def test_a_record_from_before_there_were_runs_is_read() -> None:
    whole = np.ones(GRID.shape_zyx, dtype=np.bool_)
    first, *others = RECORD_OF_REF.structures
    row = packed(whole)
    record = replace(
        RECORD_OF_REF, structures=(replace(first, mask=row, bbox=row.bbox, voxels=row.voxels), *others)
    )
    table, metadata = parquet.read(encode_record(record), RECORD)
    older = parquet.write([table], RECORD, metadata)
    assert b"ARROW:schema" in older and decode_record(older) == record
    assert np.array_equal(decode_mask(read_record(older).masks.to_pylist()[0]), whole)


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


LIVER = masks_of(REF)["liver"].any(axis=2, keepdims=True) & (np.arange(24) < 13)


@pytest.mark.parametrize("encoding", [RUNS, PACKED])
@pytest.mark.parametrize(
    "change",
    [
        {"shape_zyx": (1 << 20, 1 << 20, 1 << 20)},
        {"shape_zyx": (0, 20, 24)},
        {"shape_zyx": (1 << 11, 1 << 11, 1 << 11), "bbox": (0, 0, 0, 1 << 11, 1 << 11, 1 << 11)},
        {"bbox": (2, 3, 4, 13, 15, 21)},
        {"bbox": (2, 3, 4, 2, 15, 21)},
        {"bbox": (2, 3, 0, 4, 15, 21)},
        {"bbox": (-1, 3, 4, 7, 15, 21)},
        {"affine": (float("nan"),) * 16},
        {"affine": (1.0,) * 15},
        {"encoding": "pickle"},
        {"bits": b""},
        {"bits": b"\xff" * 8},
        {"bits": b"\0" * 6},
        {"voxels": 1},
        {"voxels": 10**9},
        {"bits": None},
    ],
)
def test_a_mask_row_that_does_not_add_up_is_refused_before_it_is_unpacked(
    change: dict[str, object], encoding: str
) -> None:
    row = packed(LIVER) if encoding == PACKED else encode_mask(LIVER, GRID)
    assert row is not None and row.encoding == encoding
    with pytest.raises(MaskDamaged):
        decode_mask(row.to_columns() | change)
    assert MaskRow.from_columns(row.to_columns()) == row


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([RUNS, PACKED]),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6),
    st.integers(-8, 8),
    st.integers(-3, 3),
)
def test_damaged_bits_are_refused_or_are_a_mask_of_as_many_voxels(
    encoding: str, flips: list[tuple[int, int]], longer: int, more: int
) -> None:
    row = packed(LIVER) if encoding == PACKED else encode_mask(LIVER, GRID)
    assert row is not None
    bits = bytearray(row.bits[:longer] if longer < 0 else row.bits + b"\0" * longer)
    for position, change in flips:
        bits[position % len(bits)] ^= change
    damaged = row.to_columns() | {"bits": bytes(bits), "voxels": row.voxels + more}
    try:
        mask = decode_mask(damaged)
    except MaskDamaged as damage:
        assert "\n" not in str(damage)
    else:
        assert mask.sum() == damaged["voxels"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.tuples(*[st.integers(1, 40)] * 3), st.integers(0, 70_000))
def test_no_bytes_are_runs_beyond_their_box(bits: bytes, shape: tuple[int, int, int], voxels: int) -> None:
    row = {"bbox": (0, 0, 0, *shape), "shape_zyx": shape, "affine": tuple(GRID.affine.ravel())}
    try:
        mask = decode_mask(row | {"bits": bits, "voxels": voxels, "encoding": RUNS})
    except MaskDamaged:
        return
    assert mask.shape == shape and mask.sum() == voxels
