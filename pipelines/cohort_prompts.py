"""Prompts for a cohort: an address in; for each series that somebody said something of, what was said, out.

A file, JSON or Parquet, holds clicks of any number of series. A folder or prefix holds label maps, each named after
its series: `<SeriesInstanceUID>.nii.gz`, `.nii` or `.dcm`. Names of NIfTI labels are in `<SeriesInstanceUID>.json`,
else in `labels.json` for all of them, else in the file's own header. No key is made of a UID: what is there is listed,
and what has the form of a UID is compared with those of the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ctsam3d.anatomy.catalogue import CATALOGUE, named, simplified
from ctsam3d.anatomy.localized import BACKGROUND, classes_of
from ctsam3d.imaging.label_maps import MAX_JSON_BYTES, names_of
from ctsam3d.prompting.clicks import MAX_BYTES, clicks_by_series
from ctsam3d.prompting.prompt import PromptError
from pipelines.faults import Aborted, UsageError
from pipelines.identity import is_uid
from pipelines.pseudonyms import Pseudonyms
from pipelines.series_prompts import SeriesPrompts
from pipelines.store import NotFound, ObjectInfo, Store, StoreError, Throttled, open_store
from pipelines.store_address import is_s3, local_path, without_slash

_SHARED_NAMES = "labels.json"
_MAP = re.compile(r"([0-9.]+)(\.nii\.gz|\.nii|\.dcm)")
_NIFTI = (".nii.gz", ".nii")
_MAX_CLICKS = 1000  # of one series: each costs a cube, and all of them travel with it


@dataclass(frozen=True, slots=True)
class CohortPrompts:
    """What was said of series.

    Attributes:
        address: where it was read, for messages.
        by_series: by SeriesInstanceUID.
        clicked: names that clicks are of, in the order of the catalogue; none of label maps, which are not read yet.
        store: where label maps lie; None of clicks, which are in hand.
    """

    address: str
    by_series: Mapping[str, SeriesPrompts] = field(repr=False)
    clicked: tuple[str, ...] = ()
    store: Store | None = None

    @property
    def nameable(self) -> tuple[str, ...]:
        """Structures that may be asked for because of these prompts: of a label map anything may be expected."""
        return self.clicked if self.store is None else tuple(CATALOGUE)

    def renamed(self, pseudonyms: Pseudonyms) -> CohortPrompts:
        """The same by the pseudonyms of the series."""
        renamed = {pseudonyms.uid(uid) or "": prompts for uid, prompts in self.by_series.items()}
        return replace(self, by_series=renamed)


def read_cohort_prompts(address: str, endpoint_url: str | None = None) -> CohortPrompts:
    """Read a file of clicks, or list the label maps of a folder.

    Args:
        address: a path, file:// or s3://; of an object, or of a folder.
        endpoint_url: as `open_store`.

    Raises:
        UsageError: nothing there, refused credentials, clicks that cannot be read or do not say of which series they
            are, a structure that the catalogue does not have, names of labels that cannot be read.
        Aborted: a store that asks for fewer requests; the same command may be repeated.
    """
    try:
        data = _file(address, endpoint_url)
        if data is not None:
            return _clicks(address, data)
        return _label_maps(address, open_store(address, endpoint_url))
    except Throttled as fault:  # it is there, and will answer later
        raise Aborted(str(fault)) from None
    except StoreError as fault:
        raise UsageError(str(fault)) from None
    except OSError as fault:
        raise UsageError(f"{address}: cannot be read ({fault.strerror or type(fault).__name__})") from None
    except PromptError as fault:
        raise UsageError("\n".join(f"{address}: {line}" for line in str(fault).splitlines())) from None


def _file(address: str, endpoint_url: str | None) -> bytes | None:
    """The object at an address, of one that is too large a little more than may be; None where there is none."""
    if not is_s3(address):
        path = local_path(address)
        if path.is_file():
            return open_store(str(path.parent)).get_range(path.name, 0, MAX_BYTES + 1)
        return None
    parent, _, name = without_slash(address).rpartition("/")
    if parent == "s3:/":
        return None  # a bucket
    try:
        return open_store(parent, endpoint_url).get_range(name, 0, MAX_BYTES + 1)
    except NotFound:
        return None


def _clicks(address: str, data: bytes) -> CohortPrompts:
    rows = clicks_by_series(data)
    most = max(map(len, rows.values()))
    if most > _MAX_CLICKS:
        raise PromptError(f"found {most} clicks of one series, expected at most {_MAX_CLICKS}")
    names = {row.structure for clicks in rows.values() for row in clicks}
    by_series = {
        # a row's own UID has done its work, and need not travel
        uid: SeriesPrompts(clicks=tuple(replace(row, series_uid=None) for row in clicks))
        for uid, clicks in rows.items()
    }
    return CohortPrompts(address, by_series, tuple(name for name in CATALOGUE if name in names))


def _label_maps(address: str, store: Store) -> CohortPrompts:
    maps: dict[str, list[ObjectInfo]] = {}
    names: dict[str, ObjectInfo] = {}
    for entry in store.list():
        found = _MAP.fullmatch(entry.key)
        if found and is_uid(found[1]):
            maps.setdefault(found[1], []).append(entry)
        elif entry.key.endswith(".json") and "/" not in entry.key:
            names[entry.key] = entry
    if not maps:
        raise UsageError(
            f"{address}: found neither clicks nor label maps; expected a JSON or Parquet file, or a folder of files "
            "named after their series, such as 1.2.840.1.nii.gz"
        )
    shared = names.get(_SHARED_NAMES)
    if shared:
        _check_names(store, shared)
    by_series = {}
    for uid, entries in maps.items():
        has_labels = any(entry.key.endswith(_NIFTI) for entry in entries)
        own = names.get(f"{uid}.json", shared) if has_labels else None
        by_series[uid] = SeriesPrompts(maps=tuple(sorted(entries, key=lambda entry: entry.key)), names=own)
    return CohortPrompts(address, by_series, store=store)


def _check_names(store: Store, shared: ObjectInfo) -> None:
    """That the names of all labels can be read, and that one is of the catalogue at least."""
    table = names_of(store.get_range(shared.key, 0, MAX_JSON_BYTES + 1))
    if not table:
        raise UsageError(f'{store.address(shared.key)}: expected names by label, as {{"1": "liver"}}')
    if not any(named(name) or classes_of(simplified(name)) != (BACKGROUND,) for name in table.values()):
        raise UsageError(
            f"{store.address(shared.key)}: none of the {len(table)} names is in the catalogue "
            "(`ctsam3d structures` lists them)"
        )
