"""The first bytes of a DICOM object to the facts that sort it into a series."""

from __future__ import annotations

from dataclasses import dataclass

from ctsam3d.imaging.dicom_header import CT_CLASSES, MULTI_FRAME_CT, Header, read_header

# Every fact of a single-frame object lies before this tag; past it, large private groups may follow.
_PAST_FACTS = 0x00290000


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What discovery needs of one object; None where the header says nothing.

    Texts (`manufacturer`, `kernel`) are equipment facts; nothing about the person is read.

    Attributes:
        is_ct_image: a CT image by modality and SOP class.
        is_localizer: a scout, by ImageType or FrameType.
        frames: number of frames; 1 for a single-frame object.
        position_xyz_mm, orientation: of the first frame, LPS+; direction cosines of rows' and columns'
            directions.
    """

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sop_class_uid: str | None
    transfer_syntax_uid: str
    modality: str | None
    is_ct_image: bool
    is_localizer: bool
    rows: int | None
    columns: int | None
    frames: int
    position_xyz_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    manufacturer: str | None
    kernel: str | None
    slice_thickness_mm: float | None
    kvp: float | None
    has_contrast: bool | None
    acquisition_number: int | None


def header_facts(data: bytes, complete: bool = False) -> HeaderFacts | None:
    """The facts in the beginning of one object.

    Args:
        data: the object's first bytes, 64 KiB being enough for nearly all, or all of them.
        complete: whether `data` is the whole object, so that what is missing is missing.

    Returns:
        The facts; None where they continue past `data`: ask for more bytes.

    Raises:
        Rejected: EMPTY_OBJECT, NOT_DICOM, MALFORMED, TRANSFER_SYNTAX_UNSUPPORTED; HEADER_TRUNCATED if
            `complete`.
    """
    header = read_header(data, complete)
    if header is None or not (header.is_complete or _has_all_facts(header)):
        return None
    first = header.frames[0] if header.frames else None
    return HeaderFacts(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        modality=header.modality,
        is_ct_image=header.modality == "CT" and header.sop_class_uid in CT_CLASSES,
        is_localizer=header.is_localizer,
        rows=header.rows,
        columns=header.columns,
        frames=header.frame_count,
        position_xyz_mm=first.position_xyz_mm if first else None,
        orientation=first.orientation if first else None,
        manufacturer=header.manufacturer,
        kernel=header.kernel,
        slice_thickness_mm=header.slice_thickness_mm,
        kvp=header.kvp,
        has_contrast=header.has_contrast,
        acquisition_number=header.acquisition_number,
    )


def _has_all_facts(header: Header) -> bool:
    return header.last_tag >= _PAST_FACTS and header.sop_class_uid not in MULTI_FRAME_CT
