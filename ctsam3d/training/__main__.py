"""Train from the command line: `python -m ctsam3d.training prepare | localizer | cubes | cross_patch | export`.

prepare     case folders -> compact caches (needs nibabel; the rest runs on torch, numpy, scipy and monai)
localizer   cache -> run folder of the 6 mm network          (resumes where the run folder stopped)
cubes       cache -> run folder of the cube network          (likewise)
cross_patch cache -> run folder of its cross-patch part      (likewise)
export      run folder -> safetensors with facts of the training
evaluate    case folders -> Dice per structure, of the coarse and of the refined masks
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Callable
from pathlib import Path

import torch

from ctsam3d.training.loop import Schedule, fast_in_half_precision, train

# Never trained on: kept to say honestly how good the weights are.
LEFT_OUT = ("nsclc_lung1-001",)
# Grids too coarse to teach 1.5 mm anything; the phantoms have no finer detail than 2 mm.
_COARSE_CASES = ("openkbp", "cip_ct64", "elastix_lung")
_LICENCE = "CC-BY-NC-SA-4.0"


def _prepare(options: argparse.Namespace) -> None:
    from ctsam3d.training.cases import read_case, save_case
    from ctsam3d.training.localizer import CACHE_SPACING_MM

    for network in ("localizer", "cubes"):
        (options.cache / network).mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in options.data.glob("*/*/labels.json")):
        save_case(read_case(folder, CACHE_SPACING_MM), options.cache / "localizer" / f"{folder.name}.npz")
        if not folder.name.startswith(_COARSE_CASES):
            spacing_mm = 2.0 if folder.name.startswith("icrp") else 1.5
            save_case(read_case(folder, spacing_mm), options.cache / "cubes" / f"{folder.name}.npz")
        print(folder.name, flush=True)


def _schedule(options: argparse.Namespace, learning_rate: float, batch: int, ema_decay: float) -> Schedule:
    half = options.precision == "bfloat16" or (
        options.precision == "auto" and fast_in_half_precision(torch.device(options.device))
    )
    return Schedule(
        steps=options.steps, batch=options.batch or batch, learning_rate=learning_rate, ema_decay=ema_decay,
        warm_up_steps=100, seed=options.seed, workers=options.workers, half_precision=half,
    )  # fmt: skip


def _left_out(options: argparse.Namespace) -> Callable[[str], bool]:
    """Whether a case, by its name, is kept out of training."""
    patterns = (*LEFT_OUT, *options.leave_out)
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _localizer(options: argparse.Namespace) -> None:
    from ctsam3d.prompting.coarse import CoarseNetwork
    from ctsam3d.training.localizer import LocalizerPatches, LocalizerValidation, localizer_loss

    torch.manual_seed(options.seed)
    network = CoarseNetwork()
    left_out = _left_out(options)
    patches = LocalizerPatches.from_cache(options.cache / "localizer", lambda name: not left_out(name))
    kept_aside = LocalizerPatches.from_cache(options.cache / "localizer", left_out, synthetic=0)
    schedule = _schedule(options, 2e-3, 2, 0.998)
    train(
        network,
        patches.draw,
        localizer_loss,
        schedule,
        options.run,
        torch.device(options.device),
        options.seconds,
        LocalizerValidation(kept_aside),
    )


def _cubes(options: argparse.Namespace) -> None:
    from ctsam3d.network import build
    from ctsam3d.network.initialisation import initialise
    from ctsam3d.training.cubes import CubeSamples, CubeValidation, Mixture, cube_loss

    network = build(options.size)
    initialise(network, options.seed)
    left_out, windows_hu = _left_out(options), network.config.windows_hu
    samples = CubeSamples.from_cache(options.cache / "cubes", lambda name: not left_out(name), windows_hu)
    clicked = Mixture(synthetic=0, coarse_prompt=0)
    kept_aside = CubeSamples.from_cache(options.cache / "cubes", left_out, windows_hu, clicked)
    schedule = _schedule(options, 8e-4, 4, 0.998)
    train(
        network,
        samples.draw,
        cube_loss,
        schedule,
        options.run,
        torch.device(options.device),
        options.seconds,
        CubeValidation(kept_aside),
    )


def _cross_patch(options: argparse.Namespace) -> None:
    from ctsam3d.network import cross_patch
    from ctsam3d.network.config import config_of
    from ctsam3d.training.cross_patch import CrossPatchPairs, CrossPatchValidation, cross_patch_loss
    from ctsam3d.training.cubes import CubeSamples, Mixture

    torch.manual_seed(options.seed)
    config = config_of(options.size)
    left_out, folder = _left_out(options), options.cache / "cubes"
    samples = CubeSamples.from_cache(folder, lambda name: not left_out(name), config.windows_hu)
    kept_aside = CubeSamples.from_cache(folder, left_out, config.windows_hu, Mixture(synthetic=0))
    train(
        cross_patch.build(config),
        CrossPatchPairs(samples).draw,
        cross_patch_loss,
        _schedule(options, 1e-3, 4, 0.995),
        options.run,
        torch.device(options.device),
        options.seconds,
        CrossPatchValidation(CrossPatchPairs(kept_aside)),
    )


def _export(options: argparse.Namespace) -> None:
    from ctsam3d.anatomy.localized import CLASSES
    from ctsam3d.network import build, checkpoint
    from ctsam3d.network.weights_file import WeightsFacts
    from ctsam3d.prompting import coarse

    state = torch.load(options.run / "state.pt", map_location="cpu", weights_only=True)
    facts = {"steps": state["step"], **json.loads(options.facts)}
    if options.network == "localizer":
        header = WeightsFacts(
            network="localizer", windows_hu=coarse.WINDOWS_HU, spacing_mm=coarse.SPACING_MM, licence=_LICENCE,
            training={"classes": list(CLASSES), **facts},
        )  # fmt: skip
        tensors = {k: v.half() for k, v in coarse.weights_of(state["average"]).items()}
        checkpoint.save_tensors(options.out, tensors, header)
    else:
        network = build(options.network)
        network.load_state_dict(state["average"])
        trained = {"coarse_prompt": True, "cross_patch": options.cross_patch is not None}
        if options.cross_patch is not None:
            predictor = torch.load(options.cross_patch / "state.pt", map_location="cpu", weights_only=True)
            network.cpp_predictor.load_state_dict(predictor["average"])
            trained["cross_patch_steps"] = predictor["step"]
        checkpoint.save(options.out, network, {**trained, **facts}, licence=_LICENCE, dtype=torch.float16)
    print(options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from ctsam3d.training.evaluate import evaluate, print_table

    scores = evaluate(options.cases, options.weights)
    print_table(scores)


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m ctsam3d.training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    prepare = commands.add_parser("prepare")
    prepare.add_argument("data", type=Path, help="folder of sets of cases, SET/CASE/labels.json")
    prepare.add_argument("cache", type=Path)
    prepare.set_defaults(run_command=_prepare)

    for name, command in (("localizer", _localizer), ("cubes", _cubes), ("cross_patch", _cross_patch)):
        training = commands.add_parser(name)
        training.add_argument("cache", type=Path)
        training.add_argument("run", type=Path, help="holds state.pt and log.csv; resumed if it does")
        training.add_argument(
            "--leave-out", nargs="*", default=[], help="cases, * allowed, to keep for validation"
        )
        training.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
        training.add_argument("--steps", type=int, default=6000)
        training.add_argument("--batch", type=int, default=None)
        training.add_argument("--seed", type=int, default=0)
        training.add_argument("--workers", type=int, default=1)
        training.add_argument(
            "--seconds", type=float, default=None, help="stop at a checkpoint after so long"
        )
        training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if name != "localizer":
            training.add_argument("--size", default="nano")
        training.set_defaults(run_command=command)

    export = commands.add_parser("export")
    export.add_argument("run", type=Path)
    export.add_argument("network", help="localizer, or the size of a cube network")
    export.add_argument("out", type=Path)
    export.add_argument("--cross-patch", type=Path, help="run folder of a cube network's cross-patch part")
    export.add_argument("--facts", default="{}", help="JSON object added to the file's training facts")
    export.set_defaults(run_command=_export)

    scoring = commands.add_parser("evaluate")
    scoring.add_argument("cases", type=Path, nargs="+", help="case folders")
    scoring.add_argument("--weights", default="nano")
    scoring.set_defaults(run_command=_evaluate)

    options = parser.parse_args()
    options.run_command(options)


if __name__ == "__main__":
    main()
