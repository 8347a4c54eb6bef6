"""A run that stands still, fails as a whole, or is told to stop comes to an end, and a series costs what it may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctsam3d.outcome import Status
from pipelines.cohort import serial
from pipelines.cohort.commit import Outcome
from pipelines.config import Resources
from pipelines.driver import Stores
from pipelines.faults import Aborted
from pipelines.reasons import Withheld
from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import AccessDenied, open_store
from pipelines.supervise import Breaker, stopping
from pipelines.verify import verify
from tests.faults.cohort import Scripted, run, uid_of, write_series
from tests.faults.run_troubled import Asked
from tests.faults.stores import MortalStore
from tests.faults.troubled import Part, attempts
from tests.faults.ward import CONFIG

ROOT = Path(__file__).parents[2]


def outcome(reason: str | None = None, status: Status = Status.REJECTED) -> Outcome:
    return Outcome("0" * 32, status if reason else Status.OK, reason)


def test_a_run_whose_series_mostly_end_for_one_reason_is_ended_but_not_too_soon() -> None:
    breaker = Breaker(10, 0.5)
    for _ in range(9):
        breaker.add(outcome("SLICES_MISSING"))
    with pytest.raises(Aborted, match="10 of 10 series ended with SLICES_MISSING"):
        breaker.add(outcome("SLICES_MISSING"))


def test_half_of_the_series_may_end_for_one_reason_and_the_rest_for_others() -> None:
    breaker = Breaker(10, 0.5)
    for number in range(40):
        breaker.add(outcome("SLICES_MISSING" if number % 2 else f"REASON_{number}"))


def test_refused_credentials_end_a_run_at_once() -> None:
    with pytest.raises(Aborted, match="credentials"):
        Breaker(200, 0.5).add(outcome(Withheld.ACCESS_DENIED, Status.LOST))


def test_the_breaker_is_in_the_run() -> None:
    source, output = MortalStore("source"), MortalStore("output")
    for number in range(6):
        write_series(source, number)
    segmenter = Scripted(raises={number: RuntimeError() for number in range(6)})
    resources = Resources(judge_after_series=3)
    with pytest.raises(Aborted, match="3 of 3 series ended with INTERNAL"):
        run(Stores(source, output), segmenter, resources=resources)
    assert len(segmenter.calls) == 3
    lenient = Resources(judge_after_series=3, max_share_of_one_reason=1.0)
    assert run(Stores(source, output), segmenter, resources=lenient).series_by_status == {"failed": 6}


def test_told_once_the_event_is_set_told_twice_the_run_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as told:
        assert not told.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_told_to_stop_begins_no_more_series() -> None:
    source, output = MortalStore("source"), MortalStore("output")
    for number in range(4):
        write_series(source, number)

    class Telling(Scripted):
        def segment(self, volume, structures):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().segment(volume, structures)

    with pytest.raises(Aborted, match="told to stop: 3 series are left"):
        run(Stores(source, output), Telling())
    assert len(output.objects("records")) == 1 and not output.objects("attempts")
    assert run(Stores(source, output)).computed == 3


class Denying(MortalStore):
    """A store whose credentials run out when the first record is to be written."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key.startswith("records/"):
            raise AccessDenied("denied")
        return super().put_if_absent(key, data)


def test_credentials_that_run_out_are_not_the_series_fault() -> None:
    source, output = MortalStore("source"), Denying("output")
    write_series(source, 0)
    with pytest.raises(Aborted, match="credentials"):
        run(Stores(source, output))
    whole = MortalStore("output", memory=output.memory)
    assert not whole.objects("records")
    assert run(Stores(source, whole)).series_by_status == {"ok": 1}


@pytest.mark.parametrize(("times", "ending"), [(1, {"ok": 2}), (99, {"lost": 1, "ok": 1})])
def test_a_series_that_comes_to_no_end_is_begun_again_and_at_last_recorded_as_lost(
    monkeypatch: pytest.MonkeyPatch, times: int, ending: dict[str, int]
) -> None:
    """As where Ray drops the block of a worker that died."""
    source, output, dropped = MortalStore("source"), MortalStore("output"), []
    for number in range(2):
        write_series(source, number)
    whole = serial.compute

    def dropping(job, pending, stop) -> Iterator[Outcome]:
        kept = []
        for row in pending:
            if row["series_instance_uid"] == uid_of(0) and len(dropped) < times:
                dropped.append(row)
            else:
                kept.append(row)
        yield from whole(job, kept, stop)

    monkeypatch.setattr(serial, "compute", dropping)
    assert run(Stores(source, output)).series_by_status == ending
    assert len(dropped) == min(times, Resources().max_attempts + 1)
    assert verify(output).ok


def process(folder: Path, part: Part, **resources: float) -> tuple[int, str]:
    """A run without Ray, in a process, whose first series plays a part: its exit code and its last words."""
    if not (folder / "source").exists():
        for name in ("source", "output", "notes"):
            (folder / name).mkdir()
        for number in range(2):
            write_series(open_store(str(folder / "source")), number)
    asked = Asked(
        *(str(folder / name) for name in ("source", "output", "notes")),
        config=CONFIG | {"resources": resources},
        parts={0: part},
        options={"in_process": True},
    )
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "run_troubled.py", asked.to_argument()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout or done.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize(("part", "reason"), [(Part.HANG, "TIMEOUT"), (Part.EAT, "MEMORY")])
def test_a_series_over_its_budget_ends_its_process_and_is_given_up_across_runs(
    tmp_path: Path, part: Part, reason: str
) -> None:
    timeout_s = 3.0 if part is Part.HANG else 60.0
    bounds = {"max_attempts": 2, "series_timeout_s": timeout_s, "series_memory_bytes": 500 << 20}
    for attempt in (1, 2):
        assert process(tmp_path, part, **bounds)[0] == 3
        assert attempts(tmp_path / "notes")[0] == attempt
    code, said = process(tmp_path, part, **bounds)
    assert (code, json.loads(said)) == (2, {"ok": 1, "poisoned": 1})
    assert attempts(tmp_path / "notes")[0] == 2
    output = open_store(str(tmp_path / "output"))
    rows = [
        row
        for shard in SERIES_FILES.shards(output)
        for row in read_shard(output, SERIES_FILES, shard).to_pylist()
    ]
    assert {row["reason"] for row in rows} == {reason, None}


def test_a_run_that_stands_still_ends_with_code_3_and_says_why(tmp_path: Path) -> None:
    code, said = process(tmp_path, Part.HANG, stall_timeout_s=4.0)
    assert code == 3
    words = "no series ended for 6 s: the run stands still; the same command continues where this one stopped"
    assert said == f"ctsam3d: {words}"


def script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_run_that_does_not_hear_the_watchdog_is_ended_where_it_stands() -> None:
    done = script(
        """
        import signal, time
        from pipelines.supervise import Watchdog
        with Watchdog(0.3, heard_within_s=0.3).watching():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            while True:
                time.sleep(0.1)
        """
    )
    assert done.returncode == 3
    assert done.stderr == "ctsam3d: no series ended for 0 s: the run stands still; ended where it stood\n"


def test_a_process_that_is_to_ignore_interrupts_hears_the_watchdog_alone() -> None:
    done = script(
        """
        import os, signal, time
        from pipelines.faults import Aborted
        from pipelines.supervise import Watchdog
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with Watchdog(1.0).watching():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
                print("unmoved")
                time.sleep(60)
        except Aborted as end:
            print(end)
        print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        """
    )
    assert done.stdout == "unmoved\nno series ended for 1 s: the run stands still\nTrue\n"
    assert done.returncode == 0 and done.stderr == ""


def test_a_watchdog_that_was_not_heard_barks_again() -> None:
    done = script(
        """
        import time
        from pipelines.faults import Aborted
        from pipelines.supervise import Watchdog
        try:
            with Watchdog(0.3, heard_within_s=20).watching():
                try:
                    time.sleep(60)
                except BaseException:
                    print("swallowed")
                time.sleep(60)
        except Aborted as end:
            print(end)
        """
    )
    assert done.stdout == "swallowed\nno series ended for 0 s: the run stands still\n"
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("loop", ["while True: pass", "10 ** 10 ** 9", "re.match('(a+)+b', 'a' * 99)"])
def test_a_budget_ends_python_and_native_code_alike(loop: str) -> None:
    done = script(
        f"""
        import os, re, sys
        from pipelines import budget
        budget._LAST_WORDS_S = 0.5
        with budget.Budget(0.5, 1 << 40).watch(lambda cause: os.write(1, str(cause).encode())):
            {loop}
        """
    )
    assert done.returncode != 0
    assert done.stdout in ("TIMEOUT", "")  # nothing is heard over code that keeps Python's lock
    assert done.stderr == ""


def test_within_its_budget_a_process_lives_on_and_the_watch_is_over() -> None:
    done = script(
        """
        import threading, time
        from pipelines.budget import Budget
        for _ in range(3):
            with Budget(0.5, 1 << 40).watch(lambda cause: None):
                time.sleep(0.25)
        time.sleep(6.5)
        print(threading.active_count())
        """
    )
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_nothing_is_watched_from_a_thread_that_cannot_be_interrupted() -> None:
    told = []

    def other() -> None:
        with stopping() as event:
            told.append(event.is_set())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert told == [False]
