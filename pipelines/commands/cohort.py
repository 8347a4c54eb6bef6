"""Commands about a cohort: addresses of a source and an output in, records and tables there, counts on stdout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    ConfigFile,
    Endpoint,
    Output,
    Source,
    Structures,
    Weights,
    settings_of,
)
from pipelines.faults import Aborted, ExitCode, UsageError

if TYPE_CHECKING:
    from pipelines.driver import Summary


class Format(StrEnum):
    """What masks can be exported as."""

    NIFTI = "nifti"


def run(
    source: Source,
    output: Output,
    config_file: ConfigFile = None,
    structures: Structures = None,
    weights: Weights = None,
    endpoint_url: Endpoint = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where structures are: a file of clicks (JSON, Parquet) with a series_uid in each row, or a folder of "
            "label maps named <series uid>.nii.gz or .dcm. The localizer finds the rest.",
            show_default=False,
        ),
    ] = None,
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
    from pipelines.cohort_prompts import read_cohort_prompts
    from pipelines.config import Privacy
    from pipelines.installation import check_versions
    from pipelines.segmenters import BundledOrFile

    check_versions()
    config = settings_of(config_file, structures, weights)
    if pseudonym_key:
        config = replace(config, privacy=Privacy(str(pseudonym_key)))
    stores = driver.open_stores(source, output, endpoint_url)
    summary = driver.run(
        stores,
        config,
        BundledOrFile(config.weights, config.precision),
        prompts=read_cohort_prompts(prompts, endpoint_url) if prompts is not None else None,
        retry_failed=retry_failed,
        replace_damaged=replace_damaged,
    )
    _print_summary(summary)
    return ExitCode.DONE if summary.is_clean else ExitCode.UNFINISHED_SERIES


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


def _print_summary(summary: Summary) -> None:
    """Series by status, and where the tables are."""
    for status, count in summary.series_by_status.items():
        print(f"{status:16} {count}")
    print(f"{'computed now':16} {summary.computed}")
    if summary.prompted is not None:
        print(f"{'with prompts':16} {summary.prompted}\n{'prompts unused':16} {summary.prompts_unused}")
    for table, address in summary.tables.items():
        print(f"{table:16} {address}")
