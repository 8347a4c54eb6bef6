"""Attempts are counted whatever becomes of their workers, and no more than may be are ever begun."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.ledger import LOAD, SEGMENT, Ledger, forget_attempts
from pipelines.reasons import Failure
from pipelines.store import Store, open_store
from tests.pipelines.fault_proxy import Fault, fault_proxy
from tests.s3_server import S3Server

KEY = "0" * 32


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path)), 3)


def test_attempts_that_do_not_end_are_numbered_until_there_are_none_left(ledger: Ledger) -> None:
    assert [ledger.begin(KEY, SEGMENT) for _ in range(5)] == [1, 2, 3, None, None]
    assert ledger.begin("1" * 32, SEGMENT) == ledger.begin(KEY, LOAD) == 1  # each series and stage for itself
    assert ledger.cause(KEY, SEGMENT) is Failure.WORKER_LOST
    forget_attempts(ledger.output, KEY)
    assert ledger.begin(KEY, SEGMENT) == 1


def test_an_attempt_that_ended_leaves_nothing(ledger: Ledger) -> None:
    for _ in range(5):
        assert ledger.begin(KEY, LOAD) == 1
        ledger.end(KEY, LOAD, 1)
    assert not list(ledger.output.list("attempts"))


def test_the_last_words_of_the_last_attempt_are_the_cause(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.begin(KEY, SEGMENT)
        ledger.blame(KEY, SEGMENT, number, Failure.MEMORY if number == 3 else Failure.TIMEOUT)
    assert ledger.cause(KEY, SEGMENT) is Failure.MEMORY
    ledger.output.put(
        next(ledger.output.list("attempts")).key.rpartition("/")[0] + "/segment-3", b"\xff no reason"
    )
    assert ledger.cause(KEY, SEGMENT) is Failure.WORKER_LOST


def test_what_begins_at_the_same_moment_gets_numbers_of_its_own(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: ledger.begin(KEY, SEGMENT), range(8)))
    assert sorted(number for number in numbers if number) == [1, 2, 3]


def test_a_name_that_is_none_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="record"):
        ledger.begin("../../elsewhere", LOAD)


@pytest.mark.s3
def test_an_answer_that_was_lost_costs_no_attempt(aws_environment: S3Server) -> None:
    with fault_proxy(aws_environment.endpoint_url) as (endpoint, plan):
        ledger = Ledger(Store(f"s3://{aws_environment.bucket}/ledger", endpoint), 3)
        plan.faults.append(Fault.LOST_ANSWER)
        assert ledger.begin(KEY, SEGMENT) == 1
        assert plan.fired == [Fault.LOST_ANSWER]
        assert ledger.begin(KEY, SEGMENT) == 2
