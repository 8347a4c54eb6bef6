"""A source with a few series, an output, and runs from one to the other, each a process: a folder in, a Place out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.store import open_store
from tests.faults.cohort import write_series
from tests.faults.process import Started
from tests.faults.run_troubled import Asked
from tests.faults.ward import CONFIG


class Place:
    """Series 0, 1, ... in `source`; the runs' records in `output`, the segmenter's notes in `notes`."""

    def __init__(self, folder: Path, series: int) -> None:
        self.source, self.output, self.notes = (folder / name for name in ("source", "output", "notes"))
        self._started: list[Started] = []
        for made in (self.source, self.output, self.notes):
            made.mkdir()
        store = open_store(str(self.source))
        for number in range(series):
            write_series(store, number)

    def start(self, seconds: float, resources: dict[str, Any] | None = None) -> Started:
        """A run in which each series takes so long."""
        config = CONFIG | {"resources": resources or {}}
        asked = Asked(str(self.source), str(self.output), str(self.notes), config, seconds=seconds)
        self._started.append(Started(asked))
        return self._started[-1]

    def records(self) -> set[str]:
        """Names of the records there are."""
        return {file.name for file in (self.output / "records").rglob("*.parquet")}

    def has_records(self, count: int) -> Callable[[], bool]:
        """Whether there are so many, asked again and again."""
        return lambda: len(self.records()) >= count

    def first_record_s(self) -> float:
        """When the first of them was written, by the clock of files."""
        return min(file.stat().st_mtime for file in (self.output / "records").rglob("*.parquet"))

    def left(self, pattern: str) -> list[Path]:
        """Files of the output by their names."""
        return list(self.output.rglob(pattern))

    def end(self) -> None:
        """End what still runs."""
        for run in self._started:
            run.end()
