"""Choose structures: a selection text in, names out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ctsam3d.anatomy.catalogue import named


def resolve(
    selection: str, available: Sequence[str], everything: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Names for a selection text.

    Args:
        selection: "all", or names or aliases separated by commas.
        available: what can be segmented.
        everything: what "all" stands for, in its order; by default all that is available.

    Raises:
        ValueError: a name that is not available, with the nearest ones that are.
    """
    if selection.strip() == "all":
        return tuple(available if everything is None else everything)
    names = [part.strip() for part in selection.split(",") if part.strip()]
    if not names:
        raise ValueError("no structure named; expected 'all' or names separated by commas")
    return tuple(dict.fromkeys(_resolved(name, available) for name in names))


def _resolved(name: str, available: Sequence[str]) -> str:
    known = named(name)
    for candidate in (name, known.name if known else name):
        if candidate in available:
            return candidate
    what = (
        "known, but neither these weights nor the prompts say where it is" if known else "unknown structure"
    )
    near = difflib.get_close_matches(name, available, n=3) or list(available[:3])
    raise ValueError(f"{name!r}: {what}; nearest available: {', '.join(near)}")
