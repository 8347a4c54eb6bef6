"""Discover what a source holds: a Store in, a Manifest out, one row per series, kept or not.

1. Every object is listed, page by page, and its beginning read by threads a bounded way ahead; more of
   it where the header is longer. What neither has the DICOM magic nor is called .dcm is counted, no more.
2. Headers are folded one by one into a tally per (study, series); where an anonymiser blanked the UIDs, the
   folder stands for them. Objects that claim to be DICOM and cannot be read are gathered in one row for each
   folder and reason, so that nothing disappears.
3. Each tally gets its verdict. The manifest is sorted: the same source gives the same bytes.

Memory: about 35 bytes an object (key, size, ETag), whatever the objects weigh, and 2 KB a series.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ctsam3d.imaging.dicom import Limits
from ctsam3d.imaging.dicom_header import Header, read_header
from ctsam3d.imaging.quiet import quiet
from ctsam3d.outcome import Reason, Rejected, Status
from pipelines import identity
from pipelines.manifest import Manifest, SeriesRef
from pipelines.object_lists import ObjectLists
from pipelines.prefetch import prefetch
from pipelines.pseudonyms import Pseudonyms
from pipelines.store import InvalidLocation, NotFound, ObjectInfo, Store, check_key
from pipelines.texts import plain

_THREADS = 16
_BEGINNING_BYTES = (1 << 16, 1 << 20, 1 << 24)
_MAGIC = slice(128, 132)
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR: an index, not an image
_PAST_IDENTITY, _PAST_FACTS = (
    0x00210000,
    0x00290000,
)  # tags past which nothing is asked of any object, of a CT

# StudyInstanceUID, SeriesInstanceUID, and the folder of objects without the latter.
_Identity = tuple[str | None, str | None, str]
_Unreadable = tuple[str, Reason]  # in this folder, for this reason


class EmptySource(Exception):
    """A source without a single DICOM object. The message is one line for people."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """A manifest, and what was passed over to make it.

    Attributes:
        manifest: every series found.
        listed: objects in the source.
        skipped: objects that are not DICOM and do not claim to be.
        bytes_read: of the objects' beginnings.
    """

    manifest: Manifest
    listed: int
    skipped: int
    bytes_read: int


@quiet()  # once around all headers: to enter and leave it for each costs a quarter of their parsing
def discover(
    source: Store,
    limits: Limits | None = None,
    threads: int = _THREADS,
    pseudonyms: Pseudonyms | None = None,
) -> Discovery:
    """List a source and judge every series by its headers.

    With `pseudonyms` the manifest has these instead of UIDs and dates; its object keys are still the source's.

    Raises:
        EmptySource: nothing in it is DICOM.
        StoreError: the source cannot be listed or read.
    """
    limits = limits or Limits()
    found: dict[_Identity, _Tally] = {}
    unreadable: Counter[_Unreadable] = Counter()
    objects: ObjectLists[_Identity | _Unreadable] = ObjectLists()
    listed = skipped = bytes_read = 0

    def unread(entry: ObjectInfo, reason: Reason) -> None:
        where = (_folder_of(entry), reason)
        unreadable[where] += 1
        objects.add(where, entry)

    beginnings = prefetch(lambda entry: _begin(source, entry), source.list(), threads, 8 * threads)
    for entry, beginning in beginnings:
        listed += 1
        if beginning is None and not _is_addressable(entry):  # it may be a slice: not to be passed over
            unread(entry, Reason.MALFORMED)
            continue
        if beginning is None or not _claims_dicom(entry, beginning):
            skipped += 1
            continue
        try:
            header, length = _header(source, entry, beginning)
        except Rejected as refusal:
            bytes_read += len(beginning)
            unread(entry, refusal.reason)
            continue
        bytes_read += length
        if header.sop_class_uid == _MEDIA_DIRECTORY:
            skipped += 1
            continue
        uid = header.series_instance_uid
        series = (header.study_instance_uid, uid, "" if uid else _folder_of(entry))
        found.setdefault(series, _Tally()).add(entry, header)
        objects.add(series, entry)
    if not found and not unreadable:
        raise EmptySource(f"{source.uri}: no DICOM objects found ({listed} objects looked at)")
    rows: list[tuple[SeriesRef, _Identity | _Unreadable]] = [
        (_series(series, tally, limits, pseudonyms), series) for series, tally in found.items()
    ]
    rows += [(_unreadable(*where, count, pseudonyms), where) for where, count in unreadable.items()]
    del found
    rows.sort(key=lambda row: row[0].series_key)
    manifest = Manifest.of(replace(ref, objects=objects.take(name)) for ref, name in rows)
    return Discovery(manifest, listed, skipped, bytes_read)


def _begin(source: Store, entry: ObjectInfo) -> tuple[ObjectInfo, bytes | None]:
    """The object's first bytes; None where it is gone since it was listed, or its key is unfit."""
    if entry.size == 0:
        return entry, b""
    try:
        return entry, source.get_range(entry.key, 0, min(entry.size, _BEGINNING_BYTES[0]))
    except (NotFound, InvalidLocation):
        return entry, None


def _is_addressable(entry: ObjectInfo) -> bool:
    try:
        return bool(check_key(entry.key))
    except InvalidLocation:
        return False


def _folder_of(entry: ObjectInfo) -> str:
    return entry.key.rpartition("/")[0]


def _claims_dicom(entry: ObjectInfo, beginning: bytes) -> bool:
    name = entry.key.rpartition("/")[2].lower()
    return beginning[_MAGIC] == b"DICM" or name.endswith(".dcm")


def _header(source: Store, entry: ObjectInfo, beginning: bytes) -> tuple[Header, int]:
    """The object's header, and the bytes it took. Raises Rejected where there is none to be had."""
    data = beginning
    for length in (*_BEGINNING_BYTES[1:], 0):
        header = read_header(data, complete=len(data) >= entry.size)
        if header is not None and (header.is_complete or _is_enough(header)):
            break
        if not length:
            raise Rejected(Reason.TOO_LARGE, f"a header longer than {len(data)} bytes")
        data += source.get_range(entry.key, len(data), min(entry.size, length) - len(data))
    assert header is not None
    uids = (header.study_instance_uid, header.series_instance_uid)
    if not all(uid is None or identity.is_uid(uid) for uid in uids):
        raise Rejected(Reason.MALFORMED, "a UID that is not digits in groups joined by dots")
    if (
        header.series_instance_uid is None
        and header.rows is None
        and header.sop_class_uid != _MEDIA_DIRECTORY
    ):
        raise Rejected(Reason.HEADER_TRUNCATED, "neither a SeriesInstanceUID nor a size of the image")
    return header, len(data)


def _is_enough(header: Header) -> bool:
    """Whether a header that was cut short already tells all that discovery asks."""
    return header.last_tag >= (_PAST_FACTS if header.modality == "CT" else _PAST_IDENTITY)


@dataclass(slots=True)
class _Tally:
    """What is known of one series while its objects go by, in any order."""

    objects: int = 0
    largest_bytes: int = 0
    ct_objects: int = 0
    localizers: int = 0
    without_pixels: int = 0
    images: int = 0
    pixel_bytes: int = 0
    lossy: bool = False
    facts_rank: tuple[bool, str] = (True, "")
    facts: Header | None = None

    def add(self, entry: ObjectInfo, header: Header) -> None:
        self.objects += 1
        self.largest_bytes = max(self.largest_bytes, entry.size)
        is_image = False
        if header.modality == "CT":
            self.ct_objects += 1
            if header.is_localizer:
                self.localizers += 1
            elif header.is_ct_image and header.is_complete and not header.has_pixels:
                self.without_pixels += 1
            elif header.is_ct_image:
                is_image = True
                self.images += max(header.frame_count, 1)
                self.pixel_bytes += header.pixel_bytes
                self.lossy = self.lossy or header.is_lossy
        # The facts of a series are those of its first image by key, or of its first object.
        rank = (not is_image, entry.key)
        if self.facts is None or rank < self.facts_rank:
            self.facts, self.facts_rank = header, rank

    def verdict(self, limits: Limits) -> tuple[Reason, str] | None:
        """Why the series is not to be processed; None where it is."""
        count = self.objects
        if not self.ct_objects:
            return Reason.NOT_CT, f"{count} objects, none of modality CT"
        if not self.images and self.localizers:
            return Reason.LOCALIZER, f"{count} objects, {self.localizers} localizers and no other image"
        if not self.images and self.without_pixels:
            return Reason.NO_PIXEL_DATA, f"{self.without_pixels} CT images without pixels"
        if not self.images:
            return Reason.NO_AXIAL_IMAGES, f"{count} objects, none of them a CT image"
        if self.largest_bytes > limits.max_object_bytes:
            return (
                Reason.TOO_LARGE,
                f"an object of {self.largest_bytes} bytes, at most {limits.max_object_bytes}",
            )
        if self.pixel_bytes > limits.max_pixel_bytes:
            return Reason.TOO_LARGE, f"{self.pixel_bytes} bytes of pixels, at most {limits.max_pixel_bytes}"
        if self.images < limits.min_slices:
            return Reason.TOO_FEW_SLICES, f"{self.images} slices, at least {limits.min_slices} expected"
        return None


def _series(series: _Identity, tally: _Tally, limits: Limits, pseudonyms: Pseudonyms | None) -> SeriesRef:
    verdict = tally.verdict(limits)
    reason, detail = verdict if verdict else (None, None)
    facts = tally.facts
    assert facts is not None
    study_uid, series_uid, folder = series
    study_date = facts.study_date
    if pseudonyms:
        study_date = pseudonyms.day(study_date, facts.patient_id or study_uid or "")
        study_uid, series_uid = pseudonyms.uid(study_uid), pseudonyms.uid(series_uid)
        folder = folder and pseudonyms.text("folder", folder)
    return SeriesRef(
        series_key=identity.series_key(study_uid or "", series_uid or "", *([folder] if folder else [])),
        study_instance_uid=study_uid,
        series_instance_uid=series_uid,
        study_date=study_date,
        status=Status.REJECTED if reason else Status.OK,
        objects=(),
        reason=str(reason) if reason else None,
        detail=detail,
        image_count=tally.images,
        modality=plain(facts.modality),
        rows=facts.rows,
        columns=facts.columns,
        manufacturer=plain(facts.manufacturer),
        kernel=plain(facts.kernel),
        slice_thickness=facts.slice_thickness_mm,
        kvp=facts.kvp,
        contrast=facts.has_contrast,
        lossy=tally.lossy if tally.images else None,
    )


def _unreadable(folder: str, reason: Reason, count: int, pseudonyms: Pseudonyms | None) -> SeriesRef:
    if pseudonyms:
        folder = pseudonyms.text("folder", folder)
    return SeriesRef(
        series_key=identity.series_key("unreadable", folder, reason),
        study_instance_uid=None,
        series_instance_uid=None,
        status=Status.REJECTED,
        objects=(),
        reason=str(reason),
        detail=f"{count} objects of one folder",
    )
