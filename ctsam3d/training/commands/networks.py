"""Commands that train a network on a cache, one after another or fold by fold, and `plot` how it went."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctsam3d.network.precision import fast_in_half_precision
from ctsam3d.training.loop import Schedule, train
from ctsam3d.training.recipe import BUNDLED, Recipe, matches, read_recipes


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to a command line."""
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

    plot = commands.add_parser("plot")
    plot.add_argument("run", type=Path)
    plot.add_argument("out", type=Path, help="PNG")
    plot.set_defaults(run_command=_plot)


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
        lambda name: not matches(name, patterns),
        lambda name: matches(name, patterns),
        lambda structure: recipes.favour if matches(structure, recipes.favoured) else 1.0,
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
