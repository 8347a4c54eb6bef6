"""The first bytes of an object are enough to sort it, and say when they are not."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest
from pydicom.dataset import Dataset

from ctsam3d.imaging.dicom import header_facts
from ctsam3d.imaging.quiet import quiet
from ctsam3d.outcome import Reason, Rejected
from tests.builders import Knobs, ct_series


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian", "jpeg_ls"])
def test_facts_of_a_beginning_equal_those_of_the_whole(syntax: str) -> None:
    _, data = ct_series(syntax=syntax)[2]
    whole = header_facts(data, complete=True)
    assert whole is not None
    told = [header_facts(data[:n]) for n in range(0, len(data), 13) if n]
    assert told[0] is None
    assert told[-1] == whole
    assert all(facts in (None, whole) for facts in told)  # or asks for more
    assert sum(facts is not None for facts in told) > 5
    assert (whole.modality, whole.is_ct_image, whole.is_localizer) == ("CT", True, False)
    assert (whole.rows, whole.columns, whole.frames) == (40, 48, 1)
    assert whole.position_xyz_mm == tuple(Knobs().position(2))
    assert whole.orientation == (1, 0, 0, 0, 1, 0)
    assert (whole.manufacturer, whole.kernel, whole.slice_thickness_mm) == ("Builder", "B30f", 5.0)
    assert (whole.kvp, whole.has_contrast, whole.acquisition_number) == (120.0, True, 3)


def test_large_private_groups_before_the_pixels_need_not_be_fetched() -> None:
    def private(ds: Dataset, i: int) -> None:
        ds.add_new(0x00290010, "LO", "VENDOR")
        ds.add_new(0x00291010, "OB", b"x" * 200_000)

    _, data = ct_series(edit=private)[0]
    assert header_facts(data[:65536]) == header_facts(data, complete=True)


def test_an_enhanced_object_needs_its_functional_groups() -> None:
    _, data = ct_series(n=30, multi_frame=True)[0]
    pixels = data.index(b"\xe0\x7f\x10\x00OW")
    assert header_facts(data[: pixels - 500]) is None
    facts = header_facts(data[: pixels + 20])
    assert facts is not None
    assert (facts.frames, facts.is_ct_image) == (30, True)
    assert facts.position_xyz_mm == tuple(Knobs().position(0))


def test_localizers_are_told() -> None:
    told = {name: header_facts(data, complete=True) for name, data in ct_series(localizer=True)}
    assert [name for name, facts in told.items() if facts is not None and facts.is_localizer] == ["scout.dcm"]


def test_contrast_unknown_is_not_contrast_absent() -> None:
    def blank(ds: Dataset, i: int) -> None:
        ds.ContrastBolusAgent = ""

    def gone(ds: Dataset, i: int) -> None:
        del ds.ContrastBolusAgent

    for edit, expected in ((blank, False), (gone, None)):
        facts = header_facts(ct_series(edit=edit)[0][1], complete=True)
        assert facts is not None
        assert facts.has_contrast is expected


@pytest.mark.parametrize(
    ("data", "complete", "reason"),
    [
        (b"", False, Reason.EMPTY_OBJECT),
        (b"x" * 1000, False, Reason.NOT_DICOM),
        (b"x" * 10, True, Reason.NOT_DICOM),
        (b"\0" * 128 + b"DICM", True, Reason.HEADER_TRUNCATED),
    ],
)
def test_what_is_no_dicom(data: bytes, complete: bool, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        header_facts(data, complete=complete)
    assert caught.value.reason is reason


def test_deflated_objects_are_refused_before_they_inflate() -> None:
    _, data = ct_series()[0]
    deflated = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20])
    assert deflated == data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.")
    at = data.index(b"1.2.840.10008.1.2.1\0")
    longer = data[: at - 2] + b"\x16\x00" + b"1.2.840.10008.1.2.1.99" + data[at + 20 :]
    with pytest.raises(Rejected) as caught:
        header_facts(longer, complete=True)
    assert caught.value.reason is Reason.TRANSFER_SYNTAX_UNSUPPORTED


def test_silence_ends_with_the_last_thread_inside() -> None:
    logger = logging.getLogger("pydicom.pixels")
    filters = list(warnings.filters)
    level = logger.getEffectiveLevel()
    inside, leave = threading.Barrier(3, timeout=10), threading.Event()

    def work() -> None:
        with quiet():
            inside.wait()
            leave.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    with quiet():
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert not logger.isEnabledFor(logging.CRITICAL)
    leave.set()
    for thread in threads:
        thread.join()
    assert logger.getEffectiveLevel() == level
    assert warnings.filters == filters
