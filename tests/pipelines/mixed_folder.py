"""A folder as it comes from an archive: a place in; CT among everything else written there, and what is to be said of
each series, out."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from tests.builders import CANARIES, ct_series, phantom_hu
from tests.faults.outcome import Objects, renamed, setting, together, without

CORPUS = Path(pydicom.__file__).parent / "data" / "test_files"
# What pydicom's corpus holds of CT, by where it lies; every other series in it is of another modality.
_CT_OF_CORPUS = {
    "CT_small.dcm": "TOO_FEW_SLICES",
    "693_J2KI.dcm": "TOO_FEW_SLICES",
    "J2K_pixelrep_mismatch.dcm": "TOO_FEW_SLICES",
    "77654033/CT2": "SLICES_MISSING",  # four of what were hundreds
    "98892001/CT5N": "TOO_FEW_SLICES",
    "98892001/CT2N": "LOCALIZER",
    "TINY_ALPHA": "NO_PIXEL_DATA",
}
_MALFORMED, _DEFLATED = "meta_missing_tsyntax.dcm", "image_dfl.dcm"
PET_IMAGE, MR_IMAGE, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("128", "4", "7"))
THREE_MM = {"n": 16, "spacing_xyz_mm": (4.0, 4.5, 9.0)}


@dataclass
class Mixed:
    """A folder, and what a run must say of it.

    Attributes:
        reasons: SeriesInstanceUID -> the reason it is refused for; None where it is read.
        nameless: reasons of the rows without a UID: the unreadable objects of one folder, by what is wrong with them;
            and series whose UIDs an anonymiser left blank.
    """

    folder: Path
    reasons: dict[str, str | None] = field(default_factory=dict)
    nameless: Counter[str | None] = field(default_factory=Counter)

    def add(self, name: str, reason: str | None, objects: Objects) -> None:
        """A series of the builders in a folder of its own."""
        place = self.folder / name
        place.mkdir(parents=True)
        for file, data in objects:
            (place / file).write_bytes(data)
        readable = [data for _, data in objects if data[128:132] == b"DICM"]
        self.reasons[str(dcmread(io.BytesIO(readable[0])).SeriesInstanceUID)] = reason

    def add_unreadable(self, name: str, reason: str, data: bytes) -> None:
        """One object that belongs to no series, in a folder of its own."""
        place = self.folder / name
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
        self.nameless[reason] += 1


def mixed_folder(folder: Path) -> Mixed:
    """CT of every sort, sound and faulty, among other modalities, from the builders and pydicom's corpus."""
    mixed = Mixed(folder)
    _add_sound(mixed)
    _add_faulty(mixed)
    _add_other_modalities(mixed)
    _add_foreign(mixed)
    _add_corpus(mixed)
    return mixed


def add_real(mixed: Mixed, data: Path) -> None:
    """The real series of `data`, whole and damaged."""
    for place in sorted((data / "dicom").iterdir()):
        if place.is_dir():
            _copy(mixed, f"real/{place.name}", None, place)
    tilted = data / "quirks" / "philips_head_phantom_tilt"
    _copy(mixed, "real/tilted", None, tilted)
    for place in sorted((data / "quirks" / "legacy_converted_enhanced_ct").glob("*/*")):
        _copy(mixed, f"real/{place.parent.name}/{place.name}", "TOO_FEW_SLICES", place)
    blank = data / "dicom" / "totalseg_example"
    _copy(mixed, "real/lacks a slice", "SLICES_MISSING", blank)
    _copy(mixed, "real/came in half", "PIXEL_DATA_TRUNCATED", blank)
    files = sorted((mixed.folder / "real" / "lacks a slice").iterdir())
    files[len(files) // 2].unlink()
    half = sorted((mixed.folder / "real" / "came in half").iterdir())[3]
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])


def _copy(mixed: Mixed, name: str, reason: str | None, place: Path) -> None:
    shutil.copytree(place, mixed.folder / name)
    for file in place.iterdir():
        if file.read_bytes()[128:132] == b"DICM":
            header = dcmread(file, stop_before_pixels=True)
            if header.Modality != "CT":  # label maps of the series beside them
                reason = "NOT_CT"
            if header.SeriesInstanceUID:
                mixed.reasons[str(header.SeriesInstanceUID)] = reason
            else:
                mixed.nameless[reason] += 1
            return


def _add_sound(mixed: Mixed) -> None:
    mixed.add("ct/plain", None, ct_series(seed=1, **THREE_MM))
    mixed.add("ct/with scout", None, ct_series(seed=2, localizer=True, shuffle=1, **THREE_MM))
    mixed.add("ct/enhanced", None, ct_series(seed=3, multi_frame=True, syntax="jpeg_ls", **THREE_MM))
    mixed.add("ct/tilted", None, ct_series(seed=4, tilt_deg=12.0, syntax="jpeg_2000", **THREE_MM))
    mixed.add("ct/lossless JPEG", None, ct_series(seed=5, syntax="jpeg_lossless", **THREE_MM))
    twice = [*ct_series(seed=6, **THREE_MM), *((f"copy-{n}", d) for n, d in ct_series(seed=6, **THREE_MM))]
    mixed.add("ct/sent twice", None, twice)
    capture = ct_series(seed=7, n=1, edit=together(renamed("1.2.71"), setting("SOPClassUID", CAPTURE)))
    report = ct_series(seed=7, n=1, edit=together(renamed("1.2.72"), _in_colour))
    extras = [(f"{i}-{name}", data) for i, (name, data) in enumerate([*capture, *report])]
    mixed.add("ct/with captures", None, [*ct_series(seed=7, **THREE_MM), *extras])


def _add_faulty(mixed: Mixed) -> None:
    mixed.add("bad/slice missing", "SLICES_MISSING", ct_series(seed=11, drop=(5,), **THREE_MM))
    mixed.add("bad/cut", "PIXEL_DATA_TRUNCATED", _cut(ct_series(seed=12, **THREE_MM), 0.7))
    mixed.add(
        "bad/cut stream", "PIXEL_DATA_TRUNCATED", _cut(ct_series(seed=13, syntax="rle", **THREE_MM), 0.7)
    )
    objects = ct_series(seed=14, **THREE_MM)
    mixed.add("bad/header cut", "SLICES_MISSING", _cut(objects, 400 / len(objects[0][1])))
    mixed.nameless["HEADER_TRUNCATED"] += 1  # too little is left of it to say whose it is
    mixed.add("bad/two slices", "TOO_FEW_SLICES", ct_series(seed=15, n=2))
    mixed.add("bad/scouts", "LOCALIZER", ct_series(seed=16, n=2, edit=_scout))
    mixed.add(
        "bad/captures", "NO_AXIAL_IMAGES", ct_series(seed=17, n=3, edit=setting("SOPClassUID", CAPTURE))
    )
    blank = ct_series(seed=18, edit=without("PixelData"), **THREE_MM)
    mixed.add("bad/no pixels", "NO_PIXEL_DATA", blank)
    unscaled = ct_series(seed=19, edit=without("RescaleSlope", "RescaleIntercept"), **THREE_MM)
    mixed.add("bad/no rescaling", "RESCALE_MISSING", unscaled)
    late = ct_series(seed=20, image_hu=phantom_hu((16, 40, 48), 21), edit=renamed("1.2.73"), **THREE_MM)
    phases = [*ct_series(seed=20, **THREE_MM), *((f"late-{name}", data) for name, data in late)]
    mixed.add("bad/two phases", "POSITIONS_DUPLICATED", phases)


def _add_other_modalities(mixed: Mixed) -> None:
    for number, (modality, sop_class) in enumerate((("PT", PET_IMAGE), ("MR", MR_IMAGE)), 31):
        edit = together(setting("Modality", modality), setting("SOPClassUID", sop_class))
        mixed.add(f"other/{modality}", "NOT_CT", ct_series(seed=number, edit=edit, **THREE_MM))

    def contours(ds: Dataset, i: int) -> None:
        ds.Modality, ds.SOPClassUID = "RTSTRUCT", RTStructureSetStorage
        ds.StructureSetLabel = CANARIES["PatientName"]
        for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
            del ds[keyword]

    mixed.add("other/RTSTRUCT", "NOT_CT", ct_series(seed=33, n=1, edit=contours))


def _add_foreign(mixed: Mixed) -> None:
    mixed.add_unreadable("foreign/page.dcm", "NOT_DICOM", b"<html>404</html>" * 50)
    mixed.add_unreadable("foreign/empty/a.dcm", "EMPTY_OBJECT", b"")
    with zipfile.ZipFile(mixed.folder / "export.zip", "w") as archive:
        archive.writestr("LICENSE.txt", "words")
    (mixed.folder / "LICENSE.txt").write_text("words")
    (mixed.folder / "Thumbs.db").write_bytes(bytes(1000))


def _add_corpus(mixed: Mixed) -> None:
    """All of pydicom's corpus; what it is, pydicom says itself."""
    shutil.copytree(CORPUS, mixed.folder / "corpus")
    unreadable: set[str] = set()
    for file in sorted(CORPUS.rglob("*")):
        if file.is_dir() or file.name.startswith("DICOMDIR"):
            continue
        if file.read_bytes()[128:132] != b"DICM":
            unreadable |= {"NOT_DICOM"} if file.suffix == ".dcm" else set()
            continue
        if file.name in (_MALFORMED, _DEFLATED):
            unreadable.add("MALFORMED" if file.name == _MALFORMED else "TRANSFER_SYNTAX_UNSUPPORTED")
            continue
        ds = dcmread(file, stop_before_pixels=True, force=False)
        if "SeriesInstanceUID" not in ds and "Rows" not in ds:
            unreadable.add("HEADER_TRUNCATED")
            continue
        place = file.relative_to(CORPUS).as_posix()
        reason = next((reason for part, reason in _CT_OF_CORPUS.items() if part in place), "NOT_CT")
        assert (reason == "NOT_CT") == (ds.get("Modality") != "CT"), place
        uid = ds.get("SeriesInstanceUID")
        if uid:
            mixed.reasons[str(uid)] = reason
        else:
            unreadable.add(f"{reason} {ds.get('StudyInstanceUID')}")
    mixed.nameless.update(entry.split()[0] for entry in unreadable)


def _in_colour(ds: Dataset, i: int) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PixelData = ds.PixelData * 3


def _scout(ds: Dataset, i: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def _cut(objects: Objects, share: float) -> Objects:
    """The series with an object from its middle cut short."""
    at = len(objects) // 2
    name, data = objects[at]
    return [*objects[:at], (name, data[: int(share * len(data))]), *objects[at + 1 :]]
