"""Measure one series: its volume and labels in, a row of numbers and a mask per requested structure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.anatomy.measure import Measurement
from ctsam3d.anatomy.measure import measure as measure_labels
from ctsam3d.anatomy.quality import flags
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.result import Finding, StudySegmentation
from pipelines.cohort.work import Work, guarded
from pipelines.masks import encode_label
from pipelines.records import StructureRow


def measure(work: Work, structures: Sequence[str]) -> Work:
    """Numbers on the source grid, HU from the original image; the arrays are let go."""

    def step(work: Work) -> Work:
        assert work.volume is not None and work.segmentation is not None
        rows = structure_rows(work.volume, work.segmentation, structures)
        return replace(work, structures=rows, volume=None, segmentation=None)

    return guarded("measure", step, work)


def structure_rows(
    volume: Volume, segmentation: StudySegmentation, structures: Sequence[str]
) -> tuple[StructureRow, ...]:
    """A row per requested structure, found or not, in the order of the request."""
    wanted = {name: segmentation.label_ids[name] for name in structures if name in segmentation.label_ids}
    measured = measure_labels(volume, segmentation.labels, wanted)
    return tuple(
        _row(name, segmentation.findings[name], measured.get(name), volume, segmentation)
        for name in structures
    )


def _row(
    name: str, finding: Finding, measured: Measurement | None, volume: Volume, segmentation: StudySegmentation
) -> StructureRow:
    known = CATALOGUE.get(name)
    row = StructureRow(
        structure=name,
        status=finding.status,
        reason=finding.reason,
        snomed_code=known.snomed_code if known else None,
        clicks=finding.clicks,
        confidence=finding.confidence,
        prompter=finding.prompter,
    )
    if measured is None:
        return row
    status = finding.status
    if measured.truncated_faces and status is Status.OK:
        status = Status.TRUNCATED
    return replace(
        row,
        status=status,
        volume_ml=measured.volume_ml,
        volume_soft_ml=finding.volume_soft_ml,
        voxels=measured.voxels,
        mean_hu=measured.mean_hu,
        sd_hu=measured.sd_hu,
        p05_hu=measured.p05_hu,
        p50_hu=measured.p50_hu,
        p95_hu=measured.p95_hu,
        bbox=measured.bbox_zyx,
        centroid_xyz_mm=measured.centroid_xyz_mm,
        truncated_faces=measured.truncated_faces,
        flags=tuple(map(str, flags(name, measured))),
        mask=encode_label(
            segmentation.labels, segmentation.label_ids[name], volume.geometry, measured.bbox_zyx
        ),
    )
