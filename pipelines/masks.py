"""Masks as table rows: a boolean (z, y, x) array in, a MaskRow of its bounding box out, and back without loss.

What `bits` hold, for Parquet to compress, is the row's encoding:

    bbox-runs-v2        the runs of the box's rows, see `pipelines.mask_runs`
    bbox-packbits-v1    the box in (z, y, x) order, eight voxels a byte, most significant bit first: masks that are
                        mostly noise, and all that were written before there were runs
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from pipelines import mask_runs

RUNS = "bbox-runs-v2"
PACKED = "bbox-packbits-v1"
MAX_VOXELS = 1 << 33  # a grid of 2048^3: larger claims are not believed
_MAX_RUNS_VOXELS = 1 << 31  # in a box of runs, which may be few however large it claims to be

Box = tuple[int, int, int, int, int, int]


class MaskDamaged(ValueError):
    """A mask row that does not describe a mask. The message is one line."""


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One structure's mask.

    Attributes:
        bbox: (z0, y0, x0, z1, y1, x1), half open.
        shape_zyx: the source grid.
        affine: 16 values, row by row; maps (x, y, z, 1) to LPS+ mm.
        encoding: how `bits` are to be read.
        bits: the mask in its box.
        voxels: voxels set.
    """

    bbox: Box
    shape_zyx: tuple[int, int, int]
    affine: tuple[float, ...]
    encoding: str
    bits: bytes = field(repr=False)
    voxels: int

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels of the box along z, y and x."""
        z0, y0, x0, z1, y1, x1 = self.bbox
        return z1 - z0, y1 - y0, x1 - x0

    @property
    def geometry(self) -> Geometry:
        """The source grid the mask lies on."""
        return Geometry(self.shape_zyx, np.asarray(self.affine, dtype=np.float64).reshape(4, 4))

    def to_columns(self) -> dict[str, Any]:
        """Values for the columns of the masks table that describe the mask."""
        return {
            "bbox": self.bbox,
            "shape_zyx": self.shape_zyx,
            "affine": self.affine,
            "encoding": self.encoding,
            "bits": self.bits,
            "voxels": self.voxels,
        }

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> MaskRow:
        """A row of the masks table, checked: every size is plausible and agrees with the others.

        Raises:
            MaskDamaged: it does not describe a mask.
        """
        try:
            bbox = tuple(int(v) for v in row["bbox"])
            shape = tuple(int(v) for v in row["shape_zyx"])
            affine = tuple(float(v) for v in row["affine"])
            bits, voxels, encoding = bytes(row["bits"]), int(row["voxels"]), str(row["encoding"])
        except (KeyError, TypeError, ValueError):
            raise MaskDamaged("a mask row lacks a column or has one of another type") from None
        if encoding not in (RUNS, PACKED):
            raise MaskDamaged("the mask's encoding is not one this version reads")
        if len(bbox) != 6 or len(shape) != 3 or len(affine) != 16 or not all(map(math.isfinite, affine)):
            raise MaskDamaged("expected 6 values of bbox, 3 of shape and 16 finite ones of affine")
        if min(shape) < 1 or shape[0] * shape[1] * shape[2] > MAX_VOXELS:
            raise MaskDamaged(f"the grid {shape} is not plausible")
        size = [bbox[k + 3] - bbox[k] for k in range(3)]
        if min(size) < 1 or any(bbox[k] < 0 or bbox[k + 3] > shape[k] for k in range(3)):
            raise MaskDamaged(f"the box {bbox} is not inside the grid {shape}")
        inside = size[0] * size[1] * size[2]
        if not _is_plausible(encoding, len(bits), inside) or not 1 <= voxels <= inside:
            raise MaskDamaged(f"{len(bits)} bytes and {voxels} voxels for a box of {inside} voxels")
        return cls(bbox, shape, affine, encoding, bits, voxels)


ROW_COLUMNS = tuple(f.name for f in fields(MaskRow))  # of the masks table, that `MaskRow.from_columns` reads


def encode_mask(mask: NDArray[np.bool_], geometry: Geometry) -> MaskRow | None:
    """Encode a boolean (z, y, x) array on its source grid; None for a mask without voxels."""
    if mask.dtype != np.bool_ or mask.shape != geometry.shape_zyx:
        raise ValueError(f"expected bool of shape {geometry.shape_zyx}, found {mask.dtype} of {mask.shape}")
    box = _bounding_box(mask)
    return None if box is None else _encode(mask[_slices(box)], box, geometry)


def encode_label(
    labels: NDArray[Any], label: int, geometry: Geometry, bbox: Box | None = None
) -> MaskRow | None:
    """Encode the voxels of a label map (z, y, x) that hold `label`; None where none does.

    `bbox` (z0, y0, x0, z1, y1, x1), half open, spares the search; it must hold every voxel of the label.
    """
    if labels.shape != geometry.shape_zyx:
        raise ValueError(f"expected labels of shape {geometry.shape_zyx}, found {labels.shape}")
    if bbox is None:
        return encode_mask(labels == label, geometry)
    inner = labels[_slices(bbox)] == label
    tight = _bounding_box(inner)
    if tight is None:
        return None
    z, y, x = bbox[:3]
    shifted = (tight[0] + z, tight[1] + y, tight[2] + x, tight[3] + z, tight[4] + y, tight[5] + x)
    return _encode(inner[_slices(tight)], shifted, geometry)


def decode_mask(row: MaskRow | Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask as bool (z, y, x) on the source grid, from a MaskRow or a row of the masks table.

    Raises:
        MaskDamaged: the row does not describe a mask, or its bits do not hold as many voxels as it says.
    """
    checked = MaskRow.from_columns(row.to_columns() if isinstance(row, MaskRow) else row)
    mask = np.zeros(checked.shape_zyx, dtype=np.bool_)
    mask[_slices(checked.bbox)] = decode_inside(checked)
    return mask


def decode_inside(row: MaskRow) -> NDArray[np.bool_]:
    """The mask in its box, bool (z, y, x), of a row that `MaskRow.from_columns` let pass.

    Raises:
        MaskDamaged: the bits are not a mask of as many voxels as the row says.
    """
    if row.encoding == RUNS:
        return mask_runs.to_mask(*decode_runs(row), row.size)
    inner = _unpack(row)
    _check(row, int(np.count_nonzero(inner)))
    return inner


def decode_runs(row: MaskRow) -> tuple[mask_runs.Places, mask_runs.Places]:
    """The runs of a mask that is stored as runs: at which voxel of its box each begins, and how many it has.

    Raises:
        MaskDamaged: as `decode_inside`.
    """
    begins, lengths = _runs(row)
    _check(row, int(lengths.sum()))
    return begins, lengths


def count_voxels(row: MaskRow) -> int:
    """Voxels set, counted in the bits and not taken from the row's own word; of a row as `decode_inside` takes it.

    Raises:
        MaskDamaged: the bits are not a mask.
    """
    return int(_runs(row)[1].sum()) if row.encoding == RUNS else int(np.count_nonzero(_unpack(row)))


def _encode(inner: NDArray[np.bool_], box: Box, geometry: Geometry) -> MaskRow:
    affine = tuple(float(v) for v in geometry.affine.ravel())
    encoding, bits = RUNS, b""
    if inner.shape[2] <= mask_runs.MAX_STEP and inner.size <= _MAX_RUNS_VOXELS:
        bits = mask_runs.to_bytes(inner)
    if not 0 < len(bits) <= inner.size // 2:  # of noise they are more, even compressed
        encoding, bits = PACKED, np.packbits(inner).tobytes()
    return MaskRow(box, geometry.shape_zyx, affine, encoding, bits, int(np.count_nonzero(inner)))


def _is_plausible(encoding: str, length: int, inside: int) -> bool:
    """Whether bits of this length can be those of a box of so many voxels."""
    if encoding == PACKED:
        return length == (inside + 7) // 8
    return length > 0 and length % mask_runs.BYTES_PER_RUN == 0 and inside <= _MAX_RUNS_VOXELS


def _runs(row: MaskRow) -> tuple[mask_runs.Places, mask_runs.Places]:
    try:
        return mask_runs.to_runs(row.bits, math.prod(row.size))
    except ValueError as damage:
        raise MaskDamaged(str(damage)) from None


def _unpack(row: MaskRow) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(row.bits, dtype=np.uint8), count=math.prod(row.size))
    inner: NDArray[np.bool_] = bits.reshape(row.size).view(np.bool_)
    return inner


def _check(row: MaskRow, voxels: int) -> None:
    if voxels != row.voxels:
        raise MaskDamaged(f"the bits do not hold the {row.voxels} voxels the row says")


def _bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    spans = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        spans.append((int(hit[0]), int(hit[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = spans
    return z0, y0, x0, z1, y1, x1


def _slices(box: Box) -> tuple[slice, slice, slice]:
    return slice(box[0], box[3]), slice(box[1], box[4]), slice(box[2], box[5])
