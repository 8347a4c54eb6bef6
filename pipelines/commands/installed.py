"""Commands about what is installed here: versions, structures that can be found, files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.faults import ExitCode, UsageError


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
