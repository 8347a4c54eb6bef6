"""Outputs for the tests of storage: series with known masks in, a store with a run and its records out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.outcome import Reason, Status
from pipelines.identity import record_path, series_key
from pipelines.manifest import Manifest, SeriesRef
from pipelines.masks import encode_mask
from pipelines.records import Record, SeriesRow, StructureRow, encode_record
from pipelines.runs import Run, save_run
from pipelines.store import ObjectInfo, Store
from tests.pipelines.dicom_objects import uid

STRUCTURES = ("liver", "lung_left", "spleen")
GRID = Geometry.from_spacing((12, 20, 24), (0.7, 0.9, 2.5), (-10.0, 5.0, 100.0))
WEIGHTS = "f" * 64


def series_ref(number: int, *, etag: str = "1", rejected: bool = False) -> SeriesRef:
    """A series of two objects."""
    study, series = uid(7, number), uid(7, number, 1)
    return SeriesRef(
        series_key=series_key(study, series),
        study_instance_uid=study,
        series_instance_uid=series,
        status=Status.REJECTED if rejected else Status.OK,
        objects=tuple(ObjectInfo(f"s{number}/{i}.dcm", 100 + i, etag) for i in range(2)),
        reason=str(Reason.NOT_CT) if rejected else None,
        image_count=2,
        modality="MR" if rejected else "CT",
    )


def make_run(refs: list[SeriesRef], config: str = "config-a") -> Run:
    """A run over these series."""
    return Run.of(
        Manifest.of(sorted(refs, key=lambda ref: ref.series_key)),
        STRUCTURES,
        {"name": config},
        config,
        WEIGHTS,
        "0.1.0",
    )


def masks_of(ref: SeriesRef) -> dict[str, NDArray[np.bool_]]:
    """Two irregular masks, other ones for each series; the third structure is absent."""
    random = np.random.default_rng(int(ref.series_key[:8], 16))
    masks = {}
    for name, start in (("liver", 2), ("lung_left", 7)):
        mask = np.zeros(GRID.shape_zyx, np.bool_)
        mask[start : start + 5, 3:15, 4:21] = random.random((5, 12, 17)) > 0.4
        masks[name] = mask
    return masks


def record_of(run: Run, ref: SeriesRef, status: Status = Status.OK, reason: str | None = None) -> Record:
    """The record of a series: masks and statistics, or rows that say why there are none."""
    if ref.status is not Status.OK:
        status, reason = ref.status, ref.reason
    rows = [StructureRow(name, status, reason) for name in STRUCTURES]
    if status is Status.OK:
        found = []
        for name, mask in masks_of(ref).items():
            row = encode_mask(mask, GRID)
            assert row is not None
            found.append(
                StructureRow(
                    name,
                    Status.TRUNCATED if name == "lung_left" else Status.OK,
                    snomed_code="10200004",
                    volume_ml=row.voxels * GRID.voxel_volume_ml,
                    voxels=row.voxels,
                    mean_hu=41.5,
                    bbox=row.bbox,
                    centroid_xyz_mm=(1.0, 2.0, 3.0),
                    truncated_faces=("superior",) if name == "lung_left" else (),
                    clicks=3,
                    confidence=0.9,
                    mask=row,
                )
            )
        rows = [*found, StructureRow("spleen", Status.ABSENT)]
    base = ref.series_row()
    series = SeriesRow(
        base.series_key,
        base.study_instance_uid,
        base.series_instance_uid,
        status,
        reason,
        modality=base.modality,
        spacing_mm=(0.7, 0.9, 2.5),
        seconds_per_stage={"load": 0.5, "segment": 2.25},
        bytes_read=ref.bytes_total,
    )
    return Record(series, tuple(rows), run.provenance(ref))


def commit(output: Store, run: Run, skip: tuple[str, ...] = ()) -> None:
    """Save the run and write the records of its series, but for those whose keys are in `skip`."""
    save_run(output, run)
    for ref in run.manifest:
        if ref.series_key not in skip:
            output.put_if_absent(record_path(run.record_key(ref)), encode_record(record_of(run, ref)))
