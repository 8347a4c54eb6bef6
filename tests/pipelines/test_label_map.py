"""Masks of one grid are one label map, whatever they look like, wherever they lie and however they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.label_map import MAX_LABEL, decode_label_map
from pipelines.masks import PACKED, RUNS, MaskDamaged, MaskRow, encode_mask
from tests.pipelines.outputs import GRID


def row_of(mask: NDArray[np.bool_], encoding: str = RUNS) -> MaskRow:
    """The row of a mask on a grid of its size."""
    row = encode_mask(mask, replace(GRID, shape_zyx=mask.shape))
    assert row is not None
    z0, y0, x0, z1, y1, x1 = row.bbox
    packed = np.packbits(mask[z0:z1, y0:y1, x0:x1]).tobytes()
    return row if encoding == row.encoding else replace(row, encoding=PACKED, bits=packed)


def rows_of(labels: NDArray[np.uint8], encodings: Mapping[int, str] | None = None) -> dict[int, MaskRow]:
    """A row for each label of a map."""
    found = (int(label) for label in np.unique(labels) if label)
    return {label: row_of(labels == label, (encodings or {}).get(label, RUNS)) for label in found}


def blocks(shape: tuple[int, int, int], labels: int, grain: int, seed: int) -> NDArray[np.uint8]:
    """A map of blocks of 0 to so many labels, side by side, all in the first and the last rows as well."""
    noise = np.random.default_rng(seed).integers(0, labels + 1, shape, dtype=np.uint8)
    return np.kron(noise, np.ones((1, 1, grain), dtype=np.uint8))


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.integers(1, 5),
    st.sampled_from([4, 8, 40]),
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(1, 5)),
)
def test_a_label_map_comes_back_from_its_masks(
    shape: tuple[int, int, int], labels: int, grain: int, seed: int, packed: set[int]
) -> None:
    expected = blocks(shape, labels, grain, seed)
    rows = rows_of(expected, dict.fromkeys(packed, PACKED))
    if rows:
        found = decode_label_map(rows)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize("encoding", [RUNS, PACKED])
def test_of_masks_that_overlap_the_last_has_the_voxels_of_both(encoding: str) -> None:
    masks = np.zeros((2, 6, 8, 40), dtype=np.bool_)
    masks[0, :, 2:6, 5:30] = masks[1, 2:4, :, 29:35] = True  # one voxel of a row in common
    for labels in ((1, 2), (2, 1)):
        rows = {label: row_of(mask, encoding) for label, mask in zip(labels, masks, strict=True)}
        expected = np.where(masks[1], labels[1], np.where(masks[0], labels[0], 0))
        assert np.array_equal(decode_label_map(rows), expected)


def test_runs_that_are_far_apart_or_at_both_ends_of_the_grid_are_where_they_were() -> None:
    expected = np.zeros((3, 300, 400), dtype=np.uint8)
    expected[0, 0, :2] = expected[-1, -1, -2:] = 3  # so far apart that empty runs lead from one to the other
    expected[1, 100:200] = MAX_LABEL  # whole rows, over which these empty runs pass
    expected[1, 200, :399], expected[1, 200, 399] = 1, 2
    assert rows_of(expected)[3].encoding == RUNS
    assert np.array_equal(decode_label_map(rows_of(expected)), expected)


def test_a_run_that_goes_on_in_the_next_row_is_what_its_mask_says() -> None:
    """Nothing of ours writes one, but a mask that has it can be decoded: the label map agrees with it."""
    mask = np.zeros((1, 3, 60), dtype=np.bool_)
    mask[0, 0, 10:40] = mask[0, 1, :40] = mask[0, 2, :10] = True
    row = row_of(mask)
    as_one_run = np.array([10, 80], dtype="<u2").view(np.uint8).reshape(2, 2).T.tobytes()
    assert row.size == (1, 3, 40) and row.bits != as_one_run
    assert np.array_equal(decode_label_map({5: replace(row, bits=as_one_run)}), np.where(mask, 5, 0))


def test_masks_of_several_grids_or_labels_that_a_byte_does_not_hold_are_refused() -> None:
    mask = np.ones((2, 3, 40), dtype=np.bool_)
    row, taller = row_of(mask), row_of(np.ones((3, 3, 40), dtype=np.bool_))
    moved = replace(row, affine=(*row.affine[:3], row.affine[3] + 1, *row.affine[4:]))
    for other in (taller, moved):
        with pytest.raises(MaskDamaged, match="one grid"):
            decode_label_map({1: row, 2: other})
    with pytest.raises(MaskDamaged):
        decode_label_map({1: row, 2: replace(row, voxels=row.voxels - 1)})
    for label in (0, MAX_LABEL + 1):
        with pytest.raises(ValueError, match="labels from 1"):
            decode_label_map({label: row})
