"""Names for series, records and runs: what made them in, a hash that is safe in a path out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_UID_LENGTH = 64
_KEY = re.compile(r"[0-9a-f]{32}")


def is_uid(text: str | None) -> bool:
    """Whether the text is a DICOM UID: digits in groups joined by dots, at most 64 characters."""
    return text is not None and len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Whether the text has the form of the names made here."""
    return _KEY.fullmatch(text) is not None


def series_key(*identity: str) -> str:
    """The stable name of a series, 32 hexadecimal digits, from its study and series UIDs.

    Objects that belong to no series are named by their folder and what is wrong with them.
    """
    return _hash(["series", *identity])


def input_digest(objects: Iterable[tuple[int, str | None]], prompts: str | None = None) -> str:
    """The name of a series' content: sizes in bytes and ETags of its objects, in any order.

    And, where somebody said where its structures are, the name of what was said.
    """
    content = _hash(["objects", *sorted([size, etag or ""] for size, etag in objects)])
    return content if prompts is None else _hash(["prompted", content, prompts])


def prompts_digest(kind: str, content: list[Any]) -> str:
    """The name of what was said of one series: its kind, and plain JSON values that change when it does."""
    return _hash(["prompts", kind, *content])


def record_key(series: str, digest: str, config: str, weights_sha256: str) -> str:
    """The name of the record that this series, content, configuration and weights make."""
    return _hash(["record", series, digest, config, weights_sha256])


def record_path(key: str) -> str:
    """Where the record lies in the output store. Raises ValueError for what is not a record's name."""
    if not is_key(key):
        raise ValueError("not the name of a record")
    return f"records/{key[:2]}/{key}.parquet"


def run_id(manifest_id: str, config: str, weights_sha256: str) -> str:
    """The name of a run: the same manifest, configuration and weights are the same run."""
    return _hash(["run", manifest_id, config, weights_sha256])


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
