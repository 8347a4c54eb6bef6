"""Bytes of one DICOM object, or their beginning, to its parsed header and the place of its pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ctsam3d.imaging.quiet import quiet
from ctsam3d.outcome import Reason, Rejected

_PREAMBLE_BYTES = 132
_PIXEL_ELEMENTS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double float and integer pixels
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_ITEM, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)

HEADER_TAGS: list[int] = [
    0x00080008,  # ImageType
    0x00080016,  # SOPClassUID
    0x00080018,  # SOPInstanceUID
    0x00080020,  # StudyDate
    0x00080060,  # Modality
    0x00080070,  # Manufacturer
    0x00100020,  # PatientID
    0x00180010,  # ContrastBolusAgent
    0x00180012,  # ContrastBolusAgentSequence
    0x00180050,  # SliceThickness
    0x00180060,  # KVP
    0x00181210,  # ConvolutionKernel
    0x0020000D,  # StudyInstanceUID
    0x0020000E,  # SeriesInstanceUID
    0x00200012,  # AcquisitionNumber
    0x00200032,  # ImagePositionPatient
    0x00200037,  # ImageOrientationPatient
    0x00200052,  # FrameOfReferenceUID
    0x00280002,  # SamplesPerPixel
    0x00280004,  # PhotometricInterpretation
    0x00280008,  # NumberOfFrames
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280030,  # PixelSpacing
    0x00280100,  # BitsAllocated
    0x00280101,  # BitsStored
    0x00280102,  # HighBit
    0x00280103,  # PixelRepresentation
    0x00280120,  # PixelPaddingValue
    0x00280121,  # PixelPaddingRangeLimit
    0x00281052,  # RescaleIntercept
    0x00281053,  # RescaleSlope
    0x00281054,  # RescaleType
    0x00282110,  # LossyImageCompression
    0x52009229,  # SharedFunctionalGroupsSequence
    0x52009230,  # PerFrameFunctionalGroupsSequence
    0x7FE00001,  # ExtendedOffsetTable
    0x7FE00002,  # ExtendedOffsetTableLengths
]


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """The header of one object.

    Attributes:
        dataset: the elements of `HEADER_TAGS` that are there.
        transfer_syntax_uid: how the object is encoded.
        media_sop_class_uid, media_sop_instance_uid: from the file meta group; empty where missing.
        dataset_offset: where the data set starts, past the file meta group.
        last_tag: the highest tag met before the parsing ended.
        pixel_tag: the element holding pixels, None where none was met.
        pixel_offset: where the value of that element starts.
        pixel_length: bytes of that value, None if encapsulated (undefined length).
    """

    dataset: Dataset
    transfer_syntax_uid: str
    media_sop_class_uid: str
    media_sop_instance_uid: str
    dataset_offset: int
    last_tag: int
    pixel_tag: int | None
    pixel_offset: int
    pixel_length: int | None


def parse(data: bytes, complete: bool = True) -> Parsed | None:
    """Parse a header without touching pixels.

    Args:
        data: the object, or its first bytes.
        complete: whether `data` is the whole object.

    Returns:
        The header; None where a beginning ends too early, or where the parser cannot go on, to tell anything.

    Raises:
        Rejected: EMPTY_OBJECT, NOT_DICOM, MALFORMED, HEADER_TRUNCATED or TRANSFER_SYNTAX_UNSUPPORTED.
    """
    if not data:
        raise Rejected(Reason.EMPTY_OBJECT, "object of 0 bytes")
    if not complete and len(data) < _PREAMBLE_BYTES:
        return None
    if data[_PREAMBLE_BYTES - 4 : _PREAMBLE_BYTES] != b"DICM":
        raise Rejected(Reason.NOT_DICOM, f"object of {len(data)} bytes has no DICOM preamble")
    # A BytesIO of a bytes object shares its memory, so nothing is copied here.
    stream = io.BytesIO(data)
    with quiet():
        return _parse(stream, data, complete)


def _parse(stream: io.BytesIO, data: bytes, complete: bool) -> Parsed | None:
    stream.seek(_PREAMBLE_BYTES)
    left_meta = False

    def past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal left_meta
        left_meta = tag.group != 2
        return left_meta

    meta = _read(stream, len(data), False, True, past_meta, None, complete)
    if meta is None or not left_meta:
        if complete:
            raise Rejected(
                Reason.HEADER_TRUNCATED, f"object ends at byte {len(data)}, within the file meta group"
            )
        return None
    dataset_offset = stream.tell()
    syntax = _text(meta, 0x00020010)
    if not syntax:
        raise Rejected(Reason.MALFORMED, "file meta group without a transfer syntax")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise Rejected(Reason.TRANSFER_SYNTAX_UNSUPPORTED, "deflated data sets are not read")

    last_tag = 0
    pixel: tuple[int, str | None, int] | None = None

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal last_tag, pixel
        last_tag = max(last_tag, int(tag))
        if tag in _PIXEL_ELEMENTS:
            pixel = (int(tag), vr, length)
        return pixel is not None

    implicit = syntax == ImplicitVRLittleEndian
    dataset = _read(
        stream, len(data), implicit, syntax != ExplicitVRBigEndian, at_pixels, HEADER_TAGS, complete
    )
    if dataset is None:
        return None
    offset, length = len(data), None
    if pixel is not None:
        long_form = pixel[1] is not None and pixel[1] in _LONG_VRS
        offset = stream.tell() + (12 if long_form else 8)
        length = None if pixel[2] == _UNDEFINED_LENGTH else pixel[2]
    return Parsed(
        dataset,
        syntax,
        _text(meta, 0x00020002),
        _text(meta, 0x00020003),
        dataset_offset,
        last_tag,
        pixel[0] if pixel else None,
        offset,
        length,
    )


def _read(
    stream: io.BytesIO,
    size: int,
    implicit: bool,
    little: bool,
    stop_when: object,
    tags: list[int] | None,
    complete: bool,
) -> Dataset | None:
    """The elements up to the stop, or up to where a beginning ends; None if its end defeated the parser."""
    try:
        dataset = read_dataset(
            cast(BinaryIO, stream),
            implicit,
            little,
            stop_when=stop_when,  # type: ignore[arg-type]
            specific_tags=tags,
        )
    except RecursionError:
        raise Rejected(Reason.MALFORMED, "sequences nested too deeply") from None
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises what its parsing runs into, of many types
        if stream.tell() >= size:
            _refuse_cut(size, complete)
            return None
        raise Rejected(Reason.MALFORMED, f"header cannot be parsed ({type(error).__name__})") from None
    short = [tag for tag, element in dataset.items() if _is_short(element)]
    if short or stream.tell() > size:
        _refuse_cut(size, complete)
    for tag in short:  # the last one at most; those before it stand
        del dataset[tag]
    return dataset


def _refuse_cut(size: int, complete: bool) -> None:
    if complete:
        raise Rejected(Reason.HEADER_TRUNCATED, f"object ends at byte {size}, inside a header element")


def _is_short(element: object) -> bool:
    if (
        not isinstance(element, RawDataElement)
        or element.value is None
        or element.length == _UNDEFINED_LENGTH
    ):
        return False
    return len(element.value) < element.length


def _text(dataset: Dataset, tag: int) -> str:
    # else an empty value would be converted at once, by a VR that may be none
    element = dataset.get_item(tag, keep_deferred=True)
    value = element.value if element is not None else None
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def encapsulated_end(data: bytes, offset: int) -> int:
    """Where the encapsulated pixel element that starts at `offset` ends; its fragments are not read.

    Raises:
        Rejected: PIXEL_DATA_TRUNCATED if the object ends first, MALFORMED if something other than fragments
            is met.
    """
    while True:
        head = data[offset : offset + 8]
        if len(head) < 8:
            raise Rejected(
                Reason.PIXEL_DATA_TRUNCATED, f"object ends at byte {len(data)}, between pixel fragments"
            )
        tag = (int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little"))
        if tag == _SEQUENCE_END:
            return offset
        if tag != _ITEM:
            raise Rejected(Reason.MALFORMED, "pixel fragments are not a sequence of items")
        offset += 8 + int.from_bytes(head[4:], "little")
        if offset > len(data):
            raise Rejected(
                Reason.PIXEL_DATA_TRUNCATED, f"object ends at byte {len(data)}, inside a pixel fragment"
            )
