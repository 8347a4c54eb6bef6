"""The contract of a store, against a local folder and a real S3 server; and how a missing one looks."""

from __future__ import annotations

import pickle
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from pipelines.store import (
    AccessDenied,
    Changed,
    ConditionIgnored,
    InvalidLocation,
    NotFound,
    Store,
    StoreError,
    Throttled,
    Unreachable,
    check_key,
    open_store,
)
from tests.pipelines.fault_proxy import Fault, Plan, fault_proxy
from tests.s3_server import SECRET_KEY, S3Server


class StoreContract:
    """What every kind of store must do. A subclass provides the `store` fixture: empty, and nobody else's."""

    def test_what_was_put_is_what_one_gets(self, store: Store) -> None:
        store.put("a/b.bin", b"\x00\x01")
        assert store.get("a/b.bin") == b"\x00\x01"
        store.put("a/b.bin", b"another")
        assert store.get("a/b.bin") == b"another"

    def test_an_object_of_nothing_is_an_object(self, store: Store) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.get_range("empty", 0, 10) == b""
        assert [(o.key, o.size) for o in store.list()] == [("empty", 0)]

    def test_a_range_ends_with_the_object(self, store: Store) -> None:
        store.put("r", bytes(range(100)))
        assert store.get_range("r", 10, 5) == bytes(range(10, 15))
        assert store.get_range("r", 95, 50) == bytes(range(95, 100))
        assert store.get_range("r", 100, 50) == b""

    def test_a_missing_object_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nope") as error:
            store.get("nope")
        assert "\n" not in str(error.value)
        with pytest.raises(NotFound):
            store.get_range("nope", 0, 1)
        assert not store.exists("nope")

    def test_deleting_is_final_and_may_be_repeated(self, store: Store) -> None:
        store.put("x", b"1")
        assert store.exists("x")
        store.delete("x")
        store.delete("x")
        assert not store.exists("x")

    def test_listing_finds_every_object_under_a_folder_and_no_other(self, store: Store) -> None:
        keys = {f"in/{i:04d}" for i in range(1100)}  # more than a page
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"abc"), sorted(keys | {"inner", "out/1"})))
        listed = list(store.list("in"))
        assert {o.key for o in listed} == keys and len(listed) == len(keys)
        assert all(o.size == 3 and o.etag for o in listed)
        assert len(list(store.list())) == len(keys) + 2
        assert list(store.list("nothing/here")) == []

    def test_odd_names_survive(self, store: Store) -> None:
        for key in ("a b", "per%2Fcent", "ünïcode/é", "plus+and&", "hash#tag"):
            store.put(key, key.encode())
            assert store.get(key) == key.encode()
        assert {o.key for o in store.list()} == {"a b", "per%2Fcent", "ünïcode/é", "plus+and&", "hash#tag"}

    def test_put_if_absent_never_replaces(self, store: Store) -> None:
        assert store.put_if_absent("once", b"first")
        assert not store.put_if_absent("once", b"second")
        assert store.get("once") == b"first"

    def test_of_many_racing_writers_one_wins_and_its_bytes_stay(self, store: Store) -> None:
        writers = [f"writer {i}".encode() * 2000 for i in range(12)]
        with ThreadPoolExecutor(12) as pool:
            won = list(pool.map(lambda data: store.put_if_absent("race", data), writers))
        assert won.count(True) == 1
        assert store.get("race") == writers[won.index(True)]

    def test_a_reader_never_sees_half_a_replacement(self, store: Store) -> None:
        versions = [bytes([i]) * 300_000 for i in range(6)]
        store.put("atomic", versions[0])

        def read_often() -> set[bytes]:
            return {store.get("atomic") for _ in range(30)}

        with ThreadPoolExecutor(2) as pool:
            seen = pool.submit(read_often)
            for version in versions:
                store.put("atomic", version)
            assert seen.result() <= set(versions)

    def test_the_etag_guards_against_an_object_that_changed(self, store: Store) -> None:
        store.put("guarded", b"one")
        (entry,) = store.list()
        assert store.get("guarded", if_match=entry.etag) == b"one"
        store.put("guarded", b"two")
        with pytest.raises(Changed):
            store.get("guarded", if_match=entry.etag)

    def test_the_probe_passes_and_leaves_nothing(self, store: Store) -> None:
        store.check_put_if_absent()
        assert list(store.list()) == []

    def test_a_pickled_store_opens_the_same_address(self, store: Store) -> None:
        store.put("p", b"1")
        data = pickle.dumps(store)
        assert SECRET_KEY.encode() not in data
        assert pickle.loads(data).get("p") == b"1"

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0b", "a\nb"])
    def test_keys_that_leave_the_store_are_refused_by_every_method(self, store: Store, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.put(key, b""),
            lambda: store.put_if_absent(key, b""),
            lambda: store.exists(key),
            lambda: store.delete(key),
        ]
        for call in calls:
            with pytest.raises(InvalidLocation):
                call()


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(str(tmp_path / "new folder"), create=True)

    def test_a_file_address_is_the_same_folder(self, tmp_path: Path) -> None:
        open_store(str(tmp_path)).put("a", b"1")
        assert open_store(tmp_path.as_uri()).get("a") == b"1"

    def test_a_relative_path_does_not_depend_on_where_a_worker_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path)
        store = open_store("here")
        data = pickle.dumps(store)
        monkeypatch.chdir("/")
        pickle.loads(data).put("a", b"1")
        assert (tmp_path / "here" / "a").read_bytes() == b"1"

    def test_a_missing_folder_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="the folder does not exist") as error:
            open_store(str(tmp_path / "gone"))
        assert "\n" not in str(error.value)

    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(InvalidLocation, match="not a folder"):
            open_store(str(tmp_path / "file"))
        with pytest.raises(StoreError):
            open_store(str(tmp_path / "file" / "below"), create=True)

    @pytest.mark.parametrize("uri", ["", "gs://bucket", "file://host/path", "s3://", "s3://user:pw@bucket/x"])
    def test_other_addresses_are_refused(self, uri: str) -> None:
        with pytest.raises(InvalidLocation) as error:
            open_store(uri)
        assert "pw" not in str(error.value)

    def test_the_probe_finds_a_store_that_overwrites(self, store: Store) -> None:
        class Careless(Store):
            def put_if_absent(self, key: str, data: bytes) -> bool:
                self.put(key, data)
                return True

        with pytest.raises(ConditionIgnored):
            Careless(store.uri).check_put_if_absent()


@pytest.mark.s3
class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, aws_environment: S3Server) -> Store:
        return open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}/deep")

    def test_an_endpoint_may_be_given_instead_of_the_variable(
        self, aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        prefix = uuid.uuid4().hex
        store = open_store(f"s3://{aws_environment.bucket}/{prefix}", aws_environment.endpoint_url)
        store.put("a", b"1")
        assert pickle.loads(pickle.dumps(store)).get("a") == b"1"

    def test_a_missing_bucket_is_one_line_and_is_not_made(self, aws_environment: S3Server) -> None:
        for _ in range(2):
            with pytest.raises(NotFound, match="s3://no-such-bucket/x: the bucket does not exist") as error:
                open_store("s3://no-such-bucket/x", create=True)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_keys_are_one_line_without_the_keys(
        self, aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "canary-0123456789")
        with pytest.raises(AccessDenied, match=f"s3://{aws_environment.bucket}: access denied") as error:
            open_store(f"s3://{aws_environment.bucket}")
        shown = str(error.value) + repr(error.value) + repr(error.value.__cause__)
        assert "canary" not in shown and SECRET_KEY not in shown and "\n" not in str(error.value)

    def test_keys_that_stop_working_later_are_denied_too(
        self, store: Store, aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put("a", b"1")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
        later = pickle.loads(pickle.dumps(store))
        for call in (
            lambda: later.get("a"),
            lambda: later.put("a", b""),
            lambda: later.put_if_absent("b", b""),
        ):
            with pytest.raises(AccessDenied):
                call()


@pytest.mark.s3
class TestFaultsOnTheWay:
    """Faults N01, N02 and N13: a busy store, one that stays busy, and an answer that never came."""

    @pytest.fixture
    def wire(self, aws_environment: S3Server) -> Iterator[tuple[Store, Plan]]:
        with fault_proxy(aws_environment.endpoint_url) as (endpoint, plan):
            yield open_store(f"s3://{aws_environment.bucket}/{uuid.uuid4().hex}", endpoint), plan

    def test_a_busy_store_is_asked_again(self, wire: tuple[Store, Plan]) -> None:
        store, plan = wire
        plan.faults = [Fault.BUSY] * 2
        assert store.put_if_absent("a", b"1")
        plan.faults = [Fault.BUSY] * 2
        store.put("b", b"2")
        assert plan.fired == [Fault.BUSY] * 4
        assert (store.get("a"), store.get("b")) == (b"1", b"2")

    def test_a_store_that_is_away_for_seconds_costs_nothing(self, wire: tuple[Store, Plan]) -> None:
        """As long as one takes that is started again."""
        store, plan = wire
        store.put("a", b"1")
        plan.method, plan.always = "GET", Fault.RESET
        back = Timer(4.0, setattr, (plan, "always", None))
        back.start()
        assert store.get("a") == b"1"
        back.join()
        assert len(plan.fired) > 4

    def test_a_store_that_stays_busy_is_given_up_soon(self, wire: tuple[Store, Plan]) -> None:
        store, plan = wire
        plan.faults = [Fault.BUSY] * 100
        start = time.monotonic()
        with pytest.raises(Throttled) as error:
            store.put_if_absent("a", b"1")
        assert time.monotonic() - start < 15 and 1 < len(plan.fired) < 10
        assert "\n" not in str(error.value)
        assert not store.exists("a")

    def test_a_write_whose_answer_was_lost_counts_as_written(self, wire: tuple[Store, Plan]) -> None:
        store, plan = wire
        plan.faults = [Fault.LOST_ANSWER]
        assert store.put_if_absent("a", b"mine")
        assert plan.fired == [Fault.LOST_ANSWER]
        assert store.get("a") == b"mine"

    def test_a_lost_answer_does_not_claim_the_object_of_another(self, wire: tuple[Store, Plan]) -> None:
        store, plan = wire
        store.put("a", b"theirs")
        plan.faults = [Fault.LOST_ANSWER]
        assert not store.put_if_absent("a", b"mine")
        assert plan.fired == [Fault.LOST_ANSWER]
        assert store.get("a") == b"theirs"


class TestUnreachableS3:
    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")

    def test_a_server_that_is_not_there_is_one_line_and_soon(self) -> None:
        with socket.socket() as nobody:  # bound and not listening: every connection is refused
            nobody.bind(("127.0.0.1", 0))
            start = time.monotonic()
            with pytest.raises(Unreachable, match="no answer") as error:
                open_store("s3://bucket", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert time.monotonic() - start < 20
        assert "\n" not in str(error.value) and "canary" not in str(error.value)

    def test_no_credentials_at_all_says_which_variables_to_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
            open_store("s3://bucket", "http://127.0.0.1:1")

    def test_an_endpoint_without_a_scheme_is_refused(self) -> None:
        with pytest.raises(InvalidLocation, match="http://"):
            open_store("s3://bucket", "127.0.0.1:8333")


def test_a_good_key_is_returned_as_it_is() -> None:
    assert check_key("records/ab/abc.parquet") == "records/ab/abc.parquet"
