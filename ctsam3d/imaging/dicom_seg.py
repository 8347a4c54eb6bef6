"""A DICOM segmentation (binary, fractional or label map) in; its segments with their codes, and their masks out."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.sr.coding import Code

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.label_maps import CodedName, Label, LabelMask, cut_out
from ctsam3d.imaging.quiet import quiet
from ctsam3d.outcome import Reason, Rejected

_MAX_BYTES = 2 << 30
_PREAMBLE_BYTES = 132
_HALF = 0.5


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as stream:
        return stream.read(_PREAMBLE_BYTES)[128:] == b"DICM"


class DicomSegmentation:
    """One segmentation object.

    Attributes:
        labels: its segments.
        series_uids: series it says it was made of.
        frame_of_reference_uid: what its positions refer to.
    """

    def __init__(self, file: Path | bytes) -> None:
        """From a path or the bytes of a file.

        Raises:
            Rejected: TOO_LARGE; NOT_DICOM for what is no segmentation; MALFORMED for one that is damaged.
        """
        import highdicom

        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        if size > _MAX_BYTES:
            raise Rejected(Reason.TOO_LARGE, f"file of {size} bytes, expected at most {_MAX_BYTES}")
        with quiet():
            try:
                self._seg = highdicom.seg.segread(io.BytesIO(file) if isinstance(file, bytes) else file)
                self.labels = tuple(_label(self._seg, n) for n in self._seg.segment_numbers)
                self.frame_of_reference_uid = _text(self._seg, "FrameOfReferenceUID")
                referenced = self._seg.get("ReferencedSeriesSequence") or ()
                uids = (_text(item, "SeriesInstanceUID") for item in referenced)
                self.series_uids = frozenset(uid for uid in uids if uid)
            except OSError:
                raise
            # values convert on access and fail in many ways; the library's words may quote a header
            except Exception as fault:
                raise Rejected(
                    Reason.NOT_DICOM, f"cannot be read as a DICOM segmentation ({type(fault).__name__})"
                ) from None

    def mask(self, label: Label) -> LabelMask | None:
        """The voxels of a segment, of a fractional one those of at least one half.

        Raises:
            Rejected: GEOMETRY_INVALID for frames that make no volume of even spacing, or that cannot be decoded.
        """
        assert isinstance(label.key, int)
        with quiet():
            try:
                found = self._seg.get_volume(segment_numbers=[label.key])
            except Exception as fault:
                raise Rejected(
                    Reason.GEOMETRY_INVALID,
                    f"segment {label.key}: its frames make no volume ({type(fault).__name__})",
                ) from None
        array = np.asarray(found.array)[..., 0]
        # highdicom's affine takes array indices in their order; ours takes them reversed
        affine = np.asarray(found.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
        mask = array >= _HALF if array.dtype.kind == "f" else array > 0
        return cut_out(mask, Geometry((array.shape[0], array.shape[1], array.shape[2]), affine))


def snomed_code(coded: tuple[str, str] | None, among: Iterable[str]) -> str | None:
    """Which of some SNOMED CT codes a DICOM code is, in the scheme SCT or the retired SRT; None for none of them."""
    if coded is None:
        return None
    mine = Code(coded[1], coded[0], "")
    return next((code for code in among if mine == Code(code, "SCT", "")), None)


def _label(seg: Any, number: int) -> Label:
    description = seg.get_segment_description(number)
    kind = _first(description, "SegmentedPropertyTypeCodeSequence")
    region = _first(description, "AnatomicRegionSequence")
    modifiers = [
        *_items(kind, "SegmentedPropertyTypeModifierCodeSequence"),
        *_items(description, "SegmentedPropertyTypeModifierCodeSequence"),  # as some write it
        *_items(region, "AnatomicRegionModifierSequence"),
    ]
    return Label(
        number,
        _text(description, "SegmentLabel") or "",
        CodedName(
            _code(kind),
            _code(_first(description, "SegmentedPropertyCategoryCodeSequence")),
            _code(region),
            tuple(code for item in modifiers if (code := _code(item)) is not None),
        ),
    )


def _items(dataset: Any, keyword: str) -> list[Any]:
    return list(dataset.get(keyword) or ()) if dataset is not None else []


def _first(dataset: Any, keyword: str) -> Any:
    return next(iter(_items(dataset, keyword)), None)


def _code(item: Any) -> tuple[str, str] | None:
    scheme, value = (_text(item, keyword) for keyword in ("CodingSchemeDesignator", "CodeValue"))
    return (scheme, value) if scheme and value else None


def _text(dataset: Any, keyword: str) -> str | None:
    value = dataset.get(keyword) if dataset is not None else None
    return str(value).strip() or None if value is not None else None
