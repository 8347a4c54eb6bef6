"""Prompt with clicks of a person: a JSON or Parquet file of points in the patient in, a prompt per structure out.

A row a click: `structure` (a name or alias of the catalogue), `x_mm`, `y_mm`, `z_mm` (LPS+, as DICOM has them),
`positive` (true, the default, in the structure; false beside it) and, where a file holds clicks of several series,
`series_uid`; for a cohort in every row. In JSON a list of objects, or an object whose `clicks` are that list. A field
that is none of these is refused: a misspelt `positive` would turn a click around.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctsam3d.anatomy.catalogue import CATALOGUE, named
from ctsam3d.arrow_schema import without_arrow_schema
from ctsam3d.imaging.volume import Volume
from ctsam3d.prompting.prompt import Click, Prompt, PromptError, PromptKind

_AXES = ("x_mm", "y_mm", "z_mm")
_REQUIRED = ("structure", *_AXES)
_FIELDS = (*_REQUIRED, "positive", "series_uid")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_BYTES = 64 << 20
# Parquet packs without end; as many rows as a file of JSON could hold, and as much in them
_MAX_ROWS, _MAX_UNPACKED_BYTES, _BATCH_ROWS = 1_000_000, 512 << 20, 256
_MAX_FAULTS = 10  # named at a time
_FAR_MM = 1e6  # farther than this is no place in a patient


@dataclass(frozen=True, slots=True)
class ClickRow:
    """One row of a file.

    Attributes:
        row: where it stands, from 1.
        structure: a name of the catalogue.
        click: the point.
        series_uid: the series it was made in, or None where the row does not say.
    """

    row: int
    structure: str
    click: Click
    series_uid: str | None = None


class ClickPrompter:
    """Clicks of one study.

    Attributes:
        structures: names that have a click, in the order of the catalogue.
    """

    kind = PromptKind.CLICKS

    def __init__(self, rows: Sequence[ClickRow]) -> None:
        """Raises PromptError where a structure has no positive click."""
        faults = []
        self._rows = {name: [row for row in rows if row.structure == name] for name in CATALOGUE}
        self.structures = tuple(name for name, clicks in self._rows.items() if clicks)
        for name in self.structures:
            if not any(row.click.positive for row in self._rows[name]):
                first = self._rows[name][0].row
                faults.append(
                    f"row {first}, field positive: {name} has no positive click, expected at least one"
                )
        _raise(faults)

    def prompts(self, grid: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        """The clicks of each structure.

        Raises:
            PromptError: a click outside of the volume; the row, the field, and how far the volume goes.
        """
        asked = {name: self._rows.get(name, []) for name in structures}
        _raise(_outside([row for rows in asked.values() for row in rows], grid))
        return {name: Prompt(clicks=tuple(row.click for row in rows)) for name, rows in asked.items() if rows}


def read_clicks(path: Path, series_uid: str | None = None) -> ClickPrompter:
    """The clicks of a file that are of one series.

    Args:
        path: JSON or Parquet, told apart by content.
        series_uid: of the study, None where it has none. Rows that name another series are left out; rows that name
            none are of any.

    Raises:
        PromptError: a file that cannot be read, a field that is missing, unknown or wrong (with its row), no click of
            this series, or clicks of several where the study does not say which it is.
        OSError: the file cannot be opened.
    """
    rows = parse_clicks(_content(path))
    named_series = {row.series_uid for row in rows} - {None}
    if series_uid is None and len(named_series) > 1:
        raise PromptError(
            f"field series_uid: clicks of {len(named_series)} series, and the image does not say which it is"
        )
    if series_uid is not None:
        rows = tuple(row for row in rows if row.series_uid in (None, series_uid))
    if not rows:
        raise PromptError(f"no click of this series; clicks of {len(named_series)} others")
    return ClickPrompter(rows)


def clicks_by_series(data: bytes) -> dict[str, tuple[ClickRow, ...]]:
    """The clicks of a file's bytes by the SeriesInstanceUID of each row, in the order of the file.

    Raises:
        PromptError: as `parse_clicks`; a row that does not say of which series it is.
    """
    rows = parse_clicks(data)
    _raise([f"row {row.row}, field series_uid: missing" for row in rows if row.series_uid is None])
    found: dict[str, list[ClickRow]] = {}
    for row in rows:
        assert row.series_uid is not None
        found.setdefault(row.series_uid, []).append(row)
    return {uid: tuple(clicks) for uid, clicks in found.items()}


def parse_clicks(data: bytes) -> tuple[ClickRow, ...]:
    """All clicks of a file's bytes, JSON or Parquet, told apart by content.

    Raises:
        PromptError: too many bytes or rows, neither format, or a field that is missing, unknown or wrong.
    """
    _check_size(len(data))
    return tuple(_parsed(_table(data)))


def _content(path: Path) -> bytes:
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise PromptError(f"file of {size} bytes, expected at most {MAX_BYTES}")


def _table(data: bytes) -> list[Any]:
    """The rows of a file as it holds them."""
    if data.startswith(b"PAR1"):
        return _parquet_rows(data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise PromptError(f"neither Parquet nor JSON ({type(fault).__name__})") from None
    rows = found.get("clicks") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise PromptError("expected a list of clicks, or an object with such a list as `clicks`")
    return rows


def _parquet_rows(data: bytes) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # extension types may name code to load: they are left alone
        file = pq.ParquetFile(pa.BufferReader(without_arrow_schema(data)), arrow_extensions_enabled=False)
        if file.metadata.num_rows > _MAX_ROWS:
            raise PromptError(f"found {file.metadata.num_rows} rows, expected at most {_MAX_ROWS}")
        columns = file.schema_arrow.names
        rows: list[Any] = []
        unpacked = 0
        for batch in file.iter_batches(_BATCH_ROWS):
            unpacked += batch.nbytes
            if unpacked > _MAX_UNPACKED_BYTES:
                raise PromptError(f"unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
            rows += batch.to_pylist()
    except PromptError:
        raise
    except Exception as fault:  # damaged bytes raise whatever they happen to hit
        raise PromptError(f"cannot be read as Parquet ({type(fault).__name__})") from None
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise PromptError(f"column {missing[0]}: missing, expected {', '.join(_REQUIRED)}")
    optional = [name for name in _FIELDS if name not in _REQUIRED]
    return [{k: v for k, v in row.items() if v is not None or k not in optional} for row in rows]


def _parsed(table: Sequence[Any]) -> list[ClickRow]:
    if not table:
        raise PromptError("found no rows, expected a click or more")
    rows, faults = [], []
    for number, fields in enumerate(table, 1):
        wrong = _faults(fields)
        faults += [f"row {number}, {fault}" for fault in wrong]
        if len(faults) > _MAX_FAULTS:
            break
        if not wrong:
            structure = named(fields["structure"])
            assert structure is not None
            x, y, z = (float(fields[axis]) for axis in _AXES)
            click = Click((x, y, z), fields.get("positive", True))
            rows.append(ClickRow(number, structure.name, click, fields.get("series_uid")))
    _raise(faults)
    return rows


def _faults(fields: Any) -> list[str]:
    """What is wrong with one row, each with its field."""
    if not isinstance(fields, Mapping):
        return [f"found {type(fields).__name__}, expected an object with {', '.join(_REQUIRED)}"]
    faults = []
    for name in fields:
        if name not in _FIELDS:
            near = difflib.get_close_matches(str(name), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(_FIELDS)}"
            faults.append(f"field {name}: unknown; {hint}")
    faults += [f"field {name}: missing" for name in _REQUIRED if name not in fields]
    for axis in _AXES:
        value = fields.get(axis, 0.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and abs(value) < _FAR_MM):  # false for NaN too
            faults.append(f"field {axis}: found {repr(value)[:40]}, expected a finite number of millimetres")
    if "structure" in fields and (fault := _unknown(fields["structure"])):
        faults.append(f"field structure: {fault}")
    if not isinstance(fields.get("positive", True), bool):
        faults.append(f"field positive: found {fields['positive']!r}, expected true or false")
    uid = fields.get("series_uid")
    if "series_uid" in fields and not (isinstance(uid, str) and len(uid) <= 64 and _UID.fullmatch(uid)):
        faults.append("field series_uid: expected a DICOM UID")
    return faults


def _unknown(name: Any) -> str | None:
    """Why a name is not one of the catalogue."""
    if not isinstance(name, str):
        return f"found {name!r}, expected a name of the catalogue"
    if named(name) is not None:
        return None
    near = difflib.get_close_matches(name, CATALOGUE, n=3)
    hint = f"nearest: {', '.join(near)}" if near else "`ctsam3d structures` lists them"
    return f"{name!r} is not in the catalogue; {hint}"


def _outside(rows: Sequence[ClickRow], grid: Volume) -> list[str]:
    if not rows:
        return []
    index = grid.geometry.to_index_zyx(np.array([row.click.xyz_mm for row in rows]))
    corners = np.array([(-0.5,) * 3, np.array(grid.hu.shape) - 0.5])
    low, high = np.sort(grid.geometry.to_world_xyz_mm(corners), axis=0)
    faults = []
    for row, zyx in zip(rows, index, strict=True):
        beyond = (zyx < -0.5) | (zyx > np.array(grid.hu.shape) - 0.5)
        for axis in np.flatnonzero(beyond[::-1]):
            faults.append(
                f"row {row.row}, field {_AXES[axis]}: found {row.click.xyz_mm[axis]:g}, outside of the image, "
                f"which goes from {low[axis]:.1f} to {high[axis]:.1f}"
            )
    return faults


def _raise(faults: Sequence[str]) -> None:
    if faults:
        more = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
        raise PromptError("\n".join([*faults[:_MAX_FAULTS], *more]))
