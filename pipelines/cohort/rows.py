"""Work as a row that travels between machines, and back: a text for what is small, tensors for the voxels.

Every row has the same five columns of the same types whatever became of the series, so that no block's schema
depends on its content. A row's tensors are views of shared memory: read-only, and never copied on the way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from ctsam3d.imaging.dicom import SeriesFacts
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.packed_labels import LabelSheet, PackedLabels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.result import Finding, StudySegmentation
from pipelines.cohort.work import Trace, Work
from pipelines.manifest import SeriesRef
from pipelines.series_prompts import SeriesPrompts

Row = dict[str, Any]

_NO_VOXELS = np.zeros((0, 0, 0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Header:
    """All of a Work but its voxels."""

    ref: SeriesRef
    record_key: str
    status: Status
    reason: str | None
    detail: str | None
    facts: SeriesFacts | None
    trace: Trace
    affine: tuple[float, ...] | None
    shape_zyx: tuple[int, int, int] | None
    is_float: bool
    label_ids: dict[str, int] | None
    findings: dict[str, Finding] | None
    attempt: int | None
    prompts: SeriesPrompts | None
    sheet: LabelSheet | None


def to_row(work: Work) -> Row:
    """A row for Ray. HU as int16 whatever their type (float32 as pairs), padding and prompts as packed bits."""
    volume, found = work.volume, work.segmentation
    header = _Header(
        work.ref,
        work.record_key,
        work.status,
        work.reason,
        work.detail,
        work.facts,
        work.trace,
        tuple(float(v) for v in volume.geometry.affine.ravel()) if volume else None,
        volume.geometry.shape_zyx if volume else None,
        volume is not None and volume.hu.dtype == np.float32,
        dict(found.label_ids) if found else None,
        dict(found.findings) if found else None,
        work.attempt,
        work.prompts,
        work.labels.sheet if work.labels else None,
    )
    hu, padding, prompts = _NO_VOXELS.view(np.int16), _NO_VOXELS, _NO_VOXELS
    if volume is not None:
        hu = np.ascontiguousarray(volume.hu).view(np.int16)
        if volume.padding is not None:
            padding = np.packbits(volume.padding).reshape(-1, 1, 1)
    if work.labels is not None and work.labels.bits.size:
        prompts = work.labels.bits.reshape(-1, 1, 1)
    labels = np.ascontiguousarray(found.labels, dtype=np.uint8) if found else _NO_VOXELS
    text = _codec().dump_json(header).decode()
    return {"header": text, "hu": hu, "padding": padding, "prompts": prompts, "labels": labels}


def from_row(row: Row) -> Work:
    """The Work that `to_row` was given; `structures` and a segmentation's own seconds do not travel."""
    header = _codec().validate_json(row["header"])
    volume = segmentation = None
    if header.shape_zyx is not None and header.affine is not None:
        geometry = Geometry(header.shape_zyx, np.array(header.affine).reshape(4, 4))
        hu: NDArray[Any] = np.asarray(row["hu"])
        volume = Volume(
            hu.view(np.float32) if header.is_float else hu,
            geometry,
            _padding(row["padding"], header.shape_zyx),
        )
        if header.label_ids is not None and header.findings is not None:
            segmentation = StudySegmentation(np.asarray(row["labels"]), header.label_ids, header.findings, {})
    return Work(
        ref=header.ref,
        record_key=header.record_key,
        status=header.status,
        reason=header.reason,
        detail=header.detail,
        facts=header.facts,
        volume=volume,
        prompts=header.prompts,
        labels=PackedLabels(header.sheet, np.asarray(row["prompts"]).ravel()) if header.sheet else None,
        segmentation=segmentation,
        trace=header.trace,
        attempt=header.attempt,
    )


def _padding(bits: NDArray[np.uint8], shape_zyx: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    if bits.size == 0:
        return None
    count = shape_zyx[0] * shape_zyx[1] * shape_zyx[2]
    return np.unpackbits(np.asarray(bits).ravel(), count=count).reshape(shape_zyx).view(np.bool_)


@cache
def _codec() -> TypeAdapter[_Header]:
    return TypeAdapter(_Header)
