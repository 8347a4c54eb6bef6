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
import fnmatch
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctsam3d.network.allocator import keep_freed_memory
from ctsam3d.network.precision import fast_in_half_precision
from ctsam3d.training.loop import Schedule, train
from ctsam3d.training.recipe import BUNDLED, Recipe, read_recipes
from ctsam3d.training.review import BUNDLED as REVIEW

_PHANTOMS = 6  # procedural ones
_LICENCE = "CC-BY-NC-SA-4.0"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


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
        if not _matches(folder.name, coarse):
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one training command is to do: the recipe with what the command line changes of it."""

    recipe: Recipe
    schedule: Schedule
    trained_on: Callable[[str], bool]
    kept_aside: Callable[[str], bool]
    often: Callable[[str], float]
    device: torch.device


def _plan(options: argparse.Namespace, network: str, left_out: tuple[str, ...] | None = None) -> _Plan:
    """What to do with a network; `left_out` in place of what recipe and command line leave out."""
    recipes = read_recipes(options.recipe)
    recipe = recipes.of[network]
    given = {"steps": options.steps, "batch": options.batch}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    device = torch.device(options.device)
    half = options.precision == "bfloat16" or (options.precision == "auto" and fast_in_half_precision(device))
    schedule = Schedule(
        steps=recipe.steps, batch=recipe.batch, learning_rate=recipe.learning_rate,
        warm_up_steps=recipe.warm_up_steps, clip_norm=recipe.clip_norm, ema_decay=recipe.ema_decay,
        weight_decay=recipe.weight_decay, validate_every=recipe.validate_every, seed=options.seed,
        workers=options.workers, half_precision=half,
    )  # fmt: skip
    patterns = (*recipes.left_out, *options.leave_out) if left_out is None else left_out
    return _Plan(
        recipe,
        schedule,
        lambda name: not _matches(name, patterns),
        lambda name: _matches(name, patterns),
        lambda structure: recipes.favour if _matches(structure, recipes.favoured) else 1.0,
        device,
    )


def _localizer(options: argparse.Namespace) -> None:
    from ctsam3d.prompting.coarse import CoarseNetwork
    from ctsam3d.prompting.localizer import Localizer
    from ctsam3d.training.localizer import LocalizerPatches, LocalizerValidation, localizer_loss

    torch.manual_seed(options.seed)
    plan, folder = _plan(options, "localizer"), options.cache / "localizer"
    patches = LocalizerPatches.from_cache(folder, plan.trained_on, plan.recipe.synthetic, plan.often)
    validation = LocalizerValidation(LocalizerPatches.from_cache(folder, plan.kept_aside, synthetic=0))
    network = CoarseNetwork()
    if options.start is not None:
        network.load_state_dict(Localizer.load(options.start, torch.device("cpu")).network.state_dict())
    _train(options, plan, network, patches.draw, localizer_loss, validation)


def _cross_validate(options: argparse.Namespace) -> None:
    from ctsam3d.anatomy.localized import CLASSES
    from ctsam3d.prompting.coarse import CoarseNetwork
    from ctsam3d.prompting.localizer import Localizer
    from ctsam3d.training import cross_validate
    from ctsam3d.training.localizer import LocalizerPatches, localizer_loss

    folder = options.cache / "localizer"
    plans = [_plan(options, "localizer", fold) for fold in read_recipes(options.recipe).folds]
    for path in folder.glob("*.npz"):
        cross_validate.fold_of(path.stem, [plan.kept_aside for plan in plans])
    scores = []
    for fold, plan in enumerate(plans):
        torch.manual_seed(options.seed)
        patches = LocalizerPatches.from_cache(folder, plan.trained_on, plan.recipe.synthetic, plan.often)
        network = CoarseNetwork()
        run = options.run / f"fold_{fold}"
        average = train(network, patches.draw, localizer_loss, plan.schedule, run, plan.device)
        network.load_state_dict(average)
        localizer = Localizer(network, CLASSES, plan.device, "")
        scores += cross_validate.score_fold(localizer, folder, plan.kept_aside, fold)
        cross_validate.write_scores(options.run / "scores.csv", scores)
    print(cross_validate.table(scores), end="")


def _cubes(options: argparse.Namespace) -> None:
    from ctsam3d.network import build, checkpoint
    from ctsam3d.network.initialisation import initialise
    from ctsam3d.training.cubes import CubeSamples, CubeValidation, Mixture, cube_loss

    network = build(options.size)
    if options.start is None:
        initialise(network, options.seed)
    else:
        network.load_state_dict(checkpoint.load(options.start)[0].state_dict())
    plan, folder, windows_hu = _plan(options, "cubes"), options.cache / "cubes", network.config.windows_hu
    recipe = plan.recipe
    mixture = Mixture(
        recipe.synthetic,
        recipe.coarse_prompt,
        recipe.off_target,
        objects=recipe.objects,
        often=plan.often,
    )
    samples = CubeSamples.from_cache(folder, plan.trained_on, windows_hu, mixture)
    clicked = Mixture(synthetic=0, coarse_prompt=0, off_target=0)
    kept_aside = CubeSamples.from_cache(folder, plan.kept_aside, windows_hu, clicked)
    loss = partial(cube_loss, rounds=recipe.rounds)
    _train(options, plan, network, samples.draw, loss, CubeValidation(kept_aside))


def _cross_patch(options: argparse.Namespace) -> None:
    from ctsam3d.network import checkpoint, cross_patch
    from ctsam3d.network.config import config_of
    from ctsam3d.training.cross_patch import (
        CrossPatchPairs,
        CrossPatchValidation,
        answers_of,
        cross_patch_loss,
    )
    from ctsam3d.training.cubes import CubeSamples, Mixture

    torch.manual_seed(options.seed)
    plan, folder, config = _plan(options, "cross_patch"), options.cache / "cubes", config_of(options.size)
    painted, real = (Mixture(synthetic, 0, 0) for synthetic in (plan.recipe.synthetic, 0))
    samples = CubeSamples.from_cache(folder, plan.trained_on, config.windows_hu, painted)
    kept_aside = CubeSamples.from_cache(folder, plan.kept_aside, config.windows_hu, real)
    answer = None
    if options.answers_of is not None:
        network, _ = checkpoint.load(options.answers_of)
        answer = answers_of(network, half_precision=fast_in_half_precision(torch.device("cpu")))
    validation = CrossPatchValidation(CrossPatchPairs(kept_aside, answer))
    predictor, pairs = cross_patch.build(config), CrossPatchPairs(samples, answer)
    _train(options, plan, predictor, pairs.draw, cross_patch_loss, validation)


def _train(
    options: argparse.Namespace, plan: _Plan, network: nn.Module, draw: Any, loss: Any, validation: Any
) -> None:
    train(network, draw, loss, plan.schedule, options.run, plan.device, options.seconds, validation)


def _plot(options: argparse.Namespace) -> None:
    from ctsam3d.training.plot import plot_run

    plot_run(options.run, options.out)
    print(options.out)


def _export(options: argparse.Namespace) -> None:
    from ctsam3d.anatomy.localized import CLASSES
    from ctsam3d.network import build, checkpoint
    from ctsam3d.network.weights_file import WeightsFacts
    from ctsam3d.prompting import coarse

    facts = json.loads(options.facts)
    if options.network == "localizer":
        average, steps = _averaged(options.run)
        header = WeightsFacts(
            network="localizer", windows_hu=coarse.WINDOWS_HU, spacing_mm=coarse.SPACING_MM, licence=_LICENCE,
            training={"classes": list(CLASSES), "steps": steps, **facts},
        )  # fmt: skip
        tensors = {k: v.half() for k, v in coarse.weights_of(average).items()}
        checkpoint.save_tensors(options.out, tensors, header)
    else:
        trained: dict[str, object]
        if options.run.is_file():
            network, info = checkpoint.load(options.run)
            trained = dict(info.facts.training)
        else:
            network = build(options.network)
            average, steps = _averaged(options.run)
            network.load_state_dict(average)
            recipe = read_recipes(options.recipe).of["cubes"]
            trained = {"steps": steps, "coarse_prompt": recipe.coarse_prompt > 0, "cross_patch": False}
        if options.cross_patch is not None:
            average, steps = _averaged(options.cross_patch)
            network.cpp_predictor.load_state_dict(average)
            trained |= {"cross_patch": "aligned", "cross_patch_steps": steps}
        checkpoint.save(options.out, network, {**trained, **facts}, licence=_LICENCE, dtype=torch.float16)
    print(options.out)


def _averaged(run: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The averaged weights of a run folder, and after how many steps."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    return state["average"], state["step"]


def _calibrate(options: argparse.Namespace) -> None:
    import dataclasses

    import pyarrow.parquet as pq

    from ctsam3d.network import checkpoint
    from ctsam3d.segmentation import accept, confidence
    from ctsam3d.segmentation.confidence import Evidence
    from ctsam3d.training.calibrate import (
        Refinement,
        fit,
        fit_acceptance,
        gain_left_out,
        leave_one_out_error,
    )

    def evident(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [r for r in rows if r["evidence_agreement"] is not None and r["dice"] is not None]

    left_out, trained_on = (
        [row for path in paths for row in pq.read_table(path).to_pylist()]
        for paths in (options.scores, options.trained_on)
    )
    everything, rows = left_out + trained_on, evident(left_out)
    evidence = [
        Evidence(*(row[f"evidence_{part.name}"] for part in dataclasses.fields(Evidence))) for row in rows
    ]
    dice, cases = [row["dice"] for row in rows], [row["case"] for row in rows]
    fitted = {**dataclasses.asdict(fit(evidence, dice)), "masks": len(rows)}
    error = leave_one_out_error(evidence, dice, cases)
    coarse = {(r["case"], r["structure"]): r["dice"] for r in everything if r["method"] == "localizer"}
    refinements = [
        Refinement(r["case"], r["structure"], r["evidence_agreement"], r["dice"] - before)
        for r in evident(everything)
        if r["status"] == "ok" and (before := coarse.get((r["case"], r["structure"]))) is not None
    ]
    tensors, info = checkpoint.read_tensors(options.weights)
    training = {
        **info.facts.training,
        confidence.FACT: fitted | {"mean_error": round(error, 4)},
        accept.FACT: fit_acceptance(refinements),
    }
    checkpoint.save_tensors(options.weights, tensors, dataclasses.replace(info.facts, training=training))
    believed, by_others = gain_left_out(refinements)
    print(f"{options.weights}: {confidence.FACT} {training[confidence.FACT]}")
    print(f"{accept.FACT} {training[accept.FACT]}")
    print(f"mean gain of refining: {believed:.4f} with all believed, {by_others:.4f} by what other cases say")


def _thresholds(options: argparse.Namespace) -> None:
    import dataclasses

    from ctsam3d.evaluation.cases import CaseError, read_names
    from ctsam3d.network import checkpoint
    from ctsam3d.segmentation import accept
    from ctsam3d.segmentation.segmenter import Segmenter
    from ctsam3d.training.thresholds import Curve, curves, fit_thresholds, gain_left_out

    found: list[Curve] = []
    try:
        for folder in options.cases:  # before an hour is spent on those that come first
            read_names(folder)
        segmenter = Segmenter.load(options.weights, options.device)
        segmenter.thresholds = {}  # they are what is looked for
        for folder in options.cases:
            found += curves(folder, segmenter)
            print(f"{folder.name}: {len(found)} masks by now", flush=True)
    except CaseError as fault:
        raise SystemExit(str(fault)) from None
    fitted = fit_thresholds(found)
    if not fitted:
        raise SystemExit(
            "expected a structure that is labelled and whose refined mask is believed, found none"
        )
    tensors, info = checkpoint.read_tensors(options.weights)
    training = {**info.facts.training, accept.THRESHOLDS_FACT: fitted}
    checkpoint.save_tensors(options.weights, tensors, dataclasses.replace(info.facts, training=training))
    print(f"{options.weights}: {accept.THRESHOLDS_FACT} {fitted}")
    of_all, of_others = gain_left_out(found)
    print(f"mean gain: {of_all:.4f}, {of_others:.4f} by what other cases say")


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m ctsam3d.training", description=__doc__)
    commands = parser.add_subparsers(required=True)

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

    networks = {"localizer": _localizer, "cubes": _cubes, "cross_patch": _cross_patch}
    for name, command in {**networks, "cross_validate": _cross_validate}.items():
        training = commands.add_parser(name)
        training.add_argument("cache", type=Path)
        training.add_argument("run", type=Path, help="holds state.pt and log.csv; resumed if it does")
        if name in networks:
            training.add_argument(
                "--leave-out", nargs="*", default=[], help="cases, * allowed, to keep for validation"
            )
            training.add_argument(
                "--seconds", type=float, default=None, help="stop at a checkpoint after so long"
            )
        training.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
        training.add_argument("--recipe", type=Path, default=BUNDLED, help="TOML file like the bundled one")
        training.add_argument("--steps", type=int, default=None)
        training.add_argument("--batch", type=int, default=None)
        training.add_argument("--seed", type=int, default=0)
        training.add_argument("--workers", type=int, default=1)
        training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if name in ("localizer", "cubes"):
            training.add_argument("--start", type=Path, default=None, help="weights file to train on from")
        if name == "cross_patch":
            training.add_argument(
                "--answers-of",
                type=Path,
                default=None,
                help="weights file of the network whose masks to go on from",
            )
        if name in ("cubes", "cross_patch"):
            training.add_argument("--size", default="nano")
        training.set_defaults(run_command=command)

    export = commands.add_parser("export")
    export.add_argument("run", type=Path, help="run folder, or a weights file")
    export.add_argument("network", help="localizer, or the size of a cube network")
    export.add_argument("out", type=Path)
    export.add_argument("--cross-patch", type=Path, help="run folder of a cube network's cross-patch part")
    export.add_argument("--recipe", type=Path, default=BUNDLED, help="that it was trained with")
    export.add_argument("--facts", default="{}", help="JSON object added to the file's training facts")
    export.set_defaults(run_command=_export)

    calibrate = commands.add_parser("calibrate")
    calibrate.add_argument("weights", type=Path, help="of a cube network; written anew")
    calibrate.add_argument("scores", type=Path, nargs="+", help="scores.parquet of `ctsam3d evaluate`")
    calibrate.add_argument(
        "--trained-on", type=Path, nargs="*", default=[],
        help="scores of cases that were trained on: what harms even those is not to be believed, but no confidence is",
    )  # fmt: skip
    calibrate.set_defaults(run_command=_calibrate)

    thresholds = commands.add_parser("thresholds")
    thresholds.add_argument("weights", type=Path, help="of a cube network; written anew")
    thresholds.add_argument("cases", type=Path, nargs="+", help="folders of cases with labels of others")
    thresholds.add_argument("--device", default="auto")
    thresholds.set_defaults(run_command=_thresholds)

    plot = commands.add_parser("plot")
    plot.add_argument("run", type=Path)
    plot.add_argument("out", type=Path, help="PNG")
    plot.set_defaults(run_command=_plot)

    options = parser.parse_args()
    keep_freed_memory()
    options.run_command(options)


if __name__ == "__main__":
    main()
