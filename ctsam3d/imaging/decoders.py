"""Transfer syntaxes that are read, and the decoder each is read with: a UID in, a decoder and its plugin out."""

from __future__ import annotations

from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

NATIVE = frozenset(map(str, (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)))
RLE = str(RLELossless)
JPEG = frozenset(map(str, (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)))
JPEG_LS = frozenset(map(str, (JPEGLSLossless, JPEGLSNearLossless)))
JPEG_2000 = frozenset(map(str, (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)))
SUPPORTED_SYNTAXES = NATIVE | {RLE} | JPEG | JPEG_LS | JPEG_2000
# The plugin to take of those a decoder has. JPEG-LS: pyjpegls is the fastest. RLE: pydicom's own, as the
# compiled one panics on damaged streams with an exception that is no Exception. JPEG: pylibjpeg, as pillow,
# where some other package brings it, knows no lossless JPEG of 12 or 16 bits.
_PLUGINS = ("pyjpegls", "pydicom", "pylibjpeg")


class DecoderMissing(Exception):
    """No decoder is installed for a transfer syntax that is read: a fault of this installation, not of a series."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        super().__init__(f"no decoder is installed for transfer syntax {transfer_syntax_uid}")
        self.transfer_syntax_uid = transfer_syntax_uid


def decoder_for(transfer_syntax_uid: str) -> tuple[Decoder, str]:
    """The decoder of a supported syntax, and the name of the plugin it is to use; empty where it needs none.

    Raises:
        DecoderMissing: none of its plugins is installed.
    """
    decoder = get_decoder(UID(transfer_syntax_uid))
    if not decoder.is_available:
        raise DecoderMissing(transfer_syntax_uid)
    return decoder, next((name for name in _PLUGINS if name in decoder.available_plugins), "")


def check_decoders() -> None:
    """Make sure that every syntax of `SUPPORTED_SYNTAXES` can be read here. Raises DecoderMissing."""
    for transfer_syntax_uid in sorted(SUPPORTED_SYNTAXES):
        decoder_for(transfer_syntax_uid)
