"""What became of a series or a structure: a status, what is remarkable, for refused input a stable reason code."""

from enum import StrEnum


class Status(StrEnum):
    """The one outcome of a series, or of a structure within it."""

    OK = "ok"
    ABSENT = "absent"  # the structure is not in the field of view
    TRUNCATED = "truncated"  # touches the edge of the image: its volume is a lower bound
    COARSE = "coarse"  # refinement was rejected, the localizer's mask is kept
    REJECTED = "rejected"  # the input is unsuitable; the same input is refused again
    FAILED = "failed"  # a fault of the moment (storage, memory), given up after retries
    POISONED = "poisoned"  # killed or timed out whatever worked on it
    LOST = "lost"  # no outcome was ever recorded; found by reconciliation


class Flag(StrEnum):
    """What a reader should know of a structure's row that is otherwise fine. Codes are stable."""

    VOLUME_LOW = "VOLUME_LOW"  # smaller than the whole structure plausibly is in an adult
    VOLUME_HIGH = "VOLUME_HIGH"  # larger than it plausibly is


class Reason(StrEnum):
    """Why an input was refused. Codes are stable: they end up in published tables."""

    EMPTY_OBJECT = "EMPTY_OBJECT"
    NOT_DICOM = "NOT_DICOM"
    HEADER_TRUNCATED = "HEADER_TRUNCATED"
    PIXEL_DATA_TRUNCATED = "PIXEL_DATA_TRUNCATED"
    NO_PIXEL_DATA = "NO_PIXEL_DATA"
    MALFORMED = "MALFORMED"
    TOO_LARGE = "TOO_LARGE"
    PIXEL_DECODE = "PIXEL_DECODE"
    TRANSFER_SYNTAX_UNSUPPORTED = "TRANSFER_SYNTAX_UNSUPPORTED"
    NOT_CT = "NOT_CT"
    LOCALIZER = "LOCALIZER"
    NO_AXIAL_IMAGES = "NO_AXIAL_IMAGES"
    UID_COLLISION = "UID_COLLISION"
    SLICES_MISSING = "SLICES_MISSING"
    POSITIONS_DUPLICATED = "POSITIONS_DUPLICATED"
    SPACING_IRREGULAR = "SPACING_IRREGULAR"
    GANTRY_TILT = "GANTRY_TILT"
    ORIENTATION_MIXED = "ORIENTATION_MIXED"
    SHAPE_MIXED = "SHAPE_MIXED"
    GEOMETRY_INVALID = "GEOMETRY_INVALID"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    RESCALE_MISSING = "RESCALE_MISSING"
    RESCALE_INVALID = "RESCALE_INVALID"
    PHOTOMETRIC_UNSUPPORTED = "PHOTOMETRIC_UNSUPPORTED"
    HU_IMPLAUSIBLE = "HU_IMPLAUSIBLE"
    PROMPTS_INVALID = "PROMPTS_INVALID"  # what was said of the series cannot be used, or is not of it


class Rejected(Exception):
    """An input this system will not guess about.

    `detail` says what was found and what was expected, in numbers and counts; it never carries a DICOM text value.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
