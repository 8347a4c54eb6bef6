"""Label maps that can travel: the bytes of any label map in; a sheet of names and boxes, and packed bits, out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.label_maps import Label, LabelMask
from ctsam3d.outcome import Reason, Rejected

_MAX_LABELS = 4096
_MAX_TEXT = 256  # characters of a name; none of the catalogue is nearly as long
_DICOM_MAGIC = slice(128, 132)


@dataclass(frozen=True, slots=True)
class MaskBox:
    """The box of one label's voxels.

    Attributes:
        key: of the label.
        shape_zyx: of the box; its bits are packed along x, then y, then z, and begin at a whole byte.
        affine: of the box, row by row.
    """

    key: int | str
    shape_zyx: tuple[int, int, int]
    affine: tuple[float, ...]

    @property
    def packed_bytes(self) -> int:
        """What its bits take."""
        z, y, x = self.shape_zyx
        return (z * y * x + 7) // 8


@dataclass(frozen=True, slots=True)
class LabelSheet:
    """All of a label map but its voxels.

    Attributes:
        labels: all that are named.
        boxes: of those with voxels, in the order of their bits.
        series_uids, frame_of_reference_uid: as `ctsam3d.imaging.label_maps.LabelMaps`.
    """

    labels: tuple[Label, ...]
    boxes: tuple[MaskBox, ...]
    series_uids: tuple[str, ...] = ()
    frame_of_reference_uid: str | None = None

    @property
    def packed_bytes(self) -> int:
        """What all bits take."""
        return sum(box.packed_bytes for box in self.boxes)


class PackedLabels:
    """A label map whose voxels are bits: a `LabelMaps` that needs no file."""

    def __init__(self, sheet: LabelSheet, bits: NDArray[np.uint8]) -> None:
        """Raises ValueError where the sheet and the bits (n,) do not belong together, or a box lies nowhere."""
        if any(min(box.shape_zyx) < 1 or len(box.affine) != 16 for box in sheet.boxes):
            raise ValueError("a box without voxels, or without a place")
        if sheet.packed_bytes != bits.size:
            raise ValueError(f"{bits.size} bytes of masks, expected {sheet.packed_bytes}")
        self.sheet, self.bits = sheet, bits
        self.labels = sheet.labels
        self.series_uids = frozenset(sheet.series_uids)
        self.frame_of_reference_uid = sheet.frame_of_reference_uid
        self._boxes: dict[int | str, tuple[int, MaskBox, Geometry]] = {}
        start = 0
        for box in sheet.boxes:
            geometry = Geometry(box.shape_zyx, np.array(box.affine).reshape(4, 4))
            self._boxes[box.key] = (start, box, geometry)
            start += box.packed_bytes

    def mask(self, label: Label) -> LabelMask | None:
        """The voxels of a label; None where it has none."""
        if label.key not in self._boxes:
            return None
        start, box, geometry = self._boxes[label.key]
        z, y, x = box.shape_zyx
        bits = np.unpackbits(self.bits[start : start + box.packed_bytes], count=z * y * x)
        return LabelMask(bits.reshape(box.shape_zyx).view(np.bool_), geometry)


def read_packed(file: bytes, beside: bytes | None, most_bytes: int) -> PackedLabels:
    """The labels in the bytes of a NIfTI file or a DICOM segmentation object.

    Args:
        file: the bytes.
        beside: of a NIfTI file the JSON that names its labels; None where the header does.
        most_bytes: that the packed masks may take.

    Raises:
        Rejected: as `NiftiLabelMap` and `DicomSegmentation`; TOO_LARGE.
    """
    # here: of a run's processes only the sandbox's child reads any
    from ctsam3d.imaging.dicom_seg import DicomSegmentation
    from ctsam3d.imaging.nifti_labels import NiftiLabelMap

    maps = (
        DicomSegmentation(file) if file[_DICOM_MAGIC] == b"DICM" else NiftiLabelMap(file, beside)
    )  # told apart by content, as everywhere
    if len(maps.labels) > _MAX_LABELS:
        raise Rejected(Reason.TOO_LARGE, f"found {len(maps.labels)} labels, expected at most {_MAX_LABELS}")
    boxes: list[MaskBox] = []
    parts: list[NDArray[np.uint8]] = []
    taken = 0
    for label in maps.labels:
        mask = maps.mask(label)
        if mask is None:
            continue
        affine = tuple(float(value) for value in mask.geometry.affine.ravel())
        boxes.append(MaskBox(label.key, mask.geometry.shape_zyx, affine))
        taken += boxes[-1].packed_bytes
        if taken > most_bytes:
            raise Rejected(Reason.TOO_LARGE, f"masks of more than {most_bytes} bytes when packed")
        parts.append(np.packbits(mask.mask))
    labels = tuple(replace(label, text=_plain(label.text)) for label in maps.labels)
    sheet = LabelSheet(labels, tuple(boxes), tuple(sorted(maps.series_uids)), maps.frame_of_reference_uid)
    return PackedLabels(sheet, np.concatenate(parts) if parts else np.zeros(0, np.uint8))


def _plain(text: str) -> str:
    """A name that any message can hold; one that is cut is no name of the catalogue any more."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
