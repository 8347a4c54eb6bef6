"""Arguments that several commands share, and the settings that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.config import RunConfig

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


def settings_of(config_file: Path | None, structures: str | None, weights: str | None) -> RunConfig:
    """The settings of a file, what the command line says taking precedence."""
    from dataclasses import replace

    from pipelines.config import RunConfig, parse_config, read_config

    config = read_config(config_file) if config_file else RunConfig()
    given = {
        name: value for name, value in (("structures", structures), ("weights", weights)) if value is not None
    }
    said = parse_config(given)
    return replace(config, **{name: getattr(said, name) for name in given})
