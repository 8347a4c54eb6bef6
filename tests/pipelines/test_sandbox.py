"""The sandbox gives what reading in the process gives, and survives whatever its child dies of."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsam3d.imaging.dicom import Limits, read_series
from ctsam3d.outcome import Reason, Rejected
from pipelines.frames import FrameError, Kind, receive, send
from pipelines.reasons import Failure
from pipelines.sandbox import Sandbox, SandboxBroken, SandboxFailure, memory_for
from tests.builders import ct_series
from tests.faults.bad_child import marked
from tests.faults.process import runs, until

MEMORY = memory_for(1 << 20, 1 << 16)
SMALL = {"shape": (16, 18)}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(60.0)
    yield box
    box.close()


@pytest.fixture(scope="module")
def bad() -> Iterator[Sandbox]:
    box = Sandbox(60.0, entry="tests.faults.bad_child")
    yield box
    box.close()


@pytest.mark.parametrize(
    "knobs",
    [{}, {"slope": 0.5}, {"padding_value": 0}, {"multi_frame": True, "syntax": "jpeg_ls"}, {"tilt_deg": 9.0}],
)
def test_the_same_series_comes_out_as_without_it(sandbox: Sandbox, knobs: dict) -> None:
    objects = ct_series(localizer=True, **knobs, **SMALL)
    mine, theirs = read_series(objects), sandbox.read_series(objects, Limits(), MEMORY)
    assert theirs.facts == mine.facts
    np.testing.assert_array_equal(theirs.volume.hu, mine.volume.hu)
    assert theirs.volume.hu.dtype == mine.volume.hu.dtype
    np.testing.assert_array_equal(theirs.volume.geometry.affine, mine.volume.geometry.affine)
    assert (theirs.volume.padding is None) == (mine.volume.padding is None)
    if mine.volume.padding is not None:
        np.testing.assert_array_equal(theirs.volume.padding, mine.volume.padding)
    assert sandbox.peak_memory_bytes > 20e6
    theirs.volume.hu[0, 0, 0] = 7  # the arrays are ours alone


def test_refusals_come_through_and_the_child_stays_warm(sandbox: Sandbox) -> None:
    sandbox.read_series(ct_series(**SMALL), Limits(), MEMORY)
    child = sandbox._child
    for _ in range(3):
        with pytest.raises(Rejected) as caught:
            sandbox.read_series(ct_series(drop=(4,), **SMALL), Limits(), MEMORY)
        assert caught.value.reason is Reason.SLICES_MISSING
        assert caught.value.detail == "1 slices missing in 1 gaps of 10"
    sandbox.read_series(ct_series(**SMALL), Limits(), MEMORY)
    assert sandbox._child is child is not None and child.poll() is None


def test_what_is_refused_early_is_not_fetched_to_its_end(sandbox: Sandbox) -> None:
    taken = []

    def objects() -> Iterator[tuple[str, bytes]]:
        for name, data in ct_series(n=60, **SMALL):
            taken.append(name)
            yield name, data[:420]
            time.sleep(0.05)

    with pytest.raises(Rejected) as caught:
        sandbox.read_series(objects(), Limits(), MEMORY)
    assert caught.value.reason is Reason.HEADER_TRUNCATED
    assert len(taken) < 60
    sandbox.read_series(ct_series(**SMALL), Limits(), MEMORY)


def test_an_error_of_the_objects_is_the_callers(sandbox: Sandbox) -> None:
    def objects() -> Iterator[tuple[str, bytes]]:
        yield from ct_series(**SMALL)[:3]
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        sandbox.read_series(objects(), Limits(), MEMORY)
    sandbox.read_series(ct_series(**SMALL), Limits(), MEMORY)  # nothing of the broken one is left


def test_a_folder_is_read_by_the_child_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    for name, data in ct_series(**SMALL):
        (tmp_path / name).write_bytes(data)
    series = sandbox.read_folder(tmp_path, Limits())
    np.testing.assert_array_equal(series.volume.hu, read_series(ct_series(**SMALL)).volume.hu)
    for name, data in ct_series(seed=5, **SMALL):
        (tmp_path / f"other-{name}").write_bytes(data)
    with pytest.raises(ValueError, match="2 CT series"):
        sandbox.read_folder(tmp_path, Limits())


@pytest.mark.parametrize(
    ("fault", "failure", "detail"),
    [
        ("crash", Failure.DECODER_CRASH, "signal 11"),
        ("abort", Failure.DECODER_CRASH, "signal 6"),
        ("exit", Failure.DECODER_CRASH, "exit code 0"),
        ("eat", Failure.MEMORY, f"over {MEMORY >> 20} MiB"),
        ("killed", Failure.MEMORY, "ended by SIGKILL"),
        ("chatter", Failure.DECODER_CRASH, "exit code 0"),
    ],
)
def test_what_the_child_dies_of_is_a_reason_and_the_next_series_is_read(
    bad: Sandbox, fault: str, failure: Failure, detail: str
) -> None:
    bad.read_series(ct_series(**SMALL), Limits(), MEMORY)
    former = bad._child
    with pytest.raises(SandboxFailure) as caught:
        bad.read_series(ct_series(image_hu=marked(fault), **SMALL), Limits(), MEMORY)
    assert (caught.value.failure, caught.value.detail) == (failure, detail)
    assert former is not None and former.poll() is not None  # dead, and reaped
    good = bad.read_series(ct_series(**SMALL), Limits(), MEMORY)
    np.testing.assert_array_equal(good.volume.hu, read_series(ct_series(**SMALL)).volume.hu)


@pytest.mark.parametrize("fault", ["sleep", "spin", "stuck"])
def test_a_child_that_never_answers_is_ended(fault: str) -> None:
    box = Sandbox(1.0, entry="tests.faults.bad_child")
    with pytest.raises(SandboxFailure) as caught:
        box.read_series(ct_series(image_hu=marked(fault), **SMALL), Limits(), MEMORY)
    assert caught.value.failure is Failure.TIMEOUT
    assert box._child is None
    box.close()


def test_the_child_knows_nothing_of_our_environment_and_tells_nothing(
    bad: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_ADDRESS", "ANYTHING_ELSE", "HOME"):
        monkeypatch.setenv(name, "CANARY")
    bad.close()
    # What this decoder raises are the names of its environment; of that nothing comes back but a class.
    with pytest.raises(SandboxFailure) as caught:
        bad.read_series(ct_series(image_hu=marked("leak"), **SMALL), Limits(), MEMORY)
    assert (caught.value.failure, caught.value.detail) == (Failure.INTERNAL, "ValueError")
    assert bad._child is not None
    environment = Path(f"/proc/{bad._child.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment and b"CANARY" not in environment


def test_a_child_that_cannot_start_is_a_fault_of_ours() -> None:
    with pytest.raises(SandboxBroken):
        Sandbox(5.0, entry="no.such.module").read_series(ct_series(**SMALL), Limits(), MEMORY)


@pytest.mark.parametrize("fault", ["idle", "spin", "sleep", "stuck"])
def test_a_child_whose_parent_is_killed_ends_at_once(fault: str) -> None:
    script = (
        "import sys, threading\n"
        "from ctsam3d.imaging.dicom import Limits\n"
        "from pipelines.sandbox import Sandbox\n"
        "from tests.builders import ct_series\n"
        "from tests.faults.bad_child import marked\n"
        "box = Sandbox(3000.0, entry='tests.faults.bad_child')\n"
        "box.read_series(ct_series(shape=(16, 18)), Limits(), 1 << 31)\n"
        "print(box._child.pid, flush=True)\n"
        f"if {fault!r} != 'idle':\n"
        f"    box.read_series(ct_series(image_hu=marked({fault!r}), shape=(16, 18)), Limits(), 1 << 31)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = int(parent.stdout.readline())
    try:
        if fault != "idle":
            until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == fault)
        assert runs(child)
        parent.kill()
        parent.wait()
        until(lambda: not runs(child))
    finally:
        parent.kill()
        parent.stdout.close()
        parent.stdin.close()
        if runs(child):
            os.kill(child, 9)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_on_the_socket_are_anything_but_a_frame_or_an_error(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with suppress(FrameError):
            assert receive(ours, 1000) is None or data[:4] == b"CTSF"


def test_a_frame_with_its_file_comes_through(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "f").open("w+b") as file:
        file.write(b"voxels")
        file.flush()
        send(theirs, Kind.REPLY, b"x" * 100, file.fileno())
        frame = receive(ours, 100)
        assert frame is not None and frame[2] is not None
        assert (frame[0], frame[1], os.pread(frame[2], 10, 0)) == (Kind.REPLY, b"x" * 100, b"voxels")
        os.close(frame[2])
        send(theirs, Kind.OBJECT, b"x" * 101)
        with pytest.raises(FrameError):
            receive(ours, 100)
