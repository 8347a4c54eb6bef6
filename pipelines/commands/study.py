"""Commands about studies on this machine: files in, files beside them out; no store, no cluster."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Structures, Weights, settings_of
from pipelines.faults import ExitCode, UsageError

if TYPE_CHECKING:
    from ctsam3d.evaluation.tables import CaseOutcome


class PrompterName(StrEnum):
    """The names of `ctsam3d.prompting.prompt.PromptKind`, which takes numpy to import."""

    LOCALIZER = "localizer"
    MASK = "mask"
    CLICKS = "clicks"


def segment(
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A folder of one DICOM series, or a NIfTI file.")
    ],
    dest: Annotated[
        Path,
        typer.Argument(help="Folder for labels.nii.gz, labels.json, series.json and structures.parquet."),
    ],
    structures: Structures = None,
    weights: Weights = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Where structures are: a label map of the study (NIfTI with names, a folder of NIfTI masks, DICOM "
            "SEG), or clicks (JSON, Parquet). By default the localizer finds them.",
            show_default=False,
        ),
    ] = None,
    prompter: Annotated[
        PrompterName | None, typer.Option(help="What --prompts is; by default its content says.")
    ] = None,
) -> int:
    """Segment one CT on this machine, without a cluster."""
    from ctsam3d.prompting.prompt import PromptKind
    from pipelines.prompts import PromptSource
    from pipelines.segmenters import BundledOrFile
    from pipelines.single import segment_file

    config = settings_of(None, structures, weights)
    given = PromptSource.of(prompts, PromptKind(prompter) if prompter else None)
    rows = segment_file(input_path, dest, config, BundledOrFile(config.weights, config.precision), given)
    for row in rows:
        volume = "-" if row.volume_ml is None else f"{row.volume_ml:.1f} ml"
        print(f"{row.structure:32} {row.status:10} {volume:>12}  {' '.join(row.flags or ())}".rstrip())
    return ExitCode.DONE


def evaluate(
    cases: Annotated[
        list[Path],
        typer.Argument(help="Folders of labelled cases: ct.nii.gz, labels.nii.gz, labels.json."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, report and pictures.", show_default=False)],
    structures: Structures = None,
    weights: Weights = None,
    clicks: Annotated[int, typer.Option(min=0, help="Clicks to simulate on each structure.")] = 10,
    worst: Annotated[int, typer.Option(min=0, help="Worst masks to draw.")] = 8,
) -> int:
    """Score weights on labelled cases: the localizer alone, automatic masks, and clicks simulated from the truth."""
    from ctsam3d.evaluation.evaluate import evaluate as score
    from ctsam3d.network.allocator import keep_freed_memory
    from ctsam3d.network.checkpoint import CheckpointError
    from ctsam3d.segmentation.segmenter import Segmenter

    wanted = None if structures in (None, "all") else [name.strip() for name in structures.split(",")]
    keep_freed_memory()
    try:
        segmenter = Segmenter.load(weights or settings_of(None, None, None).weights)
        evaluation = score(cases, segmenter, out, wanted, clicks, worst, on_case=_print_case)
    except (CheckpointError, ValueError) as fault:
        raise UsageError(str(fault)) from None
    except OSError as fault:
        raise UsageError(f"{out}: cannot be written to ({fault.strerror})") from None
    faults = sum(outcome.fault is not None for outcome in evaluation.outcomes)
    for name, value in {
        "cases": len(evaluation.outcomes),
        "not scored": faults,
        "scores": len(evaluation.scores),
        "report": out / "report.md",
    }.items():
        print(f"{name:16} {value}")
    return ExitCode.UNFINISHED_SERIES if faults else ExitCode.DONE


def _print_case(outcome: CaseOutcome) -> None:
    """A line for people when a case is done."""
    said = outcome.fault or f"{outcome.structures} structures in {outcome.seconds:.0f} s"
    print(f"{outcome.case}: {said}", file=sys.stderr, flush=True)
