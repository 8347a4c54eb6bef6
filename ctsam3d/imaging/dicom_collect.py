"""DICOM objects in any order to the CT images of one series, and counts of what was set aside."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ctsam3d.imaging.dicom_header import CT_CLASSES, MULTI_FRAME_CT, Header, read_header
from ctsam3d.outcome import Reason, Rejected

_GIB = 2**30
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and the classes whose UID goes on from here
_NOT_AN_IMAGE = (Reason.EMPTY_OBJECT, Reason.NOT_DICOM)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a series may cost and must have.

    Attributes:
        max_pixel_bytes: of all pixels of the series decoded, and of all its objects together.
        max_object_bytes: of one object.
        min_slices, min_extent_mm: fewer slices, or a stack less thick (slices x spacing), is no volume.
        check_hounsfield: refuse values that cannot be HU of a body.
    """

    max_pixel_bytes: int = 4 * _GIB
    max_object_bytes: int = 2 * _GIB
    min_slices: int = 3
    min_extent_mm: float = 20.0
    check_hounsfield: bool = True


@dataclass(slots=True, eq=False)
class Image:
    """One CT object, its bytes held until its frames are decoded."""

    header: Header
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """The images of one series.

    Attributes:
        images: in the order they came.
        objects: how many objects there were altogether.
        aside: how many were set aside, by reason; exact copies and other series are not among these.
    """

    images: list[Image]
    objects: int
    aside: Counter[Reason]


def collect(objects: Iterable[tuple[str, bytes]], limits: Limits) -> Collected:
    """Parse every header, keep the CT images of the series most frames belong to. No pixel is decoded.

    Raises:
        Rejected: EMPTY_OBJECT, NOT_DICOM, NOT_CT, LOCALIZER or NO_AXIAL_IMAGES if nothing is left; TOO_LARGE,
            MALFORMED, HEADER_TRUNCATED, NO_PIXEL_DATA, GEOMETRY_INVALID or UID_COLLISION for what is left.
    """
    images: list[Image] = []
    aside: Counter[Reason] = Counter()
    seen: dict[str, bytes] = {}
    total = pixel_bytes = held_bytes = 0
    for _, data in objects:
        total += 1
        if len(data) > limits.max_object_bytes:
            raise Rejected(Reason.TOO_LARGE, f"object of {len(data)} bytes, limit {limits.max_object_bytes}")
        try:
            header = read_header(data)
        except Rejected as rejected:
            if rejected.reason not in _NOT_AN_IMAGE:
                raise
            aside[rejected.reason] += 1
            continue
        assert header is not None  # None only for beginnings of objects
        unsuited = _unsuited(header)
        if unsuited is not None:
            aside[unsuited] += 1
            continue
        _check_has_pixels(header)
        if _is_copy(header, data, seen):
            continue
        pixel_bytes += header.pixel_bytes
        held_bytes += len(data)
        if max(pixel_bytes, held_bytes) > limits.max_pixel_bytes:
            raise Rejected(Reason.TOO_LARGE, f"{pixel_bytes} bytes of pixels, limit {limits.max_pixel_bytes}")
        images.append(Image(header, data))
    if not images:
        raise _nothing_usable(aside)
    images = _one_series(images)
    for image in images:
        _check_image(image.header)
    return Collected(images, total, aside)


def _unsuited(header: Header) -> Reason | None:
    """Why an object is no slice of a CT volume, None if it may be one."""
    if header.modality is None and not header.has_pixels and header.sop_class_uid in CT_CLASSES:
        raise Rejected(Reason.HEADER_TRUNCATED, "a CT object ends before its modality")
    if header.modality == "CT" and (header.sop_class_uid or "").startswith(_SECONDARY_CAPTURE):
        return Reason.NO_AXIAL_IMAGES
    if not header.is_ct_image:
        return Reason.NOT_CT
    if header.is_localizer:
        return Reason.LOCALIZER
    if (header.samples_per_pixel or 1) != 1:
        return Reason.NO_AXIAL_IMAGES  # a screenshot or a report in colour
    return None


def _is_copy(header: Header, data: bytes, seen: dict[str, bytes]) -> bool:
    """Whether an identical data set came before; its file meta group may differ, an archive rewrites that."""
    if header.sop_instance_uid is None:
        return False
    digest = hashlib.blake2b(memoryview(data)[header.dataset_offset :], digest_size=16).digest()
    known = seen.setdefault(header.sop_instance_uid, digest)
    if known is digest:
        return False
    if known != digest:
        raise Rejected(Reason.UID_COLLISION, "two different objects carry one instance UID")
    return True


def _nothing_usable(aside: Counter[Reason]) -> Rejected:
    if not aside:
        return Rejected(Reason.EMPTY_OBJECT, "no objects")
    kinds = [reason for reason in aside if reason not in _NOT_AN_IMAGE]
    if len(kinds) == 1:
        chosen = kinds[0]
    elif kinds:
        chosen = Reason.NO_AXIAL_IMAGES
    else:
        chosen = Reason.NOT_DICOM if aside[Reason.NOT_DICOM] else Reason.EMPTY_OBJECT
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(aside.items()))
    return Rejected(chosen, f"no CT slice among {sum(aside.values())} objects: {counts}")


def _one_series(images: list[Image]) -> list[Image]:
    groups: dict[tuple[str | None, str | None], list[Image]] = {}
    for image in images:
        groups.setdefault((image.header.series_instance_uid, image.header.study_instance_uid), []).append(
            image
        )
    if len({series for series, _ in groups}) < len(groups):
        raise Rejected(Reason.UID_COLLISION, "one series UID under several studies")
    largest = max(groups.values(), key=_frame_count)
    if len(groups) > 1 and 2 * _frame_count(largest) <= _frame_count(images):
        raise Rejected(Reason.UID_COLLISION, f"objects of {len(groups)} series, none the majority")
    return largest


def _frame_count(images: list[Image]) -> int:
    return sum(image.header.frame_count for image in images)


def _missing(header: Header) -> list[str]:
    return [
        name for name in ("rows", "columns", "bits_allocated", "bits_stored") if not getattr(header, name)
    ]


def _check_has_pixels(header: Header) -> None:
    if header.has_pixels:
        return
    missing = _missing(header)
    if missing:
        raise Rejected(Reason.HEADER_TRUNCATED, f"a CT object ends before {', '.join(missing)}")
    raise Rejected(Reason.NO_PIXEL_DATA, "a CT object without pixels")


def _check_image(header: Header) -> None:
    """Refuse a CT object whose header does not say how large it is, or where its frames are."""
    missing = _missing(header)
    if missing or header.frame_count < 1:
        raise Rejected(Reason.MALFORMED, f"a CT object without {', '.join(missing) or 'frames'}")
    if header.sop_class_uid not in MULTI_FRAME_CT and header.frame_count != 1:
        raise Rejected(
            Reason.GEOMETRY_INVALID, f"{header.frame_count} frames in an object that gives one position"
        )
    if len(header.frames) != header.frame_count:
        found = len(header.frames)
        raise Rejected(Reason.GEOMETRY_INVALID, f"places of {found} frames, expected {header.frame_count}")
