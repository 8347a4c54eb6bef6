"""What becomes of objects: a volume with its facts, or a refusal; and edits of headers for builders."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from ctsam3d.imaging.dicom import DicomSeries, Limits, read_series
from ctsam3d.outcome import Reason, Rejected
from pipelines.store import Store
from tests.builders import CANARIES, NESTED_CANARIES

Objects = list[tuple[str, bytes]]
Edit = Callable[[Dataset, int], None]
SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def read(objects: Objects, limits: Limits | None = None) -> DicomSeries:
    """The series, which must be accepted."""
    return read_series(list(objects), limits)


def refused(objects: Objects, limits: Limits | None = None) -> tuple[Reason, str]:
    """Reason and detail of a series, which must be refused, in words that repeat nothing of its headers."""
    with pytest.raises(Rejected) as caught:
        read_series(list(objects), limits)
    told_nothing(caught.value)
    return caught.value.reason, caught.value.detail


def reason_of(objects: Objects, limits: Limits | None = None) -> Reason:
    """The reason alone."""
    return refused(objects, limits)[0]


def told_nothing(*said: object) -> None:
    """Fail where any of these texts holds what the builders' headers say of a person, place or time."""
    for text in map(str, said):
        found = [
            canary for canary in ("CANARY", *CANARIES.values(), *NESTED_CANARIES) if canary in text.upper()
        ]
        assert not found, f"{found} in a text of {len(text)} characters"


def corpus(name: str) -> bytes:
    """One object of the corpus that comes with pydicom."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path)).read_bytes()


def stack_of(data: bytes, n: int = 12, step_mm: float = 2.5, edit: Edit | None = None) -> Objects:
    """A series of copies of one CT object, each one step further along z and with a UID of its own."""
    objects = []
    for i in range(n):
        ds = dcmread(io.BytesIO(data))
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z + i * step_mm]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i + 1}"
        if edit is not None:
            edit(ds, i)
        buffer = io.BytesIO()
        ds.save_as(buffer)
        objects.append((f"{i}.dcm", buffer.getvalue()))
    return objects


def setting(keyword: str, value: Any, only: int | None = None) -> Edit:
    """Put a value into every slice, or into one."""

    def edit(ds: Dataset, i: int) -> None:
        if only is None or i == only:
            setattr(ds, keyword, value)

    return edit


def without(*keywords: str) -> Edit:
    """Leave elements out of every slice."""

    def edit(ds: Dataset, i: int) -> None:
        for keyword in keywords:
            del ds[keyword]

    return edit


def renamed(root: str = "1.2.3") -> Edit:
    """Instance UIDs of their own, for a second series under the first one's UIDs."""

    def edit(ds: Dataset, i: int) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{root}.{i + 1}"

    return edit


def together(*edits: Edit) -> Edit:
    """Several edits, one after the other."""

    def edit(ds: Dataset, i: int) -> None:
        for one in edits:
            one(ds, i)

    return edit


def put(store: Store, objects: Objects, folder: str = "s") -> None:
    """Objects into a folder of a store."""
    for name, data in objects:
        store.put(f"{folder}/{name}", data)


def raw_value(tag: int, vr: str, value: bytes) -> Callable[[bytes], bytes]:
    """Put other bytes, cut or padded to the length that is there, in place of an explicit element's value."""

    def patch(data: bytes) -> bytes:
        head = tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2] + vr.encode()
        at = data.index(head)
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        return data[: at + 8] + value.ljust(length)[:length] + data[at + 8 + length :]

    return patch


def patched(objects: Objects, patch: Callable[[bytes], bytes], only: int | None = None) -> Objects:
    """The objects with their bytes changed, every one or one alone; each of them must change."""
    changed = [(name, patch(data) if only in (None, i) else data) for i, (name, data) in enumerate(objects)]
    assert any(new != old for new, old in zip(changed, objects, strict=True))
    return changed


def shared_data(name: str) -> Path:
    """A folder or file of real data beside the checkout; the test is skipped where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"shared data {name} is not beside this checkout")
    return path
