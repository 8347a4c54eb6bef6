"""Faults C12-C14, C21: the commit protocol, crashed after every operation, raced, and run under other settings."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ctsam3d.outcome import Status
from pipelines.driver import Stores
from pipelines.identity import record_path
from pipelines.runs import list_runs, load_run
from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import Store
from pipelines.verify import Problem, verify
from tests.faults.cohort import Scripted, run, write_series
from tests.faults.stores import Crash, MortalStore


def source_of(*numbers: int) -> MortalStore:
    source = MortalStore("source")
    for number in numbers:
        write_series(source, number)
    return source


def statuses(output: Store) -> dict[str, int]:
    report = verify(output)
    assert report.ok, [str(finding) for finding in report.findings]
    return report.series_by_status


def operations_of_a_run() -> int:
    output = MortalStore("output")
    run(Stores(source_of(0, 1), output))
    return output.life.done


def test_C14_a_run_that_dies_at_any_operation_is_completed_by_the_next() -> None:
    source = source_of(0, 1)
    count = operations_of_a_run()
    assert count > 20
    for operation in range(1, count + 1):
        output = MortalStore("output")
        with pytest.raises(Crash):
            run(Stores(source, output.living(operation)))
        before = output.objects("records")
        summary = run(Stores(source, output.living()))
        assert summary.series_by_status == {"ok": 2}
        assert summary.computed == 2 - len(before)  # what was recorded is not computed again
        assert statuses(output) == {"ok": 2}
        assert before.items() <= output.objects("records").items()  # nor touched


def dying(output: MortalStore, operation: int) -> MortalStore:
    """A copy of the objects for a process that dies after so many operations, which is before the next."""
    copy = MortalStore("output")
    for key, data in output.objects("").items():
        copy.put(key, data)
    return copy.living(operation)


def completed_after_each_death(
    source: MortalStore, output: MortalStore, operations: int, **options: bool
) -> Iterator[MortalStore]:
    """For each operation, what the next run leaves where one with these options died of it."""
    for operation in range(1, operations + 1):
        dead = dying(output, operation)
        with pytest.raises(Crash):
            run(Stores(source, dead), **options)
        summary = run(Stores(source, dead.living()), **options)
        assert summary.series_by_status == statuses(dead.living()) == {"ok": 2}
        yield dead


def test_C14_a_repair_that_dies_at_any_operation_is_completed_by_the_next() -> None:
    source, output = source_of(0, 1), MortalStore("output")
    run(Stores(source, output))
    record = sorted(output.objects("records"))[0]
    table = SERIES_FILES.path(next(SERIES_FILES.shards(output)))
    for key in (record, table):
        output.put(key, output.get(key)[:-20])
    counted = dying(output, 10**9)
    assert run(Stores(source, counted), replace_damaged=True).computed == 1
    for dead in completed_after_each_death(source, output, counted.life.done, replace_damaged=True):
        assert output.get(record) in dead.objects("quarantine").values()


def test_C14_another_try_that_dies_at_any_operation_is_completed_by_the_next() -> None:
    source, output = source_of(0, 1), MortalStore("output")
    failing = Scripted(raises={0: RuntimeError("not today")})
    assert run(Stores(source, output), failing).series_by_status == {"failed": 1, "ok": 1}
    counted = dying(output, 10**9)
    assert run(Stores(source, counted), retry_failed=True).series_by_status == {"ok": 2}
    assert list(completed_after_each_death(source, output, counted.life.done, retry_failed=True))


class Runs(RuleBasedStateMachine):
    """Any sequence of runs that die, series that arrive or fail, and records that rot."""

    @initialize()
    def start(self) -> None:
        self.source, self.output = MortalStore("source"), MortalStore("output")
        self.numbers: list[int] = []
        self.failing: set[int] = set()
        self.committed: dict[str, bytes] = {}
        self.published = False
        self.arrive()

    def segmenter(self) -> Scripted:
        return Scripted(raises={n: RuntimeError("not today") for n in self.failing})

    def remember(self) -> None:
        """Records only ever appear: none that was seen has changed."""
        records = self.output.objects("records")
        assert self.committed.items() <= records.items()
        self.committed = records

    @precondition(lambda self: len(self.numbers) < 4)
    @rule()
    def arrive(self) -> None:
        self.numbers.append(len(self.numbers))
        write_series(self.source, self.numbers[-1])

    @rule(number=st.integers(0, 3))
    def begin_to_fail(self, number: int) -> None:
        self.failing.add(number)

    @rule()
    def heal(self) -> None:
        self.failing.clear()

    @rule(operation=st.integers(1, 90), applied=st.booleans())
    def die_in_a_run(self, operation: int, applied: bool) -> None:
        try:
            run(Stores(self.source, self.output.living(operation, applied)), self.segmenter())
            self.published = True
        except Crash:
            pass
        self.remember()

    @rule()
    def run_to_the_end(self) -> None:
        summary = run(Stores(self.source, self.output.living()), self.segmenter())
        self.published = True
        self.remember()
        found = statuses(self.output)
        assert found == summary.series_by_status
        assert sum(found.values()) == len(self.numbers)

    @rule()
    def try_again_what_failed(self) -> None:
        summary = run(Stores(self.source, self.output.living()), self.segmenter(), retry_failed=True)
        self.published = True
        self.committed = self.output.objects("records")
        failing = len(self.failing & set(self.numbers))
        expected = {"ok": len(self.numbers) - failing, "failed": failing}
        assert summary.series_by_status == {name: count for name, count in expected.items() if count}
        assert statuses(self.output) == summary.series_by_status

    @precondition(lambda self: self.committed)
    @rule(which=st.integers(0, 10**6), cut=st.floats(0, 1, exclude_max=True))
    def rot(self, which: int, cut: float) -> None:
        """A record loses its end; asked to, a run sets it aside and makes it again."""
        key = sorted(self.committed)[which % len(self.committed)]
        damaged = self.committed[key][: int(len(self.committed[key]) * cut)]
        self.output.put(key, damaged)
        if self.published:
            known = [load_run(self.output, name) for name in list_runs(self.output)]
            held = {record_path(one.record_key(ref)) for one in known for ref in one.manifest}
            problems = {finding.problem for finding in verify(self.output).findings}
            assert key not in held or Problem.RECORD_DAMAGED in problems
        run(Stores(self.source, self.output.living()), self.segmenter(), replace_damaged=True)
        self.published = True
        assert damaged in self.output.objects("quarantine").values()
        self.committed = self.output.objects("records")
        statuses(self.output)

    def teardown(self) -> None:
        if hasattr(self, "output"):
            self.run_to_the_end()


Runs.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class TestC14AnySequenceOfCrashes(Runs.TestCase):
    """C14 as a state machine."""


def test_C12_of_two_runs_that_race_each_series_is_won_once(aws_store: Store) -> None:
    source = source_of(*range(4))
    start = Barrier(2)

    def race(_: int) -> tuple[dict[str, int], Scripted]:
        segmenter = Scripted()
        start.wait(timeout=60)
        return run(Stores(source, aws_store), segmenter).series_by_status, segmenter

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(race, range(2))
    assert first[0] == second[0] == {"ok": 4}
    assert len(first[1].calls) + len(second[1].calls) > 4  # they met: some series was computed twice
    assert len(list(aws_store.list("records"))) == 4
    assert statuses(aws_store) == {"ok": 4}


def test_C13_two_settings_are_two_runs_with_records_of_their_own() -> None:
    stores = Stores(source_of(0, 1), MortalStore("output"))
    names = {run(stores, Scripted(threshold_hu=hu)).run_id for hu in (-500, -400)}
    assert len(names) == 2
    runs = [load_run(stores.output, name) for name in sorted(names)]
    held = [{one.record_key(ref) for ref in one.manifest} for one in runs]
    assert not held[0] & held[1]
    assert len(list(stores.output.list("records"))) == 4
    assert statuses(stores.output) == {"ok": 2}


def test_C21_other_weights_are_another_run_and_a_record_of_the_former_is_foreign_to_it() -> None:
    stores = Stores(source_of(0, 1), MortalStore("output"))
    old, new = (load_run(stores.output, run(stores, Scripted(weights=w)).run_id) for w in "01")
    assert old.run_id != new.run_id
    (ref, *_) = new.manifest
    swapped = stores.output.get(record_path(old.record_key(ref)))
    stores.output.put(record_path(new.record_key(ref)), swapped)
    problems = [finding.problem for finding in verify(stores.output).findings]
    assert problems[0] is Problem.RECORD_FOREIGN
    rows = [
        row
        for shard in SERIES_FILES.shards(stores.output)
        for row in read_shard(stores.output, SERIES_FILES, shard, ["weights_sha256"]).to_pylist()
    ]
    assert {row["weights_sha256"] for row in rows} == {"1" * 64}  # no table mixes the two


def test_C02_a_series_that_was_begun_too_often_is_poisoned_across_runs() -> None:
    """Three drivers die with the first series in hand; the fourth leaves it alone and ends."""
    source, output = source_of(0, 1), MortalStore("output")
    segmenter = Scripted(raises={0: Crash()})
    for attempt in range(1, 4):
        with pytest.raises(Crash):
            run(Stores(source, output), segmenter)
        left = sorted(key.rpartition("/")[2] for key in output.objects("attempts"))
        assert left == [f"segment-{number + 1}" for number in range(attempt)]
    assert segmenter.calls.count(0) == 3
    summary = run(Stores(source, output), segmenter)
    assert summary.series_by_status == {"ok": 1, "poisoned": 1}
    assert segmenter.calls.count(0) == 3
    (row,) = [
        row
        for shard in SERIES_FILES.shards(output)
        for row in read_shard(output, SERIES_FILES, shard).to_pylist()
        if row["status"] == Status.POISONED
    ]
    assert (row["reason"], row["detail"]) == ("WORKER_LOST", "3 attempts to segment")
    healed = run(Stores(source, output), Scripted(), retry_failed=True)
    assert healed.series_by_status == {"ok": 2}
    assert statuses(output) == {"ok": 2}
