"""A cohort in which everything is wrong that can be: a store in, series of every kind written to it, out."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from ctsam3d.imaging.dicom_parse import HEADER_TAGS
from pipelines.store import Store
from tests.faults.cohort import series, write_series
from tests.faults.outcome import Objects, setting, together, without
from tests.faults.troubled import Part

# Trouble for the process that segments: numbers of series.
FINE = 0
PARTS: dict[int, str] = {
    2: Part.KILL,
    3: Part.EXIT,
    4: Part.RAISE,
    5: Part.DEVICE_FULL,
    6: Part.EAT,
    8: Part.LEAVE,
}
ONCE: dict[int, str] = {1: Part.KILL, 7: Part.DEVICE_LOST}
MAX_ATTEMPTS = 2
DEATHS = 2 * MAX_ATTEMPTS + MAX_ATTEMPTS + 2  # of 2 and 3, of 6, of 1 and 7
CONFIG = {
    "limits": {"min_extent_mm": 0.0, "check_hounsfield": False},
    # one replica, so that its starts can be counted
    "resources": {"replicas": 1, "max_attempts": MAX_ATTEMPTS, "series_memory_bytes": 900 << 20},
}

T = TypeVar("T")

# A canary: no text with this in it may come out of anything.
MARK = "CANARY"
CANARY_DATE = "19010203"
_TEXT_VRS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR")
_ALLOWED = frozenset({*HEADER_TAGS, 0x00080005}) - {0x00100020}  # the character set is no text


def canaries_everywhere(ds: Dataset, i: int) -> None:
    """A canary in every text element of the dictionary that is not read, in a private and in a nested one."""
    for tag, (vr, *_) in DicomDictionary.items():
        group = tag >> 16
        if tag not in _ALLOWED and vr in _TEXT_VRS and 0x0008 <= group < 0x5000 and keyword_for_tag(tag):
            ds.add_new(tag, vr, f"{MARK}{tag:08X}")
        if vr == "DA" and tag not in _ALLOWED and group >= 0x0008:
            ds.add_new(tag, vr, CANARY_DATE)
    ds.add_new(0x00091001, "UN", MARK.encode() + b"PRIVATE ")
    nested = Dataset()
    nested.PatientName = f"{MARK}^NESTED"
    ds.add_new(0x00081140, "SQ", [nested])


def _bad_uid(ds: Dataset, i: int) -> None:
    ds.SeriesInstanceUID = f"../{MARK}.1.2"


# What an edit of the headers makes of a sound series, for cohorts that need it by the number.
REFUSED_BY_EDIT: dict[str, tuple[str, dict[str, Any]]] = {
    "gap": ("SLICES_MISSING", {"drop": (2,)}),
    "other": (
        "NOT_CT",
        {"edit": together(setting("Modality", "MR"), setting("SOPClassUID", MRImageStorage))},
    ),
    "huge": ("TOO_LARGE", {"edit": together(setting("Rows", 65535), setting("Columns", 65535))}),
    "scaleless": ("RESCALE_MISSING", {"edit": without("RescaleSlope", "RescaleIntercept")}),
    "few": ("TOO_FEW_SLICES", {"drop": (0, 1, 2)}),
}


def _edited(name: str, number: int) -> tuple[str, Callable[[], Objects]]:
    reason, knobs = REFUSED_BY_EDIT[name]
    return reason, lambda: series(number, **knobs)


# What is refused: name of a folder -> its reason, and its objects.
REFUSED = {
    "gap": _edited("gap", 20),
    "cut-pixels": ("PIXEL_DATA_TRUNCATED", lambda: _cut(21, -100)),
    "cut-header": ("HEADER_TRUNCATED", lambda: _cut(22, 420)),
    "other": _edited("other", 25),
    "bad-uid": ("MALFORMED", lambda: series(26, edit=_bad_uid)),
    "huge": _edited("huge", 27),
    "codec": ("PIXEL_DECODE", lambda: _garbled(28)),
}
EVERYWHERE = 24


def fill(store: Store) -> None:
    """Write everything."""
    quietly(lambda: _fill(store))


def quietly(make: Callable[[], T]) -> T:
    """What is made, without warnings of values that are not as the standard has them."""
    with warnings.catch_warnings(action="ignore"):
        return make()


def _fill(store: Store) -> None:
    for number in sorted({FINE, *PARTS, *ONCE}):
        who, when = setting("PatientID", f"{MARK}{number}"), setting("StudyDate", "20240105")
        write_series(store, number, edit=together(who, when))
    write_series(store, EVERYWHERE, edit=canaries_everywhere)
    for folder, (_, objects) in REFUSED.items():
        for name, data in objects():
            store.put(f"{folder}/{name}", data)
    store.put("report.dcm", b"<html>" + MARK.encode() * 100)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.dcm", MARK)
    store.put("archive.zip", packed.getvalue())


def _cut(number: int, at: int) -> Objects:
    return [(name, data[:at]) for name, data in series(number)]


def _garbled(number: int) -> Objects:
    random = np.random.default_rng(number)
    objects = series(number, syntax="jpeg_ls")
    return [(name, data[:-70] + random.bytes(60) + data[-10:]) for name, data in objects]
