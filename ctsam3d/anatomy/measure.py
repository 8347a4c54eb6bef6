"""A label map and the volume it was drawn on to one measurement per structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.orientation import face_names
from ctsam3d.imaging.volume import Volume

FIELD_OF_VIEW = "field_of_view"
_FACE_ORDER = ("left", "right", "anterior", "posterior", "superior", "inferior")
_Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One structure on the source grid.

    Attributes:
        voxels: number of voxels, at least 1.
        volume_ml: voxels x |det(affine)|.
        mean_hu, sd_hu, p05_hu, p50_hu, p95_hu: of the measured voxels, population standard deviation,
            percentiles by linear interpolation; None where every voxel is padding.
        bbox_zyx: (z0, y0, x0, z1, y1, x1), half open, indices of the source grid.
        centroid_xyz_mm: mean position of the voxel centres, LPS+.
        truncated_faces: faces of the image the structure touches, as the patient's sides ("left", "superior",
            ...; of an oblique grid the nearest), and "field_of_view" where it touches padding. Not empty
            means that volume_ml is a lower bound.
    """

    voxels: int
    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    p05_hu: float | None
    p50_hu: float | None
    p95_hu: float | None
    bbox_zyx: tuple[int, int, int, int, int, int]
    centroid_xyz_mm: tuple[float, float, float]
    truncated_faces: tuple[str, ...]


def measure(volume: Volume, labels: NDArray[Any], label_ids: Mapping[str, int]) -> dict[str, Measurement]:
    """Measure every structure of a label map, each within its own bounding box.

    Args:
        volume: the image on the source grid.
        labels: unsigned integers (z, y, x) on the same grid, 0 for none.
        label_ids: label of each structure asked for, each at least 1.

    Returns:
        A measurement by name, for the structures that have voxels; the others are not in it.

    Raises:
        ValueError: labels of another shape than the volume's, or not integers; an id below 1.
    """
    from scipy import ndimage  # here: of a run's processes only those that commit measure

    if labels.shape != volume.geometry.shape_zyx or labels.dtype.kind not in "ui":
        raise ValueError(
            f"labels {labels.dtype} {labels.shape} for a volume of shape {volume.geometry.shape_zyx}"
        )
    if any(label < 1 for label in label_ids.values()):
        raise ValueError("label ids start at 1")
    boxes = ndimage.find_objects(labels, max_label=max(label_ids.values(), default=0) or 1)
    faces = face_names(volume.geometry)
    measured: dict[str, Measurement] = {}
    for name, label in label_ids.items():
        box = boxes[label - 1]
        if box is not None:
            measured[name] = _measure_one(volume, labels[box] == label, box, faces)
    return measured


def _measure_one(
    volume: Volume,
    mask: NDArray[np.bool_],
    box: _Box,
    faces: tuple[tuple[str, str], tuple[str, str], tuple[str, str]],
) -> Measurement:
    voxels = int(np.count_nonzero(mask))
    padding = volume.padding[box] if volume.padding is not None else None
    hu = volume.hu[box][mask if padding is None else mask & ~padding]
    mean, sd, (p05, p50, p95) = _statistics(hu)
    # Counts along each axis give the mean index without listing every voxel's.
    index_zyx = []
    for axis in range(3):
        counts = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
        index_zyx.append(box[axis].start + float(counts @ np.arange(counts.size)) / voxels)
    x, y, z = volume.geometry.to_world_xyz_mm(np.array(index_zyx))
    touched = set()
    for axis, (low, high) in enumerate(faces):
        if box[axis].start == 0:
            touched.add(low)
        if box[axis].stop == volume.geometry.shape_zyx[axis]:
            touched.add(high)
    truncated = [face for face in _FACE_ORDER if face in touched]
    if volume.padding is not None and _touches(mask, box, volume.padding):
        truncated.append(FIELD_OF_VIEW)
    return Measurement(
        voxels=voxels,
        volume_ml=voxels * volume.geometry.voxel_volume_ml,
        mean_hu=mean,
        sd_hu=sd,
        p05_hu=p05,
        p50_hu=p50,
        p95_hu=p95,
        bbox_zyx=(box[0].start, box[1].start, box[2].start, box[0].stop, box[1].stop, box[2].stop),
        centroid_xyz_mm=(float(x), float(y), float(z)),
        truncated_faces=tuple(truncated),
    )


def _statistics(hu: NDArray[Any]) -> tuple[float | None, float | None, tuple[float | None, ...]]:
    """Mean, standard deviation and 5th, 50th, 95th percentile in float64; None for no voxels."""
    if hu.size == 0:
        return None, None, (None, None, None)
    if hu.dtype == np.int16:
        # Few values, many voxels: the histogram gives the same numbers exactly, without a sort.
        low = int(hu.min())
        counts = np.bincount(hu.astype(np.int32) - low)
        values = np.arange(counts.size, dtype=np.float64) + low
        mean = float(counts @ values) / hu.size
        sd = float(np.sqrt(counts @ (values - mean) ** 2 / hu.size))
        return mean, sd, tuple(_percentile(values, counts, q) for q in (0.05, 0.5, 0.95))
    exact = hu.astype(np.float64)
    p05, p50, p95 = np.percentile(exact, (5, 50, 95))
    return float(exact.mean()), float(exact.std()), (float(p05), float(p50), float(p95))


def _percentile(values: NDArray[np.float64], counts: NDArray[np.int64], q: float) -> float:
    """The q-th quantile of a histogram, by linear interpolation between the two nearest ranks."""
    up_to = np.cumsum(counts)
    rank = q * (int(up_to[-1]) - 1)
    low = values[np.searchsorted(up_to, int(rank), side="right")]
    high = values[np.searchsorted(up_to, min(int(rank) + 1, int(up_to[-1]) - 1), side="right")]
    return float(low + (high - low) * (rank - int(rank)))


def _touches(mask: NDArray[np.bool_], box: _Box, padding: NDArray[np.bool_]) -> bool:
    """Whether a structure holds padding, or has it as a neighbour across a voxel's face."""
    if (padding[box] & mask).any():
        return True
    for axis in range(3):
        for step in (-1, 1):
            start, stop = box[axis].start + step, box[axis].stop + step
            own = [slice(None)] * 3
            if start < 0:
                start, own[axis] = 0, slice(1, None)
            if stop > padding.shape[axis]:
                stop, own[axis] = padding.shape[axis], slice(None, -1)
            beside = list(box)
            beside[axis] = slice(start, stop)
            if (padding[tuple(beside)] & mask[tuple(own)]).any():
                return True
    return False
