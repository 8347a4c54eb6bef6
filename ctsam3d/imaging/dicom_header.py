"""A parsed DICOM object to its header: identity, pixel format and, for each frame, place and rescaling."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ctsam3d.imaging.dicom_parse import Parsed, parse
from ctsam3d.imaging.quiet import quiet
from ctsam3d.outcome import Reason, Rejected

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
MULTI_FRAME_CT = (ENHANCED_CT, LEGACY_ENHANCED_CT)
CT_CLASSES = (CT_IMAGE, *MULTI_FRAME_CT)
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)+")
_DAY = re.compile(r"[0-9]{8}")
_LOSSY_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of an object. None where the header says nothing, NaN where what it says is no number.

    Attributes:
        position_xyz_mm: centre of the first voxel, LPS+.
        orientation: direction cosines of increasing column, then of increasing row.
        row_column_spacing_mm: distance between rows (along y), then between columns (along x).
        slope, intercept: from stored values to HU.
        rescale_type: unit after rescaling, None where not stated.
        image_type: the values of ImageType or FrameType.
    """

    position_xyz_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    row_column_spacing_mm: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    rescale_type: str | None
    image_type: tuple[str, ...]

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.image_type


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of one object to place and decode it. None where the header says nothing.

    `slice_thickness_mm`, `kvp`, `kernel` and `manufacturer` are facts for the record, used by no computation.
    `study_date` is one too; `patient_id` only keeps the dates of a patient together where they are shifted.
    `is_complete` is False where only the object's beginning was read and what is missing may lie beyond.
    """

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    frame_of_reference_uid: str | None
    sop_class_uid: str | None
    transfer_syntax_uid: str
    study_date: date | None
    patient_id: str | None = field(repr=False)
    modality: str | None
    image_type: tuple[str, ...]
    manufacturer: str | None
    kernel: str | None
    slice_thickness_mm: float | None
    kvp: float | None
    has_contrast: bool | None
    acquisition_number: int | None
    rows: int | None
    columns: int | None
    frame_count: int
    samples_per_pixel: int | None
    photometric: str | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    is_signed: bool
    padding_value: int | None
    padding_limit: int | None
    is_lossy: bool
    frames: tuple[Frame, ...]
    dataset_offset: int
    pixel_offset: int
    pixel_length: int | None
    last_tag: int
    has_pixels: bool
    extended_offsets: tuple[bytes, bytes] | None
    is_complete: bool

    @property
    def is_ct_image(self) -> bool:
        return self.modality == "CT" and self.sop_class_uid in CT_CLASSES

    @property
    def is_localizer(self) -> bool:
        return (
            "LOCALIZER" in self.image_type or bool(self.frames) and all(f.is_localizer for f in self.frames)
        )

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all frames once decoded."""
        samples = self.samples_per_pixel or 1
        return (
            (self.rows or 0)
            * (self.columns or 0)
            * self.frame_count
            * samples
            * ((self.bits_allocated or 8) // 8)
        )


def read_header(data: bytes, complete: bool = True) -> Header | None:
    """The header of one object; None where `data` is too short a beginning to tell anything.

    Raises:
        Rejected: EMPTY_OBJECT, NOT_DICOM, MALFORMED, HEADER_TRUNCATED or TRANSFER_SYNTAX_UNSUPPORTED.
    """
    parsed = parse(data, complete)
    if parsed is None:
        return None
    with quiet():
        try:
            return _header(parsed, complete)
        except (Rejected, MemoryError):
            raise
        except RecursionError:
            raise Rejected(Reason.MALFORMED, "sequences nested too deeply") from None
        except Exception as error:  # values convert on access, and fail in many ways
            raise Rejected(
                Reason.MALFORMED, f"header values cannot be read ({type(error).__name__})"
            ) from None


def _header(parsed: Parsed, complete: bool) -> Header:
    ds = parsed.dataset
    sop_class = _uid(ds, "SOPClassUID") or _checked_uid(parsed.media_sop_class_uid)
    image_type = _texts(ds, "ImageType")
    offsets = None
    if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    is_signed = _integer(ds, "PixelRepresentation") == 1
    bits = _integer(ds, "BitsAllocated")
    contrast: bool | None = None
    if "ContrastBolusAgent" in ds or "ContrastBolusAgentSequence" in ds:
        contrast = bool(_texts(ds, "ContrastBolusAgent")) or bool(_items(ds, "ContrastBolusAgentSequence"))
    return Header(
        study_instance_uid=_uid(ds, "StudyInstanceUID"),
        series_instance_uid=_uid(ds, "SeriesInstanceUID"),
        sop_instance_uid=_uid(ds, "SOPInstanceUID") or _checked_uid(parsed.media_sop_instance_uid),
        frame_of_reference_uid=_uid(ds, "FrameOfReferenceUID"),
        sop_class_uid=sop_class,
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        study_date=_date(ds, "StudyDate"),
        patient_id=_text(ds, "PatientID"),
        modality=_text(ds, "Modality"),
        image_type=image_type,
        manufacturer=_text(ds, "Manufacturer"),
        kernel=_text(ds, "ConvolutionKernel"),
        slice_thickness_mm=_fact(_number(ds, "SliceThickness")),
        kvp=_fact(_number(ds, "KVP")),
        has_contrast=contrast,
        acquisition_number=_integer(ds, "AcquisitionNumber"),
        rows=_integer(ds, "Rows"),
        columns=_integer(ds, "Columns"),
        frame_count=_integer(ds, "NumberOfFrames") or 1,
        samples_per_pixel=_integer(ds, "SamplesPerPixel"),
        photometric=_text(ds, "PhotometricInterpretation"),
        bits_allocated=bits,
        bits_stored=_integer(ds, "BitsStored"),
        high_bit=_integer(ds, "HighBit"),
        is_signed=is_signed,
        padding_value=_stored_value(ds, 0x00280120, bits, is_signed),
        padding_limit=_stored_value(ds, 0x00280121, bits, is_signed),
        is_lossy=_text(ds, "LossyImageCompression") == "01" or parsed.transfer_syntax_uid in _LOSSY_SYNTAXES,
        frames=_frames(ds, sop_class, image_type),
        dataset_offset=parsed.dataset_offset,
        pixel_offset=parsed.pixel_offset,
        pixel_length=parsed.pixel_length,
        last_tag=parsed.last_tag,
        has_pixels=parsed.pixel_tag == _PIXEL_DATA,
        extended_offsets=offsets,
        is_complete=complete or parsed.pixel_tag is not None,
    )


def _frames(ds: Dataset, sop_class: str | None, image_type: tuple[str, ...]) -> tuple[Frame, ...]:
    if sop_class not in MULTI_FRAME_CT:
        return (
            Frame(
                _numbers(ds, "ImagePositionPatient", 3),
                _numbers(ds, "ImageOrientationPatient", 6),
                _numbers(ds, "PixelSpacing", 2),
                _number(ds, "RescaleSlope"),
                _number(ds, "RescaleIntercept"),
                _text(ds, "RescaleType"),
                image_type,
            ),
        )
    shared = next(iter(_items(ds, "SharedFunctionalGroupsSequence")), Dataset())
    frames = []
    for own in _items(ds, "PerFrameFunctionalGroupsSequence"):
        plane = _group(own, shared, "PlaneOrientationSequence")
        rescale = _group(own, shared, "PixelValueTransformationSequence")
        frame_type = _texts(_group(own, shared, "CTImageFrameTypeSequence"), "FrameType")
        frames.append(
            Frame(
                _numbers(_group(own, shared, "PlanePositionSequence"), "ImagePositionPatient", 3),
                _numbers(plane, "ImageOrientationPatient", 6),
                _numbers(_group(own, shared, "PixelMeasuresSequence"), "PixelSpacing", 2),
                _number(rescale, "RescaleSlope"),
                _number(rescale, "RescaleIntercept"),
                _text(rescale, "RescaleType"),
                frame_type or image_type,
            )
        )
    return tuple(frames)


def _group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group's one item: the frame's own, else the shared one, else an empty one."""
    for source in (own, shared):
        for item in _items(source, keyword):
            return item
    return Dataset()


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def _texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    value = ds.get(keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return tuple(str(v).strip() for v in values)


def _text(ds: Dataset, keyword: str) -> str | None:
    return "\\".join(_texts(ds, keyword)) or None


def _date(ds: Dataset, keyword: str) -> date | None:
    """A day; None where absent, or no day."""
    text = _text(ds, keyword) or ""
    if not _DAY.fullmatch(text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` numbers; None where absent or empty, NaN where unreadable or of another count."""
    try:
        value = ds.get(keyword)
        if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
            return None
        values = [
            float(v)
            for v in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])
        ]
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        values = []
    return tuple(values) if len(values) == count else (math.nan,) * count


def _number(ds: Dataset, keyword: str) -> float | None:
    values = _numbers(ds, keyword, 1)
    return values[0] if values else None


def _fact(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _integer(ds: Dataset, keyword: str) -> int | None:
    number = _fact(_number(ds, keyword))
    return int(number) if number is not None else None


def _uid(ds: Dataset, keyword: str) -> str | None:
    return _checked_uid(_text(ds, keyword) or "")


def _checked_uid(text: str) -> str | None:
    """None where blank, as some anonymisers leave it; refused where it is not digits in groups joined by dots."""
    if not text:
        return None
    if not _UID.fullmatch(text):
        raise Rejected(
            Reason.MALFORMED, f"a UID of {len(text)} characters is not digits in groups joined by dots"
        )
    return text


def _stored_value(ds: Dataset, tag: int, bits: int | None, is_signed: bool) -> int | None:
    """A stored value from its raw bytes: its VR (US or SS) is often wrong, PixelRepresentation is not."""
    element = ds.get_item(tag)
    raw = element.value if element is not None else None
    if not isinstance(raw, bytes) or len(raw) < 2 or bits is None:
        return None
    little = bool(getattr(element, "is_little_endian", True))
    width = min(bits, 16) if len(raw) < 4 else bits
    value = int.from_bytes(raw[: 2 if len(raw) < 4 else 4], "little" if little else "big") & (
        (1 << width) - 1
    )
    return value - (1 << width) if is_signed and value >> (width - 1) else value
