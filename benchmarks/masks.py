"""Bytes of encoded masks, and seconds to decode and to encode them, against the label map as .nii.gz."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.figures import CLOCKS, Figure, against, interleaved
from benchmarks.study import STUDIES
from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.nifti import write_labels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.segmenter import Segmenter
from pipelines import parquet
from pipelines.label_map import decode_label_map
from pipelines.masks import ROW_COLUMNS, MaskRow, decode_inside, encode_label
from pipelines.records import Record, StructureRow, encode_record, read_record
from pipelines.schemas import MASKS
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
        record = _encoded(labels, ids, volume)
        table = parquet.write([read_record(record).masks], MASKS)
        if not np.array_equal(_label_map(table, ids), labels):
            raise AssertionError("the masks are not those of the label map")
        works = {
            ".nii.gz": lambda: np.asarray(nibabel.load(nifti).dataobj),
            "the table's masks": lambda: _each(_masks(_rows(table))),
            "the table's masks, to a label map": lambda: _label_map(table, ids),
            "the table's masks, all held": lambda: list(_masks(_rows(table))),
            "the record's masks": lambda: _each(_masks(read_record(record).masks)),
        }
        seconds = interleaved(works, chosen.repeats, CLOCKS[chosen.clock])
        sizes = {".nii.gz": nifti.stat().st_size, "the masks' table": len(table), "the record": len(record)}
        writing = interleaved(
            {
                ".nii.gz": lambda: write_labels(nifti, labels, volume.geometry),
                "the record": lambda: _encoded(labels, ids, volume),
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
    """A record of these masks, whose boxes are found first, as measuring does."""
    ref = series_ref(1)
    rows = []
    boxes = ndimage.find_objects(labels)
    for name, label in ids.items():
        z, y, x = boxes[label - 1]
        box = (z.start, y.start, x.start, z.stop, y.stop, x.stop)
        mask = encode_label(labels, label, volume.geometry, box)
        assert mask is not None
        rows.append(StructureRow(name, Status.OK, voxels=mask.voxels, bbox=mask.bbox, mask=mask))
    return encode_record(Record(ref.series_row(), tuple(rows), make_run([ref]).provenance(ref)))


def _rows(table: bytes) -> pa.Table:
    """The rows of a file of the masks' table, with the columns that an export reads."""
    return parquet.read(table, MASKS, ["series_key", "structure", *ROW_COLUMNS])[0]


def _masks(rows: pa.Table) -> Iterator[NDArray[np.bool_]]:
    """Every mask in its box."""
    for columns in rows.to_pylist():
        yield decode_inside(MaskRow.from_columns(columns))


def _each(masks: Iterator[NDArray[np.bool_]]) -> None:
    """One mask after the other: most of the time to hold them all is the system's, which hands out memory."""
    for _ in masks:
        pass


def _label_map(table: bytes, ids: Mapping[str, int]) -> NDArray[np.uint8]:
    """The label map again."""
    rows = _rows(table).to_pylist()
    return decode_label_map({ids[columns["structure"]]: MaskRow.from_columns(columns) for columns in rows})
