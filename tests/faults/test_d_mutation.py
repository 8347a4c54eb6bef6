"""Fault D28: mutations of sound series give a volume or a refusal, never a crash, a hang or an exception.

`make fuzz` does the same for ten minutes; what it finds is added to FOUND before it is mended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Reason
from pipelines.sandbox import Sandbox
from tests.faults import fuzz
from tests.faults.outcome import read

FOUND: list[tuple[str, int]] = [
    ("jpeg_ls+odd", 1795620083),  # a transfer syntax of no length and of a VR that is none
]
ROUNDS = 40


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(fuzz.SECONDS)
    yield box
    box.close()


@pytest.mark.parametrize("form", fuzz.FORMS)
def test_D28_what_is_mutated_is_sound(form: str) -> None:
    assert read(list(fuzz.sound(form))).facts.slices == (9 if form.endswith("odd") else 8)


def test_D28_the_same_case_is_the_same_bytes() -> None:
    cases = list(islice(fuzz.cases(0), 40))
    assert len(set(cases)) == 40
    for form, number in cases:
        assert fuzz.mutated(form, number) == fuzz.mutated(form, number) != list(fuzz.sound(form))


def test_D28_mutations_end_in_a_volume_or_a_reason_within_bounds(sandbox: Sandbox) -> None:
    """Changed: time is bounded by the sandbox's limit, which ends in TIMEOUT here, and not by two seconds."""
    sandbox.read_series(fuzz.sound("explicit"), Limits(), fuzz.MEMORY)
    child, before = sandbox._child, sandbox.peak_memory_bytes
    outcomes = Counter(
        fuzz.outcome(sandbox, fuzz.mutated(form, number))
        for form, number in (*FOUND, *islice(fuzz.cases(0), ROUNDS * len(fuzz.FORMS)))
    )
    assert sandbox._child is child  # it met all of them, and lives
    assert {"volume", Reason.HEADER_TRUNCATED, Reason.MALFORMED, Reason.PIXEL_DECODE} <= set(outcomes)
    sandbox.read_series(fuzz.sound("explicit"), Limits(), fuzz.MEMORY)
    assert sandbox.peak_memory_bytes - before < 64 << 20
