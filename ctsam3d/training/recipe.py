"""Read how to train: a TOML file in, checked numbers for each network out."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one network is trained; `recipe.toml` says what each number means.

    Attributes:
        synthetic: share of samples painted from label maps.
        coarse_prompt, off_target, objects, rounds: of the cube network's prompts.
    """

    steps: int
    batch: int
    learning_rate: float
    warm_up_steps: int
    clip_norm: float
    ema_decay: float
    weight_decay: float
    validate_every: int
    synthetic: float
    coarse_prompt: float = 0.0
    off_target: float = 0.0
    objects: float = 0.0
    rounds: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Recipes:
    """All of a file.

    Attributes:
        left_out: patterns of cases never trained on.
        coarse: patterns of cases that teach the localizer alone.
        folds: patterns of the cases of each fold of a cross-validation.
        favour: how many times as often as others the favoured structures are chosen.
        favoured: patterns of structures.
        of: a recipe for each network.
    """

    left_out: tuple[str, ...]
    coarse: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    favour: float
    favoured: tuple[str, ...]
    of: dict[str, Recipe]


def read_recipes(path: Path = BUNDLED) -> Recipes:
    """The recipes of a file.

    Raises:
        ValueError: a key that is missing, not known or of another type; the message names it.
    """
    try:
        document = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as fault:
        raise ValueError(f"{path.name}: expected TOML: {fault}") from None
    left_out = _section(path, document, "left_out", {"cases", "coarse"})
    sampling = _section(path, document, "sampling", {"favour", "favoured"})
    folds = _section(path, document, "cross_validation", {"folds"})["folds"]
    networks = {"localizer", "cubes", "cross_patch"}
    if set(document) != networks:
        raise ValueError(f"{path.name}: expected sections {sorted(networks)}, found {sorted(document)}")
    recipes = {name: _recipe(f"{path.name}: [{name}]", section) for name, section in document.items()}
    return Recipes(
        left_out=tuple(left_out["cases"]),
        coarse=tuple(left_out["coarse"]),
        folds=tuple(tuple(fold) for fold in folds),
        favour=float(sampling["favour"]),
        favoured=tuple(sampling["favoured"]),
        of=recipes,
    )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of a recipe's patterns is of a case or structure; `*` stands for any letters."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _section(path: Path, document: dict[str, Any], name: str, keys: set[str]) -> dict[str, Any]:
    """Take a section with exactly these keys out of a document."""
    section: dict[str, Any] = document.pop(name, {})
    if set(section) != keys:
        raise ValueError(f"{path.name}: expected {sorted(keys)} in [{name}], found {sorted(section)}")
    return section


def _recipe(where: str, section: dict[str, Any]) -> Recipe:
    known = {f.name: f for f in fields(Recipe)}
    if unknown := sorted(section.keys() - known.keys()):
        raise ValueError(f"{where}: unknown {unknown[0]!r}; known: {', '.join(known)}")
    if missing := [n for n, f in known.items() if f.default is MISSING and n not in section]:
        raise ValueError(f"{where}: {missing[0]!r} is missing")
    values: dict[str, Any] = {}
    for name, value in section.items():
        kind = known[name].type
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind.startswith("tuple") and isinstance(value, list):
            value = tuple(float(v) for v in value)
        expected = {"int": int, "float": float}.get(str(kind), tuple)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ValueError(f"{where}: expected {name} to be {kind}, found {value!r}")
        values[name] = value
    return Recipe(**values)
