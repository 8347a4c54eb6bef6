"""Faults N01-N16: a store that is busy, slow, forgetful, refuses, lies or is not there; most before a real one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Status
from pipelines import store_address
from pipelines.cohort.discover import discover
from pipelines.cohort.fetch import fetch
from pipelines.cohort.load import load
from pipelines.cohort.work import Work
from pipelines.driver import Stores, open_stores
from pipelines.faults import Aborted, UsageError
from pipelines.manifest import SeriesRef
from pipelines.reasons import Failure
from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import (
    AccessDenied,
    InvalidLocation,
    ObjectInfo,
    Store,
    StoreError,
    Throttled,
    Unreachable,
    open_store,
)
from tests.faults.cohort import run, uid_of, write_series
from tests.faults.stores import MortalStore
from tests.pipelines.dicom_objects import ct_object, uid
from tests.pipelines.fault_proxy import Fault, Plan, fault_proxy
from tests.pipelines.s3_in_memory import careless, endless, serving
from tests.s3_server import S3Server

pytestmark = pytest.mark.s3

ROOT = Path(__file__).parents[2]
LIMITS = Limits(min_extent_mm=0.0, check_hounsfield=False)
GONE = (Fault.BROKEN, Fault.BAD_GATEWAY, Fault.TIMED_OUT, Fault.RESET, Fault.LOST_ANSWER)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same retries, with shorter pauses between them."""
    backoff = {
        "init_backoff": timedelta(milliseconds=5),
        "max_backoff": timedelta(milliseconds=50),
        "base": 2,
    }
    monkeypatch.setitem(store_address._RETRIES, "backoff", backoff)


@pytest.fixture
def wire(aws_environment: S3Server) -> Iterator[tuple[Store, Plan]]:
    """A store whose every request passes the proxy, with two series in it."""
    with fault_proxy(aws_environment.endpoint_url) as (endpoint, plan):
        store = open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}", endpoint)
        for number in (1, 2):
            write_series(store, number)
        plan.method = "GET"
        yield store, plan


def refs(source: Store) -> dict[int, SeriesRef]:
    found = {ref.series_instance_uid: ref for ref in discover(source, LIMITS).manifest}
    return {number: found[uid_of(number)] for number in (1, 2) if uid_of(number) in found}


def loaded(source: Store, ref: SeriesRef) -> Work:
    return load(Work(ref, ref.record_key("config", "0" * 64)), source, LIMITS)


def series_rows(output: Store) -> dict[str, tuple[str, str | None]]:
    rows = [
        row for s in SERIES_FILES.shards(output) for row in read_shard(output, SERIES_FILES, s).to_pylist()
    ]
    return {row["series_instance_uid"]: (row["status"], row["reason"]) for row in rows}


def output() -> MortalStore:
    return MortalStore(f"memory://{uuid.uuid4().hex}")


def test_N01_a_burst_of_slow_down_is_waited_out(wire: tuple[Store, Plan]) -> None:
    store, plan = wire
    ref = refs(store)[1]
    plan.path, plan.faults = "s0001/", [Fault.BUSY] * 4
    work = loaded(store, ref)
    assert plan.fired == [Fault.BUSY] * 4
    assert (work.status, work.trace.bytes_read) == (Status.OK, ref.bytes_total)


def test_N02_a_store_that_stays_busy_fails_the_series_and_the_run_goes_on(wire: tuple[Store, Plan]) -> None:
    """Changed: no bucket of tokens; what a series may ask for at a time is bounded (`fetch_threads`), each request
    backs off by itself with jitter, and every further object that is refused adds a bounded number of them."""
    store, plan = wire
    everything = refs(store)
    plan.path, plan.always = "s0001/slice", Fault.BUSY
    failed = loaded(store, everything[1])
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.STORE_THROTTLED)
    retries = store_address._RETRIES["max_retries"]
    assert len(plan.fired) <= len(everything[1].objects) * (1 + retries)
    assert loaded(store, everything[2]).status is Status.OK


def test_N02_the_next_run_takes_up_what_the_store_was_too_busy_for(wire: tuple[Store, Plan]) -> None:
    store, plan = wire
    ends = Stores(store, output())
    everything = refs(store)
    hidden = _busy_after_discovery(store, everything[1], plan)
    summary = run(Stores(hidden, ends.output))
    assert summary.series_by_status == {"ok": 1, "failed": 1} and plan.fired
    assert series_rows(ends.output)[uid_of(1)] == ("failed", "STORE_THROTTLED")
    again = run(ends, retry_failed=True)
    assert (again.series_by_status, again.computed) == ({"ok": 2}, 1)


def _busy_after_discovery(store: Store, ref: SeriesRef, plan: Plan) -> Store:
    """The store, whose server is too busy for whole objects of one series; their beginnings are read."""

    class Busy(Store):
        def get(self, key: str, if_match: str | None = None) -> bytes:
            plan.path, plan.always = "s0001/", Fault.BUSY if key.startswith("s0001/") else None
            try:
                return super().get(key, if_match)
            finally:
                plan.always = None

    return Busy(store.uri, store.endpoint_url)


@pytest.mark.parametrize("fault", GONE)
def test_N03_answers_that_fail_or_never_come_are_asked_for_again(
    wire: tuple[Store, Plan], fault: Fault
) -> None:
    store, plan = wire
    ref = refs(store)[1]
    plan.path, plan.faults = "s0001/", [fault] * 3
    assert loaded(store, ref).status is Status.OK
    assert plan.fired == [fault] * 3
    plan.always = fault
    failed = loaded(store, ref)
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.STORE_READ)


def test_N04_a_body_that_stalls_is_given_up_and_taken_up_again(wire: tuple[Store, Plan], monkeypatch) -> None:
    """Changed: what came is kept and the rest asked for by range; with `If-Match` it is of the same object."""
    store, plan = wire
    ref = refs(store)[1]
    assert sum(store_address._TIMEOUTS.values(), timedelta()) <= timedelta(minutes=2)
    monkeypatch.setitem(store_address._TIMEOUTS, "timeout", timedelta(seconds=2))
    impatient = Store(store.uri, store.endpoint_url)
    plan.path, plan.faults = "s0001/", [Fault.STALLED]
    assert loaded(impatient, ref).status is Status.OK and plan.fired == [Fault.STALLED]


def test_N04_a_store_that_always_stalls_is_given_up(wire: tuple[Store, Plan], monkeypatch) -> None:
    monkeypatch.setitem(store_address._TIMEOUTS, "timeout", timedelta(milliseconds=200))
    store, plan = wire
    slow = Store(store.uri, store.endpoint_url)
    plan.path, plan.always = "s0001/", Fault.STALLED
    with pytest.raises(Unreachable, match="no answer"):
        slow.get("s0001/slice0000.dcm")
    assert len(plan.fired) == 1 + store_address._RETRIES["max_retries"]


def test_N05_a_short_body_is_never_taken_for_the_object(wire: tuple[Store, Plan]) -> None:
    store, plan = wire
    ref = refs(store)[1]
    plan.path, plan.faults = "s0001/", [Fault.SHORT] * 2
    assert loaded(store, ref).status is Status.OK and plan.fired == [Fault.SHORT] * 2
    plan.always = Fault.SHORT
    failed = loaded(store, ref)
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.STORE_READ)


def test_N05_a_short_listing_is_an_error_and_not_a_smaller_cohort(wire: tuple[Store, Plan]) -> None:
    store, plan = wire
    plan.path, plan.always = "list-type=2", Fault.SHORT
    with pytest.raises(StoreError):
        discover(store, LIMITS)
    assert plan.fired


def test_N06_a_bit_that_flips_on_the_way_is_noticed_and_asked_for_again(wire: tuple[Store, Plan]) -> None:
    """Changed: by the ETag, which is the content's MD5 for what was written in one piece; else by nothing but TLS.

    Checksums of S3's own are kept by few stores for objects that were there before them, and the client does not ask.
    """
    store, plan = wire
    ref = refs(store)[1]
    assert all(len((entry.etag or "").strip('"')) == 32 for entry in ref.objects)
    plan.path, plan.faults = "s0001/", [Fault.FLIPPED]
    got = dict(fetch(store, ref.objects, 2))
    assert plan.fired == [Fault.FLIPPED]
    assert got == {entry.key: store.get(entry.key) for entry in ref.objects}


def test_N06_an_object_that_comes_as_other_bytes_each_time_fails_the_series() -> None:
    class Noisy(MortalStore):
        def get(self, key: str, if_match: str | None = None) -> bytes:
            data = bytearray(super().get(key))
            data[-1] ^= next(noise) & 0xFF
            return bytes(data)

    noise = iter(range(1, 1000))
    store = Noisy("memory://noisy")
    write_series(store, 1)
    entries = [
        ObjectInfo(entry.key, entry.size, hashlib.md5(store.objects("s0001")[entry.key]).hexdigest())
        for entry in store.list()
    ]
    with pytest.raises(StoreError, match="came as other bytes each time"):
        list(fetch(store, entries, 1))


def test_N06_etags_that_only_look_like_digests_cost_one_request_of_a_series() -> None:
    calls: list[str] = []

    class Encrypted(MortalStore):
        def get(self, key: str, if_match: str | None = None) -> bytes:
            calls.append(key)
            return super().get(key)

    store = Encrypted("memory://encrypted")
    write_series(store, 1)
    entries = [ObjectInfo(entry.key, entry.size, f'"{i:032x}"') for i, entry in enumerate(store.list())]
    assert dict(fetch(store, entries, 1)) == store.objects("s0001")
    assert len(calls) == len(entries) + 1


def test_N07_credentials_that_expire_end_the_run_and_blame_no_series(wire: tuple[Store, Plan]) -> None:
    """Changed: not refreshed here; a role's or a token file's credentials are renewed by the client before they expire,
    and keys of the environment cannot be."""
    store, plan = wire
    ends = Stores(_denied_after_discovery(store, plan), output())
    with pytest.raises(Aborted):
        run(ends)
    assert Fault.DENIED in plan.fired
    assert not list(ends.output.list("records"))
    done = run(Stores(store, ends.output))
    assert (done.series_by_status, done.computed) == ({"ok": 2}, 2)


def _denied_after_discovery(store: Store, plan: Plan) -> Store:
    class Denied(Store):
        def get(self, key: str, if_match: str | None = None) -> bytes:
            plan.path, plan.always = "slice", Fault.DENIED
            try:
                return super().get(key, if_match)
            finally:
                plan.always = None

    return Denied(store.uri, store.endpoint_url)


def test_N08_an_object_deleted_after_it_was_listed_fails_the_series(wire: tuple[Store, Plan]) -> None:
    store, _ = wire
    ref = refs(store)[1]
    store.delete(ref.objects[2].key)
    failed = loaded(store, ref)
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.OBJECT_VANISHED)


def test_N09_an_object_replaced_after_it_was_listed_fails_the_series(wire: tuple[Store, Plan]) -> None:
    store, _ = wire
    ref = refs(store)[1]
    key = ref.objects[2].key
    store.put(key, store.get(key)[:-2] + b"\1\1")  # as long as before
    failed = loaded(store, ref)
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.OBJECT_CHANGED)
    assert loaded(store, refs(store)[1]).status is Status.OK


def test_N10_what_a_listing_lacked_is_made_anew_once_it_is_listed(aws_environment: S3Server) -> None:
    """Changed: listings are not compared. S3 and its kin list what is there; on a store that does not, a series seen in
    part is a series of other objects, so that its record is of another name than that of the whole one."""
    lacking = True

    def partial(path: str, data: bytes) -> bytes:
        hide = lacking and "list-type=2" in path
        return re.sub(rb"<Contents>(?:(?!</Contents>).)*slice0004.*?</Contents>", b"", data) if hide else data

    prefix = uuid.uuid4().hex
    with fault_proxy(aws_environment.endpoint_url, partial) as (endpoint, _):
        store = open_store(f"s3://{aws_environment.bucket}/{prefix}", endpoint)
        for number in (1, 2):
            write_series(store, number)
        ends = Stores(store, output())
        assert sum(1 for _ in store.list()) == 8
        run(ends)
        lacking = False
        assert sum(1 for _ in store.list()) == 10
        whole = run(ends)
    assert (whole.series_by_status, whole.computed) == ({"ok": 2}, 2)
    rows = [
        r
        for s in SERIES_FILES.shards(ends.output)
        for r in read_shard(ends.output, SERIES_FILES, s).to_pylist()
    ]
    newest = {row["series_instance_uid"]: row["slices"] for row in rows if row["run_id"] == whole.run_id}
    assert newest == {uid_of(1): 5, uid_of(2): 5}


@pytest.fixture
def any_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for servers that ask for none in particular."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")


def test_N11_a_listing_of_many_pages_is_read_as_it_comes(any_keys: None) -> None:
    served: list[int] = []
    with serving(endless(40, served)) as endpoint:
        entries = Store("s3://b", endpoint).list()
        first = [next(entries) for _ in range(1000)]
        assert len(set(first)) == 1000
        assert len(served) < 5  # the rest has not been asked for
        assert sum(1 for _ in entries) == 39_000
    assert served == list(range(40))


def test_N11_odd_names_are_read(aws_store: Store) -> None:
    names = ["a b.dcm", "per%2Fcent.dcm", "ünïcode/é.dcm", "plus+and&.dcm", "hash#tag.dcm", "dots...dcm"]
    for i, name in enumerate(names):
        aws_store.put(f"odd/{name}", ct_object(uid(1), uid(1, 1), i))
    (ref,) = discover(aws_store, LIMITS).manifest
    assert {entry.key for entry in ref.objects} == {f"odd/{name}" for name in names}
    assert loaded(aws_store, ref).status is Status.OK


@pytest.mark.parametrize("name", ["bad//b.dcm", "bad/../b.dcm"])
def test_N11_a_name_that_no_client_can_ask_for_ends_the_listing_and_is_not_passed_over(
    any_keys: None, name: str
) -> None:
    with (
        serving(careless({"good/a.dcm": b"12345", name: b"12345"})) as endpoint,
        pytest.raises(InvalidLocation, match="cannot be addressed") as error,
    ):
        discover(Store("s3://b", endpoint), LIMITS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bad\nb.dcm", b"bad\xe9.dcm".decode("utf-8", "surrogateescape")])
def test_N11_a_file_whose_name_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"12345")
    with pytest.raises(InvalidLocation, match="'/bad.*cannot be addressed") as error:
        open_store(str(tmp_path))
    assert str(error.value).isascii() and "\n" not in str(error.value)


def test_N11_a_slice_whose_name_is_not_accepted_is_in_the_manifest(tmp_path: Path) -> None:
    """Names with a backslash, as an archive unpacked on another system leaves them, are never asked for."""
    store = open_store(str(tmp_path), create=True)
    write_series(store, 1)
    (tmp_path / "s0001" / "slice0002.dcm").rename(tmp_path / "s0001" / "CT\\slice0002.dcm")
    rows = {ref.reason: ref for ref in discover(store, LIMITS).manifest}
    assert {reason: len(ref.objects) for reason, ref in rows.items()} == {None: 4, "MALFORMED": 1}
    assert rows["MALFORMED"].status is Status.REJECTED
    lacking = loaded(store, rows[None])
    assert (lacking.status, lacking.reason) == (Status.REJECTED, "SLICES_MISSING")


def test_N12_of_sixteen_writers_one_wins_and_nothing_is_deleted(aws_store: Store) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        barrier.wait(30)
        return aws_store.put_if_absent("records/one", f"writer {number}".encode() * 500)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert aws_store.get("records/one") == f"writer {won.index(True)}".encode() * 500


@pytest.mark.parametrize("theirs", [None, b"theirs"])
def test_N13_a_write_whose_answer_was_lost_is_ours_if_the_bytes_are(
    wire: tuple[Store, Plan], theirs: bytes | None
) -> None:
    store, plan = wire
    if theirs:
        store.put("records/one", theirs)
    plan.method, plan.path, plan.faults = "PUT", "records/one", [Fault.LOST_ANSWER]
    assert store.put_if_absent("records/one", b"mine") is (theirs is None)
    assert plan.fired == [Fault.LOST_ANSWER]
    assert store.get("records/one") == (theirs or b"mine")


def test_N14_a_store_that_overwrites_is_refused_before_anything_is_written(
    any_keys: None, tmp_path: Path
) -> None:
    """Changed: always refused; there is no way to promise that nobody else writes."""
    (tmp_path / "source").mkdir()
    held: dict[str, bytes] = {}
    with serving(careless(held)) as endpoint:
        store = open_store("s3://b/output", endpoint)
        assert store.put_if_absent("one", b"1") and store.put_if_absent("one", b"2")
        assert held == {"output/one": b"2"}
        with pytest.raises(UsageError, match="does not honour If-None-Match"):
            open_stores(str(tmp_path / "source"), "s3://b/output", endpoint)
    assert held == {"output/one": b"2"}


def test_N15_an_upload_left_unfinished_is_never_seen(aws_store: Store) -> None:
    writer = obstore.open_writer(aws_store._backends.single, "records/half", buffer_size=5 << 20)
    writer.write(bytes(6 << 20))
    writer.flush()  # a part has gone
    assert list(aws_store.list()) == [] and not aws_store.exists("records/half")
    assert aws_store.put_if_absent("records/half", b"whole")
    del writer
    assert aws_store.get("records/half") == b"whole"
    (rule,) = json.loads((ROOT / "infra" / "results-lifecycle.json").read_text())["Rules"]
    assert rule["Status"] == "Enabled" and rule["AbortIncompleteMultipartUpload"] == {
        "DaysAfterInitiation": 1
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.DENIED, AccessDenied), (Fault.BUSY, Throttled), (Fault.BROKEN, Unreachable)],
)
def test_N16_an_output_that_cannot_be_written_is_told_before_anything_is_computed(
    wire: tuple[Store, Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    error: type[StoreError],
) -> None:
    monkeypatch.setattr("pipelines.store._CREATE_PAUSES_S", (0.0, 0.0))
    store, plan = wire
    plan.method, plan.path, plan.always = "PUT", "", fault
    with pytest.raises(error):
        store.check_put_if_absent()
    (tmp_path / "source").mkdir()
    # What may pass by itself is no mistake of the user's.
    with pytest.raises((UsageError, Aborted)) as caught:
        open_stores(str(tmp_path / "source"), f"{store.uri}/output", store.endpoint_url)
    assert "\n" not in str(caught.value) and plan.fired


@pytest.mark.parametrize("end", ["source", "output"])
def test_N16_an_endpoint_where_nobody_answers_is_told_before_anything_is_computed(
    aws_environment: S3Server, tmp_path: Path, end: str
) -> None:
    (tmp_path / "folder").mkdir()
    places = {"source": str(tmp_path / "folder"), "output": str(tmp_path / "folder")} | {end: "s3://cohort/x"}
    with pytest.raises(UsageError, match="no answer"):
        open_stores(places["source"], places["output"], "http://127.0.0.1:9")
