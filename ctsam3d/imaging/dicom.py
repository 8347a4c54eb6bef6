"""One CT series as DICOM objects, in any order, to a volume in Hounsfield units on an LPS+ grid.

1. Every object's header is parsed; what is no CT image of the series is set aside and counted.
2. Places, rescaling and pixel formats are checked from headers: nothing is decoded before all of them stand.
3. Frames are decoded one by one into their place in the volume; an object's bytes are let go once decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.dicom_collect import Collected, Image, Limits, collect
from ctsam3d.imaging.dicom_facts import HeaderFacts, header_facts
from ctsam3d.imaging.dicom_header import MULTI_FRAME_CT, Frame, Header
from ctsam3d.imaging.dicom_pixels import check_format, is_integral, stored_frames, write_hu
from ctsam3d.imaging.even_slices import evened_out
from ctsam3d.imaging.hounsfield import check_plausible
from ctsam3d.imaging.orientation import orientation_code
from ctsam3d.imaging.quiet import quiet
from ctsam3d.imaging.stacking import GeometryFix, Plane, Stack, stack_planes
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Reason, Rejected

__all__ = [
    "DicomSeries",
    "READING_RULES",
    "HeaderFacts",
    "Limits",
    "SeriesFacts",
    "header_facts",
    "read_folder",
    "read_series",
]

_MAX_SLOPE = 100.0
_MAX_INTERCEPT = 32768.0
# Units after rescaling that are not Hounsfield's: densities, atomic numbers, percentages.
_OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
_HEAD_BYTES = 65536
# Version of the rules by which series are read or refused; raised whenever one of them changes a result.
READING_RULES = 3


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What the headers say of a series; None where they say nothing, as after some anonymisers also for UIDs.

    Attributes:
        slices: of the volume; not the frames where these were evened out.
        spacing_mm: distance between neighbouring voxels along x, y, z of the volume, z from positions.
        orientation: where the stored x, y, z axes point, such as "LPS".
        contrast: whether a contrast agent is named; None where no image has a field for it.
        lossy: whether any image was compressed with loss.
        instances_used, instances_set_aside: objects; copies and foreign ones count as set aside.
        geometry_fix: what was dealt with in the geometry, names of `GeometryFix`; empty where nothing had to be.
        frame_slices: for each frame in order along the normal, the volume's slice at its place or nearest to it:
            masks go back to the frames by it. None where slices are the frames.
        frame_of_reference_uid: what positions refer to; a label map of another one does not lie on this image.
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
    geometry_fix: tuple[str, ...] = ()
    frame_slices: tuple[int, ...] | None = None
    frame_of_reference_uid: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DicomSeries:
    """A series read: its volume and the facts of its headers."""

    volume: Volume
    facts: SeriesFacts


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """One frame and the object it is in."""

    image: Image
    index: int
    frame: Frame


def read_series(objects: Iterable[tuple[str, bytes]], limits: Limits | None = None) -> DicomSeries:
    """Read one CT series.

    Args:
        objects: (name, content) of the objects of one series, in any order; names are used for nothing. What
            is no CT image, a localizer, of another series, or of another orientation is set aside. An
            iterator whose items are not kept elsewhere keeps the peak near one volume.
        limits: what the series may cost and must have.

    Returns:
        The volume, int16 HU (float32 where rescaling is fractional), slices in the direction of their normal. Its
        geometry leans where a gantry was tilted; slices of uneven spacing are interpolated to one spacing.

    Raises:
        Rejected: with the reason; `detail` never carries a text of the header.
        DecoderMissing: none is installed for a transfer syntax that should be supported.
    """
    limits = limits or Limits()
    with quiet():  # once around all objects
        return _read_series(objects, limits)


def _read_series(objects: Iterable[tuple[str, bytes]], limits: Limits) -> DicomSeries:
    collected = collect(objects, limits)
    slots = [
        _Slot(image, index, frame)
        for image in collected.images
        for index, frame in enumerate(image.header.frames)
        if not frame.is_localizer  # one frame of an enhanced object; whole localizers are aside already
    ]
    stack = _stack(slots, limits, empty=collected.aside[Reason.EMPTY_OBJECT])
    used: dict[int, Image] = {}
    for member in (member for group in stack.members for member in group):
        _check_rescale(slots[member].frame)
        used[id(slots[member].image)] = slots[member].image
    for image in collected.images:
        if id(image) in used:
            check_format(image.header, image.data)
        else:
            image.data = b""
    _check_evened_size(stack, limits)
    facts = _facts(collected, slots, stack)
    volume = _decode(slots, stack)
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
    series: dict[tuple[str | None, str | None], list[Path]] = {}
    others: list[Path] = []
    for file in sorted(p for p in Path(path).iterdir() if p.is_file()):
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
    size = file.stat().st_size
    if size > limits.max_object_bytes:
        raise Rejected(Reason.TOO_LARGE, f"file of {size} bytes, limit {limits.max_object_bytes}")
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            facts = header_facts(head, complete=len(head) == size)
            if facts is None:
                facts = header_facts(head + stream.read(), complete=True)
    except Rejected:
        return None  # read_series meets it again and decides what it means for the series
    return facts


def _stack(slots: list[_Slot], limits: Limits, empty: int) -> Stack:
    if not slots:
        raise Rejected(Reason.LOCALIZER, "every frame is a localizer")
    planes = []
    for slot in slots:
        header, frame = slot.image.header, slot.frame
        assert header.rows is not None and header.columns is not None
        place = (frame.position_xyz_mm, frame.orientation, frame.row_column_spacing_mm)
        planes.append(Plane(*place, header.rows, header.columns))
    try:
        return stack_planes(planes, limits.min_slices, limits.min_extent_mm)
    except Rejected as rejected:
        if rejected.reason is Reason.TOO_FEW_SLICES and empty:
            detail = f"{empty} empty objects leave too little: {rejected.detail}"
            raise Rejected(Reason.EMPTY_OBJECT, detail) from None
        raise


def _check_rescale(frame: Frame) -> None:
    if frame.slope is None or frame.intercept is None:
        raise Rejected(Reason.RESCALE_MISSING, "a slice without rescale slope and intercept")
    if not (0 < frame.slope <= _MAX_SLOPE and abs(frame.intercept) <= _MAX_INTERCEPT):
        raise Rejected(Reason.RESCALE_INVALID, "rescale slope or intercept is no plausible number")
    if frame.rescale_type in _OTHER_UNITS:
        raise Rejected(Reason.RESCALE_INVALID, "values are rescaled to a unit other than HU")


def _check_evened_size(stack: Stack, limits: Limits) -> None:
    voxels_bytes = 2 * math.prod(stack.geometry.shape_zyx)
    if not stack.is_even and voxels_bytes > limits.max_pixel_bytes:
        raise Rejected(
            Reason.TOO_LARGE, f"{voxels_bytes} bytes once evened out, limit {limits.max_pixel_bytes}"
        )


def _decode(slots: list[_Slot], stack: Stack) -> Volume:
    """Decode every frame into its slice, object by object; frames at one position must be equal."""
    images: dict[int, Image] = {}
    wanted: dict[int, dict[int, tuple[int, Frame]]] = {}
    for k, group in enumerate(stack.members):
        for slot in (slots[member] for member in group):
            images[id(slot.image)] = slot.image
            wanted.setdefault(id(slot.image), {})[slot.index] = (k, slot.frame)
    integral = all(is_integral(frame) for frames in wanted.values() for _, frame in frames.values())
    shape = (len(stack.members), *stack.geometry.shape_zyx[1:])
    hu: NDArray[Any] = np.empty(shape, np.int16 if integral else np.float32)
    padding: NDArray[np.bool_] | None = None
    filled = np.zeros(len(stack.members), dtype=bool)
    for key, frames in wanted.items():
        image = images[key]
        for index, stored in enumerate(stored_frames(image.header, image.data)):
            if index not in frames:
                continue
            k, frame = frames[index]
            values, mask = write_hu(image.header, frame, stored, hu.dtype)
            if filled[k] and not np.array_equal(values, hu[k]):
                raise Rejected(Reason.POSITIONS_DUPLICATED, "two different slices at one position")
            filled[k] = True
            hu[k] = values
            if mask is not None:
                if padding is None:
                    padding = np.zeros(hu.shape, dtype=bool)
                padding[k] = mask
        image.data = b""
    if not stack.is_even:
        count = stack.geometry.shape_zyx[0]
        hu = evened_out(hu, stack.placed, count)
        padding = evened_out(padding, stack.placed, count) if padding is not None else None
    return Volume(hu, stack.geometry, padding)


def _facts(collected: Collected, slots: list[_Slot], stack: Stack) -> SeriesFacts:
    used = {id(slots[group[0]].image): slots[group[0]].image.header for group in stack.members}
    headers = list(used.values())
    first = headers[0]
    contrast = [h.has_contrast for h in headers if h.has_contrast is not None]
    slices, rows, columns = stack.geometry.shape_zyx
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
        instances_used=len(headers),
        instances_set_aside=collected.objects - len(headers),
        geometry_fix=_fixes(headers, stack),
        frame_slices=None if stack.is_even else tuple(int(k) for k in np.rint(stack.placed)),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )


def _fixes(headers: list[Header], stack: Stack) -> tuple[str, ...]:
    is_multi_frame = any(header.sop_class_uid in MULTI_FRAME_CT for header in headers)
    return tuple(str(fix) for fix in (*stack.fixes, *((GeometryFix.MULTI_FRAME,) if is_multi_frame else ())))
