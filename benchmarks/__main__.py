"""Time the network and a whole study on this machine -> JSON on stdout, a short table on stderr.

Machines are noisy: every figure is a median, and what counts is its ratio to the baseline timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.network import build
from ctsam3d.network.config import CUBE_VOXELS, SIZES
from ctsam3d.segmentation.segmenter import Segmenter

STUDY = Path(__file__).parent.parent / "demo" / "studies" / "cptac_pda_chest"
STRUCTURES = ("lung_left", "lung_right", "liver", "spleen", "kidney_left", "kidney_right", "heart")


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median of `repeats` timings, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@torch.inference_mode()
def network(sizes: list[str], batches: list[int], repeats: int) -> list[dict[str, Any]]:
    """Seconds to embed and to decode one cube; ratios to the first size at the first batch."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        model = build(size).eval()
        for batch in batches:
            cubes = torch.rand(batch, len(SIZES[size].windows_hu), CUBE_VOXELS, CUBE_VOXELS, CUBE_VOXELS)
            clicks = torch.full((batch, 1, 3), CUBE_VOXELS / 2)
            labels = torch.ones((batch, 1), dtype=torch.long)
            embeddings = model.embed(cubes)
            embed = median_seconds(lambda m=model, c=cubes: m.embed(c), repeats) / batch
            decode = (
                median_seconds(lambda m=model, e=embeddings, c=clicks, k=labels: m.decode(e, c, k), repeats)
                / batch
            )
            rows.append({"size": size, "batch": batch, "embed_s": embed, "decode_s": decode})
            rows[-1]["decode_ratio"] = decode / rows[0]["decode_s"]
    return rows


def study(repeats: int) -> dict[str, Any]:
    """Seconds by stage of one real chest CT, and each stage's share."""
    started = time.perf_counter()
    volume = read_folder(STUDY).volume
    read = time.perf_counter() - started
    segmenter = Segmenter.load()
    runs = [segmenter.segment(volume, STRUCTURES).seconds for _ in range(repeats)]
    stages = {"read": read} | {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = sum(stages.values())
    return {
        "structures": len(STRUCTURES),
        "seconds": stages,
        "share": {name: seconds / total for name, seconds in stages.items()},
    }


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["nano", "restv2_tiny"], choices=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    report = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "network": network(options.sizes, options.batches, options.repeats),
        "study": study(options.repeats),
    }
    print(json.dumps(report, indent=2))
    for row in report["network"]:
        print(
            f"{row['size']:14} batch {row['batch']:3}  decode {row['decode_s'] * 1000:8.0f} ms a cube, "
            f"{row['decode_ratio']:6.2f} x the first",
            file=sys.stderr,
        )
    for name, share in report["study"]["share"].items():
        print(f"study  {name:10} {share:6.1%}", file=sys.stderr)


if __name__ == "__main__":
    main()
