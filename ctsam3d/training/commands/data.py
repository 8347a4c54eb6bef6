"""Commands that make what is trained on: `prepare` a cache of case folders, `review` masks into case folders."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ctsam3d.training.recipe import BUNDLED, matches, read_recipes
from ctsam3d.training.review import BUNDLED as REVIEW

_PHANTOMS = 6  # procedural ones


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to a command line."""
    prepare = commands.add_parser("prepare")
    prepare.add_argument("data", type=Path, help="folder of sets of cases, SET/CASE/labels.json")
    prepare.add_argument("cache", type=Path)
    prepare.add_argument("--recipe", type=Path, default=BUNDLED)
    prepare.add_argument(
        "--hu-error",
        type=float,
        default=0,
        help="root mean square that images may be off by, for a small cache",
    )
    prepare.set_defaults(run_command=_prepare)

    review = commands.add_parser("review")
    review.add_argument("data", type=Path, help="folder of sets of cases, labelled or not")
    review.add_argument("segmented", type=Path, help="CASE/labels.nii.gz and labels.json of each")
    review.add_argument("out", type=Path, help="a set of cases, made")
    review.add_argument("--list", type=Path, default=REVIEW, help="TOML file like the bundled one")
    review.set_defaults(run_command=_review)


def _prepare(options: argparse.Namespace) -> None:
    from ctsam3d.network.config import SPACING_MM
    from ctsam3d.training.cases import finest_spacing_mm, read_case, read_hu, save_case
    from ctsam3d.training.localizer import CACHE_SPACING_MM
    from ctsam3d.training.objects import objects_in, procedural

    coarse, save = read_recipes(options.recipe).coarse, partial(save_case, hu_error=options.hu_error)
    for network in ("localizer", "cubes"):
        (options.cache / network).mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in options.data.glob("*/*/labels.json")):
        save(read_case(folder, CACHE_SPACING_MM), options.cache / "localizer" / f"{folder.name}.npz")
        if not matches(folder.name, coarse):
            spacing_mm = max(SPACING_MM, finest_spacing_mm(folder))
            save(read_case(folder, spacing_mm), options.cache / "cubes" / f"{folder.name}.npz")
        print(folder.name, flush=True)
    for image in sorted(options.data.glob("unlabeled/*.nii.gz")):
        name = image.name.removesuffix(".nii.gz")
        objects = objects_in(name, read_hu(image, SPACING_MM), SPACING_MM)
        save(objects, options.cache / "cubes" / f"objects_{name}.npz")
        print(name, flush=True)
    for seed in range(_PHANTOMS):
        name = f"objects_phantom_{seed}"
        save(procedural(name, seed), options.cache / "cubes" / f"{name}.npz")


def _review(options: argparse.Namespace) -> None:
    from ctsam3d.training.review import read_reviews, write_case

    for case, review in read_reviews(options.list).items():
        write_case(options.data, options.segmented, case, review, options.out / case)
        print(case, flush=True)
