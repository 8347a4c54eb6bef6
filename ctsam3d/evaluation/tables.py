"""Scores and cases to Parquet: rows in, one file each out, with page checksums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ctsam3d.evaluation.score import Score
from ctsam3d.segmentation.confidence import Evidence

SCORES = pa.schema(
    [
        pa.field("case", pa.string(), nullable=False),
        pa.field("structure", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("clicks", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("confidence", pa.float64()),
        pa.field("dice", pa.float64()),
        pa.field("surface_dice_2mm", pa.float64()),
        pa.field("hd95_mm", pa.float64()),
        pa.field("truth_ml", pa.float64(), nullable=False),
        pa.field("found_ml", pa.float64(), nullable=False),
        pa.field("error_ml", pa.float64(), nullable=False),
        pa.field("error_percent", pa.float64()),
        pa.field("truncated_faces", pa.list_(pa.string()), nullable=False),
        pa.field("cubes", pa.int32()),
        *(pa.field(f"evidence_{part.name}", pa.float64()) for part in fields(Evidence)),
    ]
)
CASES = pa.schema(
    [
        pa.field("case", pa.string(), nullable=False),
        pa.field("structures", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("fault", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What became of one case.

    Attributes:
        case: its name.
        structures: how many were scored.
        seconds: that it took.
        fault: why it could not be scored to its end, or None.
    """

    case: str
    structures: int
    seconds: float
    fault: str | None = None


def write_scores(path: Path, scores: Iterable[Score], facts: Mapping[str, str]) -> None:
    """One row a score; the facts (weights, settings) go into the file's metadata."""
    _write(path, [_score_row(score) for score in scores], SCORES, facts)


def write_cases(path: Path, outcomes: Iterable[CaseOutcome], facts: Mapping[str, str]) -> None:
    """One row a case, scored or not."""
    rows: list[dict[str, object]] = [
        {"case": o.case, "structures": o.structures, "seconds": o.seconds, "fault": o.fault} for o in outcomes
    ]
    _write(path, rows, CASES, facts)


def _score_row(score: Score) -> dict[str, object]:
    metrics = score.metrics
    evidence = {
        f"evidence_{part.name}": getattr(score.evidence, part.name, None) for part in fields(Evidence)
    }
    return {
        "case": score.case,
        "structure": score.structure,
        "method": score.method.value,
        "clicks": score.clicks,
        "status": score.status.value,
        "reason": score.reason,
        "confidence": score.confidence,
        "dice": metrics.dice,
        "surface_dice_2mm": metrics.surface_dice,
        "hd95_mm": metrics.hd95_mm,
        "truth_ml": metrics.truth_ml,
        "found_ml": metrics.found_ml,
        "error_ml": metrics.error_ml,
        "error_percent": metrics.error_percent,
        "truncated_faces": list(score.truncated),
        "cubes": score.cubes,
        **evidence,
    }


def _write(path: Path, rows: list[dict[str, object]], schema: pa.Schema, facts: Mapping[str, str]) -> None:
    """Through a file beside it, so that whoever reads meets the old table or the new one."""
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(dict(facts)))
    beside = path.with_name(path.name + ".partial")
    pq.write_table(table, beside, compression="zstd", write_page_checksum=True)
    beside.replace(path)
