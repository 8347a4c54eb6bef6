"""Run a cohort with the threshold segmenter, as a process that tests can kill: SOURCE OUTPUT NOTES SECONDS."""

import sys
from pathlib import Path

from pipelines import driver
from pipelines.cli import exit_code_of
from pipelines.config import RunConfig
from tests.threshold import ThresholdSource


def main() -> int:
    source, output, notes, seconds = sys.argv[1:5]
    stores = driver.open_stores(source, output)
    summary = driver.run(stores, RunConfig(), ThresholdSource(float(seconds), Path(notes)))
    return 0 if summary.is_clean else 2


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
