"""Run a cohort with a segmenter that gets its workers into trouble, as a process: one JSON argument, see `Asked`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import driver
from pipelines.config import RunConfig, parse_config
from pipelines.ending import exit_code_of
from tests.faults.troubled import Part, Troubled


@dataclass(frozen=True)
class Asked:
    """What the process is to do.

    Attributes:
        source, output: addresses of stores.
        notes: folder of the segmenter's notes.
        config: settings, as a TOML file holds them.
        parts, once: as of `Troubled`.
        seconds: every series takes.
        options: of `driver.run`.
    """

    source: str
    output: str
    notes: str
    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[int, str] = field(default_factory=dict)
    once: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    options: dict[str, bool] = field(default_factory=dict)

    def to_argument(self) -> str:
        return json.dumps(asdict(self))


def main() -> int:
    asked = Asked(**json.loads(sys.argv[1]))
    config: RunConfig = parse_config(asked.config)
    parts, once = ({int(k): Part(v) for k, v in given.items()} for given in (asked.parts, asked.once))
    segmenter = Troubled(Path(asked.notes), parts, once, asked.seconds)
    summary = driver.run(driver.open_stores(asked.source, asked.output), config, segmenter, **asked.options)
    print(json.dumps(summary.series_by_status))
    return 0 if summary.is_clean else 2


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
