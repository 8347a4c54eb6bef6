"""A text from a header in; a short plain one that is safe in a table and in a spreadsheet out, or None."""

from __future__ import annotations

_CHARACTERS = 64


def plain(text: str | None) -> str | None:
    """The text where it could be a maker's or a kernel's name; None for anything else.

    A spreadsheet takes what begins with `=`, `+`, `-` or `@` for a formula, so a name begins with a letter or digit.
    """
    if not text or len(text) > _CHARACTERS or not text.isprintable() or not text[0].isalnum():
        return None
    return text
