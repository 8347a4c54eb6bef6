"""Benchmarks: parts by name in, figures out; JSON on stdout, a table on stderr.

Machines are noisy: what counts is a figure's ratio to its baseline, timed in turn with it in the same run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

import torch

from benchmarks.figures import CLOCKS, Figure, machine

PARTS = ("decode", "study", "masks", "cohort", "memory", "growth")
_OPTIONS_OF = {"masks": "study", "cohort": "study"}  # whose options a part takes beside its own


def main() -> None:
    """Run the parts that are named, by default all, each as short as it can be."""
    # each part's packages are needed only where it is asked for
    named = {part for part in PARTS if part in sys.argv[1:]} or set(PARTS)
    named |= {_OPTIONS_OF[part] for part in named & set(_OPTIONS_OF)}
    modules = {part: importlib.import_module(f"benchmarks.{part}") for part in PARTS if part in named}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed in turn; the median counts")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu on a machine that others use too"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="of decode and study; others know none"
    )
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    for part, module in modules.items():
        module.options(parser.add_argument_group(part, str(module.__doc__).partition("\n")[0]))
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    figures: list[Figure] = []
    for part in chosen.parts or PARTS:
        for figure in modules[part].run(chosen):
            figures.append(figure)
            print(figure.line(), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "figures": [figure.plain() for figure in figures]}, indent=1))


if __name__ == "__main__":
    main()
