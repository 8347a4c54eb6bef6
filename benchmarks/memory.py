"""Peak memory of a process that segments one study, by size of the volume and by number of structures.

Each measurement is a process of its own. Volumes are the bundled chest, repeated along z until it has as many slices.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Figure, peak_bytes
from benchmarks.studies import CHEST


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slices", nargs="+", type=int, default=[100, 200], help="of 512 x 512 voxels")
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[1, 10], help="structures; at most all there are"
    )


def run(chosen: argparse.Namespace) -> Iterator[Figure]:
    few, small = chosen.counts[0], chosen.slices[0]
    yield Figure("memory", "weights loaded, no study", _peak(0, 0), "byte")
    base = f"512 x 512 x {small}, {few} structures, peak"
    reference = _peak(small, few)
    yield Figure("memory", base, reference, "byte")
    others = [(n, few) for n in chosen.slices[1:]] + [(small, count) for count in chosen.counts[1:]]
    for slices, count in others:
        peak = _peak(slices, count)
        name = f"512 x 512 x {slices}, {count} structures, peak"
        yield Figure("memory", name, peak, "byte", peak / reference, base)


def _peak(slices: int, structures: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", str(slices), str(structures)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def _segment(slices: int, structures: int) -> None:
    """In a process of its own: segment and measure, then print the process's peak in bytes."""
    from ctsam3d.imaging.dicom import read_folder
    from ctsam3d.imaging.geometry import Geometry
    from ctsam3d.imaging.volume import Volume
    from ctsam3d.network.allocator import keep_freed_memory
    from ctsam3d.segmentation.segmenter import Segmenter
    from pipelines.cohort.measure import structure_rows

    keep_freed_memory()  # as a replica does
    segmenter = Segmenter.load()
    if slices:
        chest = read_folder(CHEST).volume
        affine = chest.geometry.affine
        # thinner slices, so that even a thousand are no longer than a body
        affine = affine @ np.diag([1, 1, min(1.0, 300 / slices), 1])
        hu = np.resize(chest.hu, (slices, *chest.hu.shape[1:]))
        volume = Volume(hu, Geometry(hu.shape, affine))
        del chest
        names = segmenter.structures[:structures]
        structure_rows(volume, segmenter.segment(volume, names), names)
    print(peak_bytes())


if __name__ == "__main__":
    _segment(*map(int, sys.argv[1:]))
