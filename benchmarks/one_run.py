"""A run of its own process: python -m benchmarks.one_run SOURCE OUTPUT STRUCTURES [--in-process]."""

from __future__ import annotations

import sys

from pipelines import driver
from pipelines.config import parse_config
from pipelines.segmenters import BundledOrFile


def main() -> None:
    source, output, structures, *how = sys.argv[1:]
    config = parse_config({"structures": structures})
    summary = driver.run(
        driver.open_stores(source, output), config, BundledOrFile(config.weights, config.precision),
        in_process="--in-process" in how,
    )  # fmt: skip
    if not summary.is_clean:
        raise SystemExit(f"series by status: {summary.series_by_status}")


if __name__ == "__main__":
    main()
