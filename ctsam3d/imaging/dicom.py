"""One CT series as DICOM objects, in any order, to a volume in Hounsfield units on an LPS+ grid.

1. Every object's header is parsed; what is no CT image of the series is set aside and counted.
2. Limits and pixel formats are checked from headers, and the stack from positions: nothing is decoded before.
3. Frames are decoded one by one into their place in the volume; an object's bytes are let go once decoded.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.dicom_facts import HeaderFacts, header_facts
from ctsam3d.imaging.dicom_header import CT_CLASSES, MULTI_FRAME_CT, Frame, Header, read_header
from ctsam3d.imaging.dicom_pixels import check_format, is_integral, stored_frames, write_hu
from ctsam3d.imaging.hounsfield import MIN_RANGE_HU, check_plausible
from ctsam3d.imaging.orientation import orientation_code
from ctsam3d.imaging.stacking import Plane, Stack, stack_planes
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Reason, Rejected

__all__ = [
    "DicomSeries",
    "HeaderFacts",
    "Limits",
    "SeriesFacts",
    "header_facts",
    "read_folder",
    "read_series",
]

_GIB = 2**30
_MAX_SLOPE = 100.0
_MAX_INTERCEPT = 32768.0
# Units after rescaling that are not Hounsfield's: densities, atomic numbers, percentages.
_OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "HU_MOD")
_HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Limits:
    """What a series may cost and must have.

    Attributes:
        max_pixel_bytes: of all pixels of the series, decoded.
        max_object_bytes: of one object.
        min_slices, min_extent_mm: fewer slices, or a stack less thick (slices x spacing), is no volume.
        check_hounsfield: refuse values that cannot be HU of a body.
    """

    max_pixel_bytes: int = 4 * _GIB
    max_object_bytes: int = 2 * _GIB
    min_slices: int = 3
    min_extent_mm: float = 20.0
    check_hounsfield: bool = True


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What the headers say of a series; None where they say nothing, as after some anonymisers also for UIDs.

    Attributes:
        spacing_mm: (x, y, z) of the stored grid, z from positions.
        orientation: where the stored x, y, z axes point, such as "LPS".
        lossy: whether any image was compressed with loss.
        instances_used, instances_set_aside: objects; duplicates and foreign ones count as set aside.
    """

    study_instance_uid: str | None
    series_instance_uid: str | None
    modality: str
    rows: int
    columns: int
    slices: int
    spacing_mm: tuple[float, float, float]
    orientation: str
    manufacturer: str | None
    kernel: str | None
    slice_thickness_mm: float | None
    kvp: float | None
    contrast: bool | None
    lossy: bool
    instances_used: int
    instances_set_aside: int


@dataclass(frozen=True, slots=True, eq=False)
class DicomSeries:
    """A series read: its volume and the facts of its headers."""

    volume: Volume
    facts: SeriesFacts


@dataclass(slots=True, eq=False)
class _Image:
    """One CT object held until its frames are decoded."""

    header: Header
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """One frame and the object it is in."""

    image: int
    index: int
    frame: Frame


def read_series(objects: Iterable[tuple[str, bytes]], limits: Limits | None = None) -> DicomSeries:
    """Read one CT series.

    Args:
        objects: (name, content) of the objects of one series, in any order; names are used for nothing. What is no CT
            image, a localizer, of another series, or of another orientation is set aside. An iterator whose items are
            not kept elsewhere keeps the peak near one volume.
        limits: what the series may cost and must have.

    Returns:
        The volume, int16 HU (float32 where rescaling is fractional), slices in the direction of their normal.

    Raises:
        Rejected: with the reason; `detail` never carries a text of the header.
        RuntimeError: no decoder is installed for a transfer syntax that should be supported.
    """
    limits = limits or Limits()
    images, total, aside = _collect(objects, limits)
    used = _one_series(images)
    slots = [
        _Slot(i, f, frame)
        for i in used
        for f, frame in enumerate(images[i].header.frames)
        if not frame.is_localizer  # of an enhanced object: classic localizers are aside already
    ]
    stack = _stack(images, slots, limits, aside)
    kept = [slots[member] for group in stack.members for member in group]
    for slot in kept:
        _check_rescale(slot.frame)
    shown = sorted({slot.image for slot in kept})
    facts = _facts(images[shown[0]].header, [images[i].header for i in shown], stack, total)
    volume = _decode(images, slots, stack)
    if limits.check_hounsfield:
        check_plausible(volume.hu, volume.padding)
    return DicomSeries(volume, facts)


def read_folder(path: Path | str, limits: Limits | None = None) -> DicomSeries:
    """Read the one CT series among the files of a folder (not of its subfolders).

    Raises:
        Rejected: as `read_series`; EMPTY_OBJECT for a folder without files.
        ValueError: the folder holds several CT series.
        OSError: the folder cannot be read.
    """
    limits = limits or Limits()
    files = sorted(p for p in Path(path).iterdir() if p.is_file())
    series: dict[tuple[str | None, str | None], list[Path]] = {}
    others: list[Path] = []
    for file in files:
        facts = _file_facts(file, limits)
        if facts is not None and facts.is_ct_image and not facts.is_localizer:
            series.setdefault((facts.study_instance_uid, facts.series_instance_uid), []).append(file)
        else:
            others.append(file)
    if len(series) > 1:
        raise ValueError(f"folder holds {len(series)} CT series, expected one")
    # The rest goes along: it is set aside and counted, or says why nothing in the folder can be used.
    chosen = [file for members in series.values() for file in members] + others
    return read_series(((file.name, file.read_bytes()) for file in chosen), limits)


def _file_facts(file: Path, limits: Limits) -> HeaderFacts | None:
    if file.stat().st_size > limits.max_object_bytes:
        raise Rejected(
            Reason.TOO_LARGE, f"file of {file.stat().st_size} bytes, limit {limits.max_object_bytes}"
        )
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            facts = header_facts(head, complete=len(head) == file.stat().st_size)
            if facts is None:
                facts = header_facts(head + stream.read(), complete=True)
    except Rejected:
        return None  # read_series meets it again and decides what it means for the series
    return facts


def _collect(
    objects: Iterable[tuple[str, bytes]], limits: Limits
) -> tuple[list[_Image], int, Counter[Reason]]:
    """CT images with pixels; the number of all objects; why others were set aside. Exact copies are dropped."""
    images: list[_Image] = []
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
            if rejected.reason not in (Reason.EMPTY_OBJECT, Reason.NOT_DICOM):
                raise
            aside[rejected.reason] += 1
            continue
        assert header is not None
        unsuited = _unsuited(header)
        if unsuited is not None:
            aside[unsuited] += 1
            continue
        pixel_bytes += header.pixel_bytes
        held_bytes += len(data)
        if max(pixel_bytes, held_bytes) > limits.max_pixel_bytes:
            raise Rejected(Reason.TOO_LARGE, f"{pixel_bytes} bytes of pixels, limit {limits.max_pixel_bytes}")
        _check_image(header)
        check_format(header, data)
        if _is_copy(header, data, seen):
            held_bytes -= len(data)
            pixel_bytes -= header.pixel_bytes
            continue
        images.append(_Image(header, data))
    if not images:
        raise _nothing_usable(aside)
    return images, total, aside


def _unsuited(header: Header) -> Reason | None:
    """Why an object is no slice of a CT volume, None if it may be one."""
    if (
        header.modality is None
        and header.rows is None
        and not header.has_pixels
        and header.sop_class_uid in CT_CLASSES
    ):
        raise Rejected(Reason.HEADER_TRUNCATED, "a CT object ends before modality and size")
    if not header.is_ct_image:
        return Reason.NOT_CT
    if header.is_localizer:
        return Reason.LOCALIZER
    if (header.samples_per_pixel or 1) != 1:
        return Reason.NO_AXIAL_IMAGES  # a screenshot or a report in colour
    return None


def _check_image(header: Header) -> None:
    missing = [
        name for name in ("rows", "columns", "bits_allocated", "bits_stored") if getattr(header, name) is None
    ]
    if not header.has_pixels:
        if missing:
            raise Rejected(Reason.HEADER_TRUNCATED, f"a CT object ends before {', '.join(missing)}")
        raise Rejected(Reason.NO_PIXEL_DATA, "a CT object without pixels")
    if missing or not header.rows or not header.columns or header.frame_count < 1:
        raise Rejected(
            Reason.MALFORMED, f"a CT object without {', '.join(missing) or 'rows, columns or frames'}"
        )
    if header.sop_class_uid not in MULTI_FRAME_CT and header.frame_count != 1:
        raise Rejected(
            Reason.GEOMETRY_INVALID, f"{header.frame_count} frames in an object that gives one position"
        )
    if len(header.frames) != header.frame_count:
        raise Rejected(
            Reason.GEOMETRY_INVALID,
            f"positions of {len(header.frames)} frames, expected {header.frame_count}",
        )


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
    # Non-images beside a kind of image say nothing; two kinds of image leave only the common answer.
    kinds = [r for r in aside if r not in (Reason.EMPTY_OBJECT, Reason.NOT_DICOM)] or list(aside)
    reason = kinds[0] if len(kinds) == 1 else Reason.NO_AXIAL_IMAGES
    if set(kinds) == {Reason.EMPTY_OBJECT, Reason.NOT_DICOM}:
        reason = Reason.NOT_DICOM
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(aside.items()))
    return Rejected(reason, f"no CT slice among {sum(aside.values())} objects: {counts}")


def _one_series(images: list[_Image]) -> list[int]:
    """Indices of the images of the series that most frames belong to."""
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault((image.header.series_instance_uid, image.header.study_instance_uid), []).append(i)
    if len({series for series, _ in groups}) < len(groups):
        raise Rejected(Reason.UID_COLLISION, "one series UID under several studies")

    def frames(group: list[int]) -> int:
        return sum(images[i].header.frame_count for i in group)

    largest = max(groups.values(), key=frames)
    if len(groups) > 1 and 2 * frames(largest) <= frames(list(range(len(images)))):
        raise Rejected(Reason.UID_COLLISION, f"objects of {len(groups)} series, none the majority")
    return largest


def _stack(images: list[_Image], slots: list[_Slot], limits: Limits, aside: Counter[Reason]) -> Stack:
    if not slots:
        raise Rejected(Reason.LOCALIZER, "every frame is a localizer")
    planes = []
    for slot in slots:
        header, frame = images[slot.image].header, slot.frame
        assert header.rows is not None and header.columns is not None
        planes.append(
            Plane(
                frame.position_xyz_mm,
                frame.orientation,
                frame.row_column_spacing_mm,
                header.rows,
                header.columns,
            )
        )
    try:
        return stack_planes(planes, limits.min_slices, limits.min_extent_mm)
    except Rejected as rejected:
        if rejected.reason is Reason.TOO_FEW_SLICES and aside[Reason.EMPTY_OBJECT]:
            detail = f"{aside[Reason.EMPTY_OBJECT]} empty objects leave too little: {rejected.detail}"
            raise Rejected(Reason.EMPTY_OBJECT, detail) from None
        raise


def _check_rescale(frame: Frame) -> None:
    if frame.slope is None or frame.intercept is None:
        raise Rejected(Reason.RESCALE_MISSING, "a slice without rescale slope and intercept")
    if not (0 < frame.slope <= _MAX_SLOPE and math.fabs(frame.intercept) <= _MAX_INTERCEPT):
        raise Rejected(Reason.RESCALE_INVALID, "rescale slope or intercept is no plausible number")
    if frame.rescale_type in _OTHER_UNITS:
        raise Rejected(Reason.RESCALE_INVALID, "values are rescaled to a unit other than HU")


def _decode(images: list[_Image], slots: list[_Slot], stack: Stack) -> Volume:
    """Decode every frame into its slice, object by object; frames at one position must be equal."""
    places = {member: k for k, group in enumerate(stack.members) for member in group}
    wanted: dict[int, dict[int, tuple[int, Frame]]] = {}
    for member in sorted(places, key=lambda m: places[m]):
        slot = slots[member]
        wanted.setdefault(slot.image, {})[slot.index] = (places[member], slot.frame)
    integral = all(is_integral(slots[member].frame) for member in places)
    hu: NDArray[np.int16] | NDArray[np.float32]
    hu = np.empty(stack.geometry.shape_zyx, np.int16 if integral else np.float32)
    padding: NDArray[np.bool_] | None = None
    filled = np.zeros(len(stack.members), dtype=bool)
    for i, frames in wanted.items():
        image = images[i]
        for index, stored in enumerate(stored_frames(image.header, image.data)):
            if index not in frames:
                continue
            k, frame = frames[index]
            target = np.empty_like(hu[k]) if filled[k] else hu[k]
            mask = write_hu(image.header, frame, stored, target)
            if filled[k]:
                if not np.array_equal(target, hu[k]):
                    raise Rejected(Reason.POSITIONS_DUPLICATED, "two different slices at one position")
                continue
            filled[k] = True
            if mask is not None:
                if padding is None:
                    padding = np.zeros(hu.shape, dtype=bool)
                padding[k] = mask
        image.data = b""
    return Volume(hu, stack.geometry, padding)


def _facts(first: Header, headers: list[Header], stack: Stack, total: int) -> SeriesFacts:
    contrast = [h.has_contrast for h in headers if h.has_contrast is not None]
    slices, rows, columns = stack.geometry.shape_zyx
    frame_positions = len(stack.members)
    return SeriesFacts(
        study_instance_uid=first.study_instance_uid,
        series_instance_uid=first.series_instance_uid,
        modality=first.modality or "CT",
        rows=rows,
        columns=columns,
        slices=slices,
        spacing_mm=stack.geometry.spacing_xyz_mm,
        orientation=orientation_code(stack.geometry),
        manufacturer=first.manufacturer,
        kernel=first.kernel,
        slice_thickness_mm=first.slice_thickness_mm,
        kvp=first.kvp,
        contrast=any(contrast) if contrast else None,
        lossy=any(h.is_lossy for h in headers),
        instances_used=min(len(headers), frame_positions),
        instances_set_aside=total - min(len(headers), frame_positions),
    )
