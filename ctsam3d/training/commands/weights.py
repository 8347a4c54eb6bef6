"""Commands that write files of weights, and what weights say of themselves: `export`, `calibrate`, `thresholds`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctsam3d.training.recipe import BUNDLED, read_recipes

_LICENCE = "CC-BY-NC-SA-4.0"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to a command line."""
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
    import pyarrow.parquet as pq

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
    confident = fitted | {"mean_error": round(error, 4)}
    _tell(options.weights, {confidence.FACT: confident, accept.FACT: fit_acceptance(refinements)})
    believed, by_others = gain_left_out(refinements)
    print(f"mean gain of refining: {believed:.4f} with all believed, {by_others:.4f} by what other cases say")


def _thresholds(options: argparse.Namespace) -> None:
    from ctsam3d.evaluation.cases import CaseError, read_names
    from ctsam3d.segmentation import accept
    from ctsam3d.segmentation.segmenter import Segmenter
    from ctsam3d.training.thresholds import Curve, curves, fit_thresholds, gain_left_out

    found: list[Curve] = []
    try:
        # of all, so that a mistake is told before the first is begun
        names = {folder: read_names(folder) for folder in options.cases}
        segmenter = Segmenter.load(options.weights, options.device)
        segmenter.thresholds = {}  # they are what is looked for
        for folder in options.cases:
            found += curves(folder, names[folder], segmenter)
            print(f"{folder.name}: {len(found)} masks by now", flush=True)
    except CaseError as fault:
        raise SystemExit(str(fault)) from None
    fitted = fit_thresholds(found)
    if not fitted:
        raise SystemExit(
            "expected a structure that is labelled and whose refined mask is believed, found none"
        )
    _tell(options.weights, {accept.THRESHOLDS_FACT: fitted})
    of_all, of_others = gain_left_out(found)
    print(f"mean gain: {of_all:.4f}, {of_others:.4f} by what other cases say")


def _tell(path: Path, facts: Mapping[str, Any]) -> None:
    """Add to what a file of weights says of its training, and print it."""
    from ctsam3d.network import checkpoint

    tensors, info = checkpoint.read_tensors(path)
    training = {**info.facts.training, **facts}
    checkpoint.save_tensors(path, tensors, dataclasses.replace(info.facts, training=training))
    for name, value in facts.items():
        print(f"{path}: {name} {value}")
