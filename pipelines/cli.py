"""The command line: arguments in; results on stdout, words for people on stderr, an exit code out.

Nothing heavy is imported before a command needs it: `--help` and `info` answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from pipelines.faults import Aborted, ExitCode, UsageError

if TYPE_CHECKING:
    from ctsam3d.evaluation.tables import CaseOutcome
    from pipelines.config import RunConfig
    from pipelines.driver import Summary

app = typer.Typer(
    name="ctsam3d",
    help="Organ masks and volumes for cohorts of CT studies: DICOM in, Parquet out.",
    epilog="Exit codes: 0 all done, 1 usage or configuration, 2 finished with rejected or failed series, "
    "3 aborted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
weights_app = typer.Typer(help="Look at and convert weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

Source = Annotated[
    str, typer.Argument(help="Folder or s3://bucket/prefix with DICOM objects.", show_default=False)
]
Output = Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix of results.", show_default=False)]
Endpoint = Annotated[
    str | None, typer.Option(help="S3 service to talk to; by default the standard AWS variables say.")
]
Structures = Annotated[str | None, typer.Option(help="'all', or names separated by commas.")]
Weights = Annotated[str | None, typer.Option(help="Name of bundled weights, or path of a checkpoint.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]


@app.command()
def run(
    source: Source,
    output: Output,
    config_file: ConfigFile = None,
    structures: Structures = None,
    weights: Weights = None,
    endpoint_url: Endpoint = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed, lost and poisoned series again.")
    ] = False,
    pseudonym_key: Annotated[
        Path | None,
        typer.Option(help="File with a key: UIDs and dates in OUTPUT become pseudonyms.", show_default=False),
    ] = None,
    replace_damaged: Annotated[
        bool,
        typer.Option("--replace-damaged", help="Set damaged records and tables aside and make them again."),
    ] = False,
) -> int:
    """Segment every CT series of SOURCE and publish tables in OUTPUT.

    Run it again to continue a run that was stopped, or to add what is new in SOURCE.
    """
    from dataclasses import replace

    from pipelines import driver
    from pipelines.config import Privacy
    from pipelines.installation import check_versions
    from pipelines.segmenters import BundledOrFile

    check_versions()
    config = _settings(config_file, structures, weights)
    if pseudonym_key:
        config = replace(config, privacy=Privacy(str(pseudonym_key)))
    stores = driver.open_stores(source, output, endpoint_url)
    summary = driver.run(
        stores,
        config,
        BundledOrFile(config.weights, config.precision),
        retry_failed=retry_failed,
        replace_damaged=replace_damaged,
    )
    _print_summary(summary)
    return ExitCode.DONE if summary.is_clean else ExitCode.UNFINISHED_SERIES


@app.command()
def discover(
    source: Source,
    manifest: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
    endpoint_url: Endpoint = None,
) -> int:
    """Write a manifest: one row per series of SOURCE, kept or not, with the reason."""
    from pipelines.cohort.discover import EmptySource
    from pipelines.cohort.discover import discover as find_series
    from pipelines.store import StoreError, open_store

    try:
        found = find_series(open_store(source, endpoint_url)).manifest
    except (StoreError, EmptySource) as fault:
        raise UsageError(str(fault)) from None
    try:
        manifest.write_bytes(found.encode())
    except OSError as fault:
        raise UsageError(f"{manifest}: cannot be written ({fault.strerror})") from None
    kept = sum(ref.status == "ok" for ref in found)
    print(f"series    {len(found)}\nkept      {kept}\nrejected  {len(found) - kept}\nmanifest  {manifest}")
    return ExitCode.DONE


@app.command()
def verify(
    output: Output,
    endpoint_url: Endpoint = None,
) -> int:
    """Check every record, mask and table of OUTPUT against each other."""
    from pipelines.store import StoreError, open_store
    from pipelines.verify import verify as check

    try:
        store = open_store(output, endpoint_url)
    except StoreError as fault:
        raise UsageError(str(fault)) from None
    try:
        report = check(store)
    except StoreError as fault:
        raise Aborted(str(fault)) from None
    counts = {
        "runs": len(report.runs),
        "series": report.series,
        "records": report.records,
        "masks": report.masks,
    }
    for name, count in (counts | report.series_by_status | {"problems": len(report.findings)}).items():
        print(f"{name:16} {count}")
    for finding in report.findings:
        print(finding)
    return ExitCode.DONE if report.ok else ExitCode.UNFINISHED_SERIES


class PrompterName(StrEnum):
    """The names of `ctsam3d.prompting.prompt.PromptKind`, which takes numpy to import."""

    LOCALIZER = "localizer"
    MASK = "mask"
    CLICKS = "clicks"


class Format(StrEnum):
    """What masks can be exported as."""

    NIFTI = "nifti"


@app.command()
def export(
    output: Output,
    dest: Annotated[Path, typer.Argument(help="Folder to write to.")],
    kind: Annotated[Format, typer.Option("--format", help="Of the files.", show_default=False)],
    series: Annotated[str | None, typer.Option(metavar="UID", help="One series; by default all.")] = None,
    endpoint_url: Endpoint = None,
) -> int:
    """Write DEST/<series uid>/labels.nii.gz and labels.json on the source grid."""
    from pipelines.export import ExportError, export_nifti
    from pipelines.store import StoreError, open_store

    try:
        for folder in export_nifti(open_store(output, endpoint_url), dest, series):
            print(folder)
    except (ExportError, StoreError, OSError) as fault:
        raise UsageError(str(fault)) from None
    return ExitCode.DONE


@app.command()
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

    config = _settings(None, structures, weights)
    given = PromptSource.of(prompts, PromptKind(prompter) if prompter else None)
    rows = segment_file(input_path, dest, config, BundledOrFile(config.weights, config.precision), given)
    for row in rows:
        volume = "-" if row.volume_ml is None else f"{row.volume_ml:.1f} ml"
        print(f"{row.structure:32} {row.status:10} {volume:>12}  {' '.join(row.flags or ())}".rstrip())
    return ExitCode.DONE


@app.command()
def structures(as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False) -> int:
    """List what can be segmented: names, codes, plausible volumes, and who can say where each is."""
    from ctsam3d.anatomy.catalogue import CATALOGUE
    from pipelines import structures_table

    located = structures_table.located_by_bundled_weights()
    if as_json:
        print(structures_table.as_json(CATALOGUE.values(), located))
    else:
        structures_table.print_table(CATALOGUE.values(), located)
    return ExitCode.DONE


@app.command()
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
    from ctsam3d.network.checkpoint import CheckpointError
    from ctsam3d.segmentation.segmenter import Segmenter

    wanted = None if structures in (None, "all") else [name.strip() for name in structures.split(",")]
    try:
        segmenter = Segmenter.load(weights or _settings(None, None, None).weights)
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


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> int:
    """Say what is installed here, and on what machine."""
    from pipelines.installation import describe

    facts = describe()
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            parts = value.items() if isinstance(value, dict) else ()
            print(f"{name:16} {', '.join(f'{part} {v}' for part, v in parts) or value}")
    return ExitCode.DONE


@weights_app.command("info")
def weights_info(file: Annotated[Path, typer.Argument(help="A checkpoint of ours.")]) -> int:
    """Print a checkpoint's header as JSON."""
    import json

    from ctsam3d.network.weights_file import CheckpointError, sha256
    from ctsam3d.network.weights_file import info as read_header

    try:
        header, digest = read_header(file), sha256(file)
    except CheckpointError as fault:
        raise UsageError(str(fault)) from None
    counts = {"tensors": len(header.shapes), "numbers": header.numbers, "file_bytes": header.file_bytes}
    print(json.dumps(json.loads(header.facts.to_json()) | counts | {"sha256": digest}, indent=2))
    return ExitCode.DONE


@weights_app.command("convert")
def weights_convert(
    params_pth: Annotated[Path, typer.Argument(metavar="PTH", help="The published params.pth.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> int:
    """Turn the published weights into a checkpoint of ours, strictly: every key, every shape."""
    from ctsam3d.network.checkpoint import CheckpointError, convert

    try:
        size = convert(params_pth, out)
    except (CheckpointError, OSError) as fault:
        raise UsageError(str(fault)) from None
    print(f"network  {size}\nweights  {out}")
    return ExitCode.DONE


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code.

    The process ends at once: taking the interpreter down around the libraries' own threads has been seen to abort it
    after all work was done, and the exit code is what a scheduler goes by.
    """
    code = run_command()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run_command(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code."""
    return exit_code_of(lambda: app(args=arguments, standalone_mode=False))


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Call a command; every fault becomes one line on stderr and an exit code, SIGTERM an orderly end."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(command() or ExitCode.DONE)
    except TyperException as fault:
        return _fail(" ".join(fault.format_message().split()) or "expected a command", ExitCode.USAGE)
    except UsageError as fault:
        return _fail(str(fault), ExitCode.USAGE)
    except Aborted as fault:
        return _fail(f"{fault}; the same command continues where this one stopped", ExitCode.ABORTED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; the same command continues where this one stopped", ExitCode.ABORTED)
    except BrokenPipeError:  # whoever read our results has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ABORTED
    except Exception as fault:
        if os.environ.get("CTSAM3D_DEBUG"):
            raise
        return _fail(f"unexpected {type(fault).__name__}; set CTSAM3D_DEBUG=1 to see where", ExitCode.ABORTED)


def _settings(config_file: Path | None, structures: str | None, weights: str | None) -> RunConfig:
    """The settings of a file, what the command line says taking precedence."""
    from dataclasses import replace

    from pipelines.config import RunConfig, parse_config, read_config

    config = read_config(config_file) if config_file else RunConfig()
    given = {
        name: value for name, value in (("structures", structures), ("weights", weights)) if value is not None
    }
    said = parse_config(given)
    return replace(config, **{name: getattr(said, name) for name in given})


def _print_summary(summary: Summary) -> None:
    """Series by status, and where the tables are."""
    for status, count in summary.series_by_status.items():
        print(f"{status:16} {count}")
    print(f"{'computed now':16} {summary.computed}")
    for table, address in summary.tables.items():
        print(f"{table:16} {address}")


def _print_case(outcome: CaseOutcome) -> None:
    """A line for people when a case is done."""
    said = outcome.fault or f"{outcome.structures} structures in {outcome.seconds:.0f} s"
    print(f"{outcome.case}: {said}", file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: ExitCode) -> int:
    for line in message.splitlines():
        print(f"ctsam3d: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
