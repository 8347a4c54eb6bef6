"""One DICOM object to its frames as stored, and a stored frame to Hounsfield units and padding."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames

from ctsam3d.imaging.codestream import check_stream
from ctsam3d.imaging.decoders import NATIVE, RLE, SUPPORTED_SYNTAXES, decoder_for
from ctsam3d.imaging.dicom_header import Frame, Header
from ctsam3d.imaging.dicom_parse import encapsulated_end
from ctsam3d.imaging.hounsfield import MAX_HU, UNMEASURED_BELOW_HU, reaching_edge
from ctsam3d.imaging.quiet import quiet
from ctsam3d.imaging.volume import AIR_HU
from ctsam3d.outcome import Reason, Rejected

# These carry stored words as they are, so unused high bits may hold anything.
_RAW_WORDS = NATIVE | {RLE}
_BITS_ALLOCATED = (8, 16, 32)


def check_format(header: Header, data: bytes) -> None:
    """Refuse, from the header and the object's length alone, pixels that cannot be decoded.

    Raises:
        Rejected: TRANSFER_SYNTAX_UNSUPPORTED, PHOTOMETRIC_UNSUPPORTED, MALFORMED, PIXEL_DATA_TRUNCATED.
    """
    if header.transfer_syntax_uid not in SUPPORTED_SYNTAXES:
        raise Rejected(Reason.TRANSFER_SYNTAX_UNSUPPORTED, "transfer syntax is none of those read")
    if header.photometric != "MONOCHROME2":
        raise Rejected(Reason.PHOTOMETRIC_UNSUPPORTED, "photometric interpretation is not MONOCHROME2")
    allocated, stored = header.bits_allocated, header.bits_stored
    if allocated not in _BITS_ALLOCATED or stored is None or not 1 <= stored <= allocated:
        raise Rejected(Reason.MALFORMED, f"{stored} bits stored in {allocated} allocated")
    if header.high_bit is not None and header.high_bit != stored - 1:
        raise Rejected(Reason.MALFORMED, f"high bit {header.high_bit} with {stored} bits stored")
    if header.transfer_syntax_uid in NATIVE:
        there = min(len(data) - header.pixel_offset, header.pixel_length or 0)
        if there < header.pixel_bytes:
            raise Rejected(
                Reason.PIXEL_DATA_TRUNCATED,
                f"{there} bytes of pixels, expected {header.pixel_bytes} from the header",
            )
    elif header.pixel_length is not None:
        raise Rejected(Reason.MALFORMED, "compressed pixels are not encapsulated")
    else:
        encapsulated_end(data, header.pixel_offset)


def stored_frames(header: Header, data: bytes) -> Iterator[NDArray[Any]]:
    """The stored values of each frame, in the object's order: integers (rows, columns).

    Raises:
        Rejected: PIXEL_DECODE for a stream that does not decode to what the header says.
        DecoderMissing: this installation lacks one that should be there.
    """
    decoder, plugin = decoder_for(header.transfer_syntax_uid)
    source: memoryview | io.BytesIO
    streams: Iterator[bytes] | None = None
    if header.transfer_syntax_uid in NATIVE:
        source = memoryview(data)[header.pixel_offset : header.pixel_offset + header.pixel_bytes]
    else:
        source = io.BytesIO(data)
        source.seek(header.pixel_offset)
        streams = _streams(header, data)
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": header.frame_count,
        "samples_per_pixel": 1,
        "photometric_interpretation": header.photometric,
        "pixel_representation": int(header.is_signed),
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OW",
        "correct_unused_bits": False,
    }
    if header.extended_offsets is not None:
        options["extended_offsets"] = header.extended_offsets
    with quiet():
        frames = decoder.iter_array(source, raw=True, decoding_plugin=plugin, **options)
        for index in range(header.frame_count):
            try:
                if streams is not None:
                    _check_stream(header, next(streams))
                array, _ = next(frames)
            except (MemoryError, Rejected):
                raise
            except (
                Exception
            ) as error:  # decoders of several libraries raise what they please, with values in the text
                raise Rejected(
                    Reason.PIXEL_DECODE, f"frame {index} does not decode ({type(error).__name__})"
                ) from None
            if array.shape != (header.rows, header.columns):
                raise Rejected(
                    Reason.PIXEL_DECODE, f"frame {index} decodes to another size than the header's"
                )
            yield array


def _streams(header: Header, data: bytes) -> Iterator[bytes]:
    source = io.BytesIO(data)
    source.seek(header.pixel_offset)
    return generate_frames(
        source, number_of_frames=header.frame_count, extended_offsets=header.extended_offsets
    )


def _check_stream(header: Header, stream: bytes) -> None:
    assert header.rows is not None and header.columns is not None
    frame_bytes = header.pixel_bytes // header.frame_count
    check_stream(stream, header.transfer_syntax_uid, header.rows, header.columns, frame_bytes)


def write_hu(
    header: Header, frame: Frame, stored: NDArray[Any], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """One frame's HU of type int16 or float32, floored at AIR_HU, and its padding, None where it has none.

    Values above 32767 HU saturate. Voxels that hold the padding value are padding, and so is what reaches the
    edge of the picture with values lower than anything measured.
    """
    assert frame.slope is not None and frame.intercept is not None and header.bits_stored is not None
    padding = _declared_padding(header, frame, stored)
    if header.transfer_syntax_uid in _RAW_WORDS:
        stored = _used_bits(stored, header.bits_stored)
    hu: NDArray[Any]
    if dtype == np.int16:
        hu = stored.astype(np.int32 if stored.dtype.itemsize <= 2 else np.int64)
        hu *= int(frame.slope)
        hu += int(frame.intercept)
    else:
        hu = stored * np.float64(frame.slope) + np.float64(frame.intercept)
    unmeasured = hu < UNMEASURED_BELOW_HU
    if unmeasured.any():
        unmeasured = reaching_edge(unmeasured)
        padding = unmeasured if padding is None else padding | unmeasured
    np.clip(hu, AIR_HU, MAX_HU, out=hu)
    if padding is None or not padding.any():
        return hu.astype(dtype), None
    hu[padding] = AIR_HU
    return hu.astype(dtype), padding


def is_integral(frame: Frame) -> bool:
    """Whether rescaling keeps whole numbers whole."""
    assert frame.slope is not None and frame.intercept is not None
    return frame.slope.is_integer() and frame.intercept.is_integer()


def _declared_padding(header: Header, frame: Frame, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the frame holds PixelPaddingValue, or values up to PixelPaddingRangeLimit; None if nowhere."""
    if header.padding_value is None:
        return None
    limit = header.padding_value if header.padding_limit is None else header.padding_limit
    low, high = sorted((header.padding_value, limit))
    assert header.bits_stored is not None and frame.slope is not None and frame.intercept is not None
    hit = (stored >= low) & (stored <= high)
    bound = 1 << (header.bits_stored - int(header.is_signed))
    if -bound * int(header.is_signed) <= low and high < bound:  # fits the bits stored: high bits do not count
        used = _used_bits(stored, header.bits_stored)
        hit |= (used >= low) & (used <= high)
    if not hit.any():
        return None
    # Air in the body may store the very same value: then only what reaches the edge was not measured.
    return reaching_edge(hit) if high * frame.slope + frame.intercept >= AIR_HU else hit


def _used_bits(stored: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    """The stored bits alone, sign extended where the type is signed; unused high bits may hold anything."""
    unused = stored.dtype.itemsize * 8 - bits_stored
    return np.right_shift(np.left_shift(stored, unused), unused) if unused > 0 else stored
