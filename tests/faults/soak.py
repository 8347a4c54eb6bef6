"""Run a cohort while everything around it fails, and count: how many series in, figures and a verdict out.

`python -m tests.faults.soak [SERIES]` (5,000): five in a hundred series are faulty, of every kind; a replica is killed
every so often, the driver twice, the S3 server once and started again, and the store asks for fewer requests in bursts.
Each run that ends early is started again. Then every series must be recorded once with its own outcome, `verify` must
find nothing, and no canary may be anywhere. Ends with 1 where anything is not so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.shards import SERIES_FILES, read_shard
from pipelines.store import Store, StoreError, open_store
from pipelines.verify import verify
from tests.faults import ward
from tests.faults.cohort import series, uid_of
from tests.faults.process import Started, descendants
from tests.faults.run_troubled import Asked
from tests.faults.sinks import CANARIES, holding, laid_open
from tests.faults.troubled import Part
from tests.pipelines.fault_proxy import Fault, Plan, fault_proxy
from tests.s3_server import S3Server, running_server, start

FAULTY_OF_A_HUNDRED = 5
KILL_A_REPLICA_EVERY_S = 60.0
BURST_EVERY_S, BURST_REQUESTS = 15.0, 4
DRIVER_KILLS_AT, SERVER_KILL_AT = (0.3, 0.6), 0.45  # of the series
MOST_RUNS = 12
RESOURCES = {"max_attempts": 4, "series_memory_bytes": 2 << 30, "max_share_of_one_reason": 1.0}
PARTS = (Part.KILL, Part.RAISE, Part.LEAVE, Part.DEVICE_FULL, Part.EXIT)
OUTCOMES = {
    Part.KILL: ("poisoned", "WORKER_LOST"),
    Part.EXIT: ("poisoned", "WORKER_LOST"),
    Part.RAISE: ("failed", "INTERNAL"),
    Part.LEAVE: ("failed", "INTERNAL"),
    Part.DEVICE_FULL: ("failed", "GPU_OOM"),
}


@dataclass
class Cohort:
    """What was written: parts of the segmenter, and how each series should end, by its UID."""

    parts: dict[int, str] = field(default_factory=dict)
    once: dict[int, str] = field(default_factory=dict)
    expected: dict[str, tuple[str, str | None]] = field(default_factory=dict)


def write(store: Store, count: int) -> Cohort:
    """Series 0, 1, ...; of every hundred, one is refused, one gets its worker into trouble for good, two once, one
    has a canary in every element."""
    cohort, refused = Cohort(), list(ward.REFUSED_BY_EDIT.values())
    for number in range(count):
        knobs, outcome = {"bits_stored": 16}, ("ok", None)
        match number % 100:
            case 10:
                reason, edits = refused[number // 100 % len(refused)]
                knobs, outcome = knobs | edits, ("rejected", reason)
            case 30:
                part = PARTS[number // 100 % len(PARTS)]
                cohort.parts[number], outcome = part, OUTCOMES[part]
            case 50 | 70:
                cohort.once[number] = Part.KILL if number % 200 < 100 else Part.DEVICE_LOST
            case 90:
                knobs["edit"] = ward.canaries_everywhere
        cohort.expected[uid_of(number)] = outcome
        for name, data in ward.quietly(lambda number=number, knobs=knobs: series(number, **knobs)):
            store.put(f"s{number:05}/{name}", data)
    return cohort


@dataclass
class Figures:
    """What happened."""

    runs: list[int] = field(default_factory=list)  # exit codes
    driver_kills: int = 0
    replica_kills: int = 0
    server_kills: int = 0
    throttled: int = 0
    said: list[str] = field(default_factory=list)
    resident_mib: list[tuple[float, float, float]] = field(
        default_factory=list
    )  # records, driver, largest replica


class Soak:
    """One soak: its server, its cohort, and the hand that breaks things."""

    def __init__(self, folder: Path, server: S3Server, plan: Plan, endpoint_url: str, count: int) -> None:
        self.folder, self.server, self.plan, self.count = folder, server, plan, count
        self.environment = server.environment | {"AWS_ENDPOINT_URL": endpoint_url}
        os.environ.update(self.environment)
        self.address = f"s3://{server.bucket}/soak"
        self.direct = open_store(f"{self.address}/output", server.endpoint_url)
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.figures = Figures()
        self.process = server.process
        # over all runs: one alone may be shorter than the time between two kills
        self._started_s = self._killed_s = time.monotonic()
        self.cohort = write(open_store(f"{self.address}/source", server.endpoint_url), count)

    def run(self) -> None:
        """Runs, until one comes to its end."""
        while not self.figures.runs or self.figures.runs[-1] not in (0, 2):
            if len(self.figures.runs) == MOST_RUNS or 1 in self.figures.runs:
                raise SystemExit(f"no end after {len(self.figures.runs)} runs: {self.figures.said[-1]}")
            self._one({})

    def _one(self, options: dict[str, bool]) -> None:
        asked = Asked(
            f"{self.address}/source",
            f"{self.address}/output",
            str(self.notes),
            ward.CONFIG | {"resources": RESOURCES},
            self.cohort.parts,
            self.cohort.once,
            options=options,
        )
        started = Started(
            asked, self.environment | {"RAY_TMPDIR": str(self.folder / "r"), "CTSAM3D_DEBUG": "1"}
        )
        try:
            self._break_things(started)
            code, out, err = started.ended()
        finally:
            started.end()
        self.figures.runs.append(code)
        self.figures.said += [out, err]
        last = err.splitlines()[-1:]
        print(f"run {len(self.figures.runs)}: exit {code}, {self._records()} records, {last}", flush=True)

    def _break_things(self, started: Started) -> None:
        """Look on, and break what is due, until the run ends."""
        burst_s = time.monotonic()
        while started.process.poll() is None:
            time.sleep(2.0)
            started.children |= descendants(started.process.pid)
            records, now_s = self._records(), time.monotonic()
            self._measure(started, records)
            if now_s - burst_s > BURST_EVERY_S:
                burst_s = now_s
                self.plan.method = "GET" if self.plan.method == "PUT" else "PUT"
                self.plan.faults[:] = [Fault.BUSY] * BURST_REQUESTS
            if now_s - self._killed_s > KILL_A_REPLICA_EVERY_S:
                self._killed_s = now_s
                self.figures.replica_kills += _kill_replica(started.process.pid)
            if self.figures.server_kills == 0 and records > SERVER_KILL_AT * self.count:
                self._restart_server()
            due = sum(records > share * self.count for share in DRIVER_KILLS_AT)
            if self.figures.driver_kills < due and started.process.poll() is None:
                self.figures.driver_kills += 1
                started.process.kill()

    def _records(self) -> int:
        try:
            return sum(1 for _ in self.direct.list("records"))
        except StoreError:
            return 0  # the server is down

    def _restart_server(self) -> None:
        self.process.kill()
        self.process.wait()
        self.figures.server_kills += 1
        time.sleep(3.0)
        self.process = start(self.server.process.args, self.folder / "server")  # type: ignore[arg-type]

    def _measure(self, started: Started, records: int) -> None:
        replicas = [_resident_mib(pid) for pid in _replicas(started.process.pid)]
        driver = _resident_mib(started.process.pid)
        if driver and replicas:
            self.figures.resident_mib.append((records, driver, max(replicas)))

    def judge(self) -> list[str]:
        """Everything that is not as it should be."""
        wrong: list[str] = []
        report = verify(self.direct)
        wrong += [str(finding) for finding in report.findings[:20]]
        rows = [
            row
            for shard in SERIES_FILES.shards(self.direct)
            for row in read_shard(self.direct, SERIES_FILES, shard).to_pylist()
        ]
        found = {row["series_instance_uid"]: (row["status"], row["reason"]) for row in rows}
        if len(rows) != self.count or found.keys() != self.cohort.expected.keys():
            wrong.append(f"{len(rows)} rows of {len(found)} series, {self.count} expected")
        others = Counter(
            (self.cohort.expected[uid], ending)
            for uid, ending in found.items()
            if ending != self.cohort.expected[uid]
        )
        wrong += [f"{count} series ended {ending}, expected {due}" for (due, ending), count in others.items()]
        sinks = {f"said {i}": text.encode() for i, text in enumerate(self.figures.said)}
        for entry in self.direct.list():
            sinks.update(laid_open(f"object {entry.key}", self.direct.get(entry.key)))
        for file in (self.folder / "r").rglob("*"):
            if file.is_file():
                sinks.update(laid_open(f"file {file.name}", file.read_bytes()))
        for canary in CANARIES:
            wrong += [f"{canary} in {name}" for name in holding(sinks, canary)]
        figures = self.figures
        enough = time.monotonic() - self._started_s < KILL_A_REPLICA_EVERY_S or figures.replica_kills
        if (figures.driver_kills, figures.server_kills) != (2, 1) or not self.plan.fired or not enough:
            wrong.append(
                f"not everything was broken: {figures.driver_kills} driver kills, {figures.replica_kills} of replicas, "
                f"{figures.server_kills} of the server, {len(self.plan.fired)} refused requests"
            )
        print(json.dumps(self._summary(report.series_by_status, len(sinks)), indent=1))
        return wrong

    def _summary(self, by_status: dict[str, int], searched: int) -> dict[str, object]:
        figures = self.figures
        third = max(1, len(figures.resident_mib) // 3)
        memory = {
            name: [round(statistics.median(sample[i] for sample in part)) for part in
                   (figures.resident_mib[:third], figures.resident_mib[-third:])]
            for i, name in ((1, "driver"), (2, "replica"))
        }  # fmt: skip
        return {
            "series": self.count,
            "by_status": by_status,
            "runs_exit_codes": figures.runs,
            "driver_kills": figures.driver_kills,
            "replica_kills": figures.replica_kills,
            "server_kills": figures.server_kills,
            "requests_throttled": len(self.plan.fired),
            "resident_mib_first_and_last_third": memory,
            "texts_searched_for_canaries": searched,
        }


def _replicas(pid: int) -> list[int]:
    """Ids of the processes that hold the weights, of those that a driver has started."""
    found = []
    for child in descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"Replica" in words:
            found.append(child)
    return found


def _kill_replica(pid: int) -> int:
    """Kill one of them; how many were killed."""
    for child in _replicas(pid)[:1]:
        os.kill(child, signal.SIGKILL)
        return 1
    return 0


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


@contextmanager
def soaking(count: int) -> Iterator[Soak]:
    """A server, a cohort in it, and a folder; all gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))  # a short path, for sockets
    (folder / "r").mkdir()
    with (
        running_server(folder / "server") as server,
        fault_proxy(server.endpoint_url) as (endpoint_url, plan),
    ):
        soak = Soak(folder, server, plan, endpoint_url, count)
        try:
            yield soak
        finally:
            soak.process.kill()
            soak.process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    start_s = time.monotonic()
    with soaking(count) as soak:
        print(f"{count} series written in {time.monotonic() - start_s:.0f} s", flush=True)
        soak.run()
        wrong = soak.judge()
    print(f"{time.monotonic() - start_s:.0f} s")
    for line in wrong:
        print(f"WRONG {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
