"""Show the catalogue: structures in; a table for people, as wide as their terminal, or JSON out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from rich.console import Console
from rich.table import Table

from ctsam3d.anatomy.catalogue import Structure
from ctsam3d.network.weights_file import LOCALIZER_FILE, info

_WIDE = 110  # columns from which on what a code means is shown too


def located_by_bundled_weights() -> frozenset[str]:
    """Names that the bundled localizer finds, from its header."""
    return frozenset(info(LOCALIZER_FILE).facts.training["classes"])


def as_json(structures: Iterable[Structure], located: Collection[str]) -> str:
    """One JSON list; what is not known is null. `located` are the names that need no prompts of one's own."""
    return json.dumps([_facts(structure, located) for structure in structures], indent=1)


def print_table(structures: Iterable[Structure], located: Collection[str]) -> None:
    """To stdout, plain text where that is no terminal."""
    console = Console(highlight=False)
    wide = console.width >= _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0) if wide else (0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("group", no_wrap=True)
    table.add_column("side", no_wrap=True)
    table.add_column("SNOMED CT", no_wrap=True, justify="right")
    if wide:
        table.add_column("meaning", no_wrap=True)
    table.add_column("ml", no_wrap=True, justify="right")
    table.add_column("found by", no_wrap=True)
    for structure in structures:
        low_high = structure.plausible_ml
        table.add_row(
            structure.name,
            structure.group,
            structure.laterality or "",
            structure.snomed_code or "-",
            *([structure.snomed_meaning or "-"] if wide else []),
            f"{low_high[0]:g}-{low_high[1]:g}" if low_high else "-",
            "localizer" if structure.name in located else "mask, clicks",
        )
    console.print(table)
    console.print(
        "\nml: plausible volumes of whole adult structures. What the localizer finds can be prompted by a mask or "
        "clicks too."
    )


def _facts(structure: Structure, located: Collection[str]) -> dict[str, object]:
    return {
        "name": structure.name,
        "group": structure.group,
        "laterality": structure.laterality,
        "snomed_code": structure.snomed_code,
        "snomed_meaning": structure.snomed_meaning,
        "plausible_ml": structure.plausible_ml,
        "found_by": [*(["localizer"] if structure.name in located else []), "mask", "clicks"],
        "aliases": structure.aliases,
    }
