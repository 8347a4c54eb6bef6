"""Train from the command line: `python -m ctsam3d.training COMMAND`.

prepare     case folders -> compact caches (needs nibabel; the rest runs on torch, numpy, scipy and monai)
review      images and what `ctsam3d segment` found in them -> case folders, of what somebody who looked found right
localizer   cache -> run folder of the 6 mm network          (resumes where the run folder stopped)
cubes       cache -> run folder of the cube network          (likewise)
cross_patch cache -> run folder of its cross-patch part      (likewise)
cross_validate  cache -> folder of runs, one a fold, and scores.csv of every case by the localizer that never saw it
plot        run folder -> PNG of losses, validation and speed
export      run folder, or a weights file to add a cross-patch part to -> safetensors with facts of the training
calibrate   scores of `ctsam3d evaluate` on cases left out -> how confidence is worked out and which refined masks are
            believed, into a file of weights fresh from export
thresholds  case folders -> how sure the network must be of a voxel, by structure, into a file of weights
"""

from __future__ import annotations

import argparse

from ctsam3d.network.allocator import keep_freed_memory
from ctsam3d.training.commands import data, networks, weights


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m ctsam3d.training", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for module in (data, networks, weights):
        module.add_to(commands)
    options = parser.parse_args()
    keep_freed_memory()
    options.run_command(options)


if __name__ == "__main__":
    main()
