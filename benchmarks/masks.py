"""Bytes of encoded masks, and seconds to decode them, against the label map as .nii.gz."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import CLOCKS, Figure, against, interleaved
from benchmarks.study import STUDIES
from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.nifti import write_labels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.segmenter import Segmenter
from pipelines.masks import MaskRow, decode_inside, encode_label
from pipelines.records import Record, StructureRow, encode_record, read_record
from tests.pipelines.outputs import make_run, series_ref


def options(parser: argparse.ArgumentParser) -> None:
    """The study and the structures are those of `study`."""


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    volume = read_folder(STUDIES[chosen.study]).volume
    segmenter = Segmenter.load()
    structures = segmenter.structures if chosen.structures == "all" else tuple(chosen.structures.split(","))
    found = segmenter.segment(volume, structures)
    labels, ids = found.labels, found.label_ids
    with tempfile.TemporaryDirectory() as folder:
        nifti = Path(folder) / "labels.nii.gz"
        write_labels(nifti, labels, volume.geometry)
        encoded = _encoded(labels, ids, volume)
        if not np.array_equal(_decoded(encoded, ids, labels), labels):
            raise AssertionError("the masks are not those of the label map")
        works = {
            ".nii.gz": lambda: np.asarray(nibabel.load(nifti).dataobj),
            "masks in Parquet, to a label map": lambda: _decoded(encoded, ids, labels),
            "masks in Parquet": lambda: [decode_inside(row) for row in _rows(encoded)],
        }
        seconds = interleaved(works, chosen.repeats, CLOCKS[chosen.clock])
        sizes = {".nii.gz": float(nifti.stat().st_size), "masks in Parquet": float(len(encoded))}
        writing = interleaved(
            {
                ".nii.gz": lambda: write_labels(nifti, labels, volume.geometry),
                "masks in Parquet": lambda: _encoded(labels, ids, volume),
            },
            chosen.repeats, CLOCKS[chosen.clock],
        )  # fmt: skip
    label = f"{chosen.study}, {len(ids)} masks, "
    yield from [
        *against("masks", sizes, "byte", ".nii.gz", label + "size: "),
        *against("masks", seconds, "s", ".nii.gz", label + "decoding: "),
        *against("masks", writing, "s", ".nii.gz", label + "encoding: "),
    ]


def _encoded(labels: NDArray[np.uint8], ids: Mapping[str, int], volume: Volume) -> bytes:
    """A record of these masks."""
    ref = series_ref(1)
    rows = []
    for name, label in ids.items():
        mask = encode_label(labels, label, volume.geometry)
        assert mask is not None
        rows.append(StructureRow(name, Status.OK, voxels=mask.voxels, bbox=mask.bbox, mask=mask))
    return encode_record(Record(ref.series_row(), tuple(rows), make_run([ref]).provenance(ref)))


def _decoded(data: bytes, ids: Mapping[str, int], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label map again."""
    labels = np.zeros_like(like)
    for columns in read_record(data).masks.to_pylist():
        row = MaskRow.from_columns(columns)
        z0, y0, x0, z1, y1, x1 = row.bbox
        inside = labels[z0:z1, y0:y1, x0:x1]
        np.copyto(inside, ids[columns["structure"]], where=decode_inside(row), casting="unsafe")
    return labels


def _rows(data: bytes) -> list[MaskRow]:
    """The rows of a record's masks."""
    return [MaskRow.from_columns(columns) for columns in read_record(data).masks.to_pylist()]
