"""Faults C01-C07 on a real cluster: whatever a series does to its worker, every series ends once, with its reason."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pipelines.shards import SERIES_FILES, read_shard
from pipelines.verify import verify
from tests.faults import ward
from tests.faults.cohort import uid_of
from tests.faults.conftest import Troubles
from tests.faults.troubled import attempts, played

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def rows(troubles: Troubles) -> dict[str | None, dict]:
    """Rows of the series table by their UID."""
    shards = SERIES_FILES.shards(troubles.output)
    found = [row for shard in shards for row in read_shard(troubles.output, SERIES_FILES, shard).to_pylist()]
    return {row["series_instance_uid"] or row["series_key"]: row for row in found}


def ending(rows: dict[str | None, dict], number: int) -> tuple[str, str | None]:
    row = rows[uid_of(number)]
    return row["status"], row["reason"]


def test_C01_a_worker_killed_once_costs_no_series(troubles: Troubles, rows: dict) -> None:
    assert 1 in played(troubles.notes)
    assert attempts(troubles.notes)[1] == 2
    assert ending(rows, 1) == ("ok", None)
    assert rows[uid_of(1)]["attempt"] == 2


def test_C02_a_series_that_always_kills_its_worker_is_given_up(troubles: Troubles, rows: dict) -> None:
    assert attempts(troubles.notes)[2] == ward.MAX_ATTEMPTS
    assert ending(rows, 2) == ("poisoned", "WORKER_LOST")
    assert rows[uid_of(2)]["detail"] == f"{ward.MAX_ATTEMPTS} attempts to segment"


def test_C03_a_worker_that_leaves_without_a_word_is_no_end_of_the_run(troubles: Troubles, rows: dict) -> None:
    """`exit(0)` in native code is a death like any other; SystemExit is caught, and fails the series alone."""
    assert {3, 8} <= played(troubles.notes)
    assert ending(rows, 3) == ("poisoned", "WORKER_LOST")
    assert attempts(troubles.notes)[3] == ward.MAX_ATTEMPTS
    assert ending(rows, 8) == ("failed", "INTERNAL")
    assert attempts(troubles.notes)[8] == 1


def test_C04_an_exception_fails_one_series(troubles: Troubles, rows: dict) -> None:
    assert 4 in played(troubles.notes)
    assert ending(rows, 4) == ("failed", "INTERNAL")
    assert rows[uid_of(4)]["detail"] == "RuntimeError"


def test_C05_a_full_device_fails_one_series_and_the_worker_lives_on(troubles: Troubles, rows: dict) -> None:
    """Batches are halved before, down to one cube; here not even that fits."""
    assert 5 in played(troubles.notes)
    assert ending(rows, 5) == ("failed", "GPU_OOM")
    assert attempts(troubles.notes)[5] == 1


def test_C06_a_series_that_eats_memory_ends_its_worker_and_is_given_up(
    troubles: Troubles, rows: dict
) -> None:
    assert attempts(troubles.notes)[6] == ward.MAX_ATTEMPTS
    assert ending(rows, 6) == ("poisoned", "MEMORY")


def test_C07_after_a_lost_device_another_process_goes_on(troubles: Troubles, rows: dict) -> None:
    assert 7 in played(troubles.notes)
    assert attempts(troubles.notes)[7] == 2
    assert ending(rows, 7) == ("ok", None)


def test_no_worker_died_but_those_that_were_made_to(troubles: Troubles) -> None:
    assert len(list(troubles.notes.glob("start-*"))) == 1 + ward.DEATHS


def test_every_series_has_one_row_with_its_reason_and_the_output_verifies(
    troubles: Troubles, rows: dict
) -> None:
    assert troubles.code == 2, troubles.err
    assert "Traceback" not in troubles.err
    said = json.loads(troubles.out)
    report = verify(troubles.output)
    assert report.ok, [str(finding) for finding in report.findings]
    assert report.series_by_status == said
    assert (
        said["ok"] == 4
    )  # the fine one, the two that are fine the second time, the one with canaries everywhere
    refused = Counter(row["reason"] for row in rows.values() if row["status"] == "rejected")
    expected = Counter(reason for reason, _ in ward.REFUSED.values())
    assert refused == expected + Counter(["NOT_DICOM"])
    assert sum(said.values()) == len(rows) == 1 + len(ward.PARTS) + len(ward.ONCE) + 1 + sum(refused.values())
