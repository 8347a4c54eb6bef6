"""Export masks: published tables in, <series uid>/labels.nii.gz and labels.json on the source grid out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ctsam3d.imaging.nifti import write_labels
from pipelines.identity import is_uid
from pipelines.label_map import MAX_LABEL, decode_label_map
from pipelines.masks import ROW_COLUMNS, MaskDamaged, MaskRow
from pipelines.parquet import ParquetDamaged
from pipelines.shards import MASK_FILES, SERIES_FILES, SeriesIndex, read_shard
from pipelines.store import Store

_COLUMNS = ["series_key", "structure", *ROW_COLUMNS]  # to set up the others takes as long as to read these


class ExportError(Exception):
    """An export that cannot be done. The message is one line for people."""


def export_nifti(output: Store, destination: Path, series_uid: str | None = None) -> Iterator[Path]:
    """Write the masks of one series, or of all that have any; yield each folder once it is complete.

    A voxel in two masks takes the later label; labels count from 1 in the order of the structures' names.

    Args:
        output: a store with published tables.
        destination: a local folder, made where missing.
        series_uid: a SeriesInstanceUID; None for all.

    Raises:
        ExportError: no such series, one without masks, or tables that are damaged.
        StoreError: the output cannot be read.
    """
    try:
        yield from _export(output, destination, series_uid)
    except (ParquetDamaged, MaskDamaged) as damage:
        raise ExportError(f"the tables are damaged: {damage}") from None


def _export(output: Store, destination: Path, series_uid: str | None) -> Iterator[Path]:
    if series_uid is not None and not is_uid(series_uid):
        raise ExportError("--series expects a DICOM UID: digits and dots, at most 64 characters")
    written: set[str] = set()
    for shard in sorted(SERIES_FILES.shards(output)):
        rows = read_shard(output, SERIES_FILES, shard, ["series_key", "series_instance_uid"]).to_pylist()
        wanted = {row["series_key"]: row["series_instance_uid"] for row in rows}
        if series_uid is not None:
            wanted = {key: uid for key, uid in wanted.items() if uid == series_uid}
        for key in sorted(wanted):
            shard_rows = read_shard(output, MASK_FILES, MASK_FILES.shard(key), _COLUMNS)
            masks = SeriesIndex(shard_rows).rows(key)
            if masks.num_rows:
                name = _folder_name(wanted[key], key, written)
                written.add(name)
                _write(masks, destination / name)
                yield destination / name
    if not written:
        what = "the output" if series_uid is None else f"series {series_uid}"
        raise ExportError(f"{what} holds no masks to export")


def _folder_name(uid: str | None, key: str, taken: set[str]) -> str:
    """The series UID; its key where it has none, both where another study has a series of that UID."""
    if not is_uid(uid):
        return key
    return f"{uid}_{key}" if uid in taken else str(uid)


def _write(masks: pa.Table, folder: Path) -> None:
    rows = {row["structure"]: MaskRow.from_columns(row) for row in masks.to_pylist()}
    if len(rows) > MAX_LABEL:
        raise ExportError(
            f"series {folder.name}: {len(rows)} structures, at most {MAX_LABEL} fit one label map"
        )
    names = dict(enumerate(sorted(rows), start=1))
    try:
        labels = decode_label_map({label: rows[name] for label, name in names.items()})
    except MaskDamaged as damage:
        raise MaskDamaged(f"series {folder.name}: {damage}") from None
    geometry = rows[names[1]].geometry
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(folder / "labels.nii.gz", labels, geometry)
    (folder / "labels.json").write_text(json.dumps({str(k): v for k, v in names.items()}, indent=1) + "\n")
