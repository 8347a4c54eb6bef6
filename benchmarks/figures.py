"""Values measured -> figures: a name, a value with its unit, and its ratio to a baseline of the same run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def clock_on(name: str, device: str) -> Clock:
    """A clock that first waits until a device has done what it was given, if it is one that does not say so."""
    clock = CLOCKS[name]
    if device != "cuda":
        return clock
    import torch

    def after_the_device() -> float:
        torch.cuda.synchronize()
        return clock()

    return after_the_device


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a report.

    Attributes:
        part: of the suite.
        name: what was measured.
        value: how much.
        unit: of the value.
        ratio: of the value to the baseline's; below 1 is less. None for a baseline and for what has none.
        of: the baseline's name.
    """

    part: str
    name: str
    value: float
    unit: str
    ratio: float | None = None
    of: str | None = None

    def line(self) -> str:
        """As a row of the table."""
        against = "" if self.ratio is None else f"{self.ratio:8.3f} x {self.of}"
        return f"{self.part:7} {self.name:58} {self.value:12.4g} {self.unit:8}{against}"

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def against(
    part: str, values: Mapping[str, float], unit: str, baseline: str, prefix: str = ""
) -> list[Figure]:
    """A figure for each value, with its ratio to the one named `baseline`."""
    base = values[baseline]
    return [
        Figure(part, prefix + name, value, unit)
        if name == baseline or base == 0
        else Figure(part, prefix + name, value, unit, value / base, prefix + baseline)
        for name, value in values.items()
    ]


def interleaved(works: Mapping[str, Work], repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each work. All run once, uncounted; then in turn, so that a busy machine is so for all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = clock()
            work()
            if turn:
                seconds[name].append(clock() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def machine() -> dict[str, Any]:
    """Where the figures were measured."""
    import torch  # here, for the processes that measure their memory without it

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "processor": models[0].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "amx": bool(capabilities.get("amx_tile")),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_bytes() -> int:
    """Most memory this process has held; unlike the system's own count, nothing of a parent's."""
    (peak,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(peak.split()[1]) * 1024
