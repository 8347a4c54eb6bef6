"""The command line: arguments in; results on stdout, words for people on stderr, an exit code out.

Nothing heavy is imported before a command needs it: `--help` and `info` answer at once.
"""

from __future__ import annotations

import typer

from pipelines.commands import cohort, installed, study
from pipelines.ending import exit_code_of, leave

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

for command in (
    cohort.run,
    cohort.discover,
    cohort.verify,
    cohort.export,
    study.segment,
    installed.structures,
    study.evaluate,
    installed.info,
):
    app.command()(command)
weights_app.command("info")(installed.weights_info)
weights_app.command("convert")(installed.weights_convert)
app.add_typer(weights_app, name="weights")


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    leave(run_command())


def run_command(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code."""
    return exit_code_of(lambda: app(args=arguments, standalone_mode=False))


if __name__ == "__main__":
    main()
