"""Segment one CT without a cluster: a DICOM folder or NIfTI file in; label map, names, facts and a table out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ctsam3d.anatomy.structures import resolve
from ctsam3d.imaging.decoders import DecoderMissing
from ctsam3d.imaging.dicom import Limits, SeriesFacts, read_folder
from ctsam3d.imaging.nifti import read_volume, write_labels
from ctsam3d.imaging.orientation import orientation_code
from ctsam3d.imaging.volume import Volume
from ctsam3d.network.allocator import keep_freed_memory
from ctsam3d.outcome import Rejected, Status
from ctsam3d.prompting.prompt import PromptError, PromptKind
from pipelines import identity, parquet
from pipelines.cohort.commit import orientation_suspect
from pipelines.cohort.measure import structure_rows
from pipelines.config import RunConfig, config_hash, limits_of, meaning
from pipelines.faults import UsageError
from pipelines.prompts import PromptSource, named
from pipelines.prompts import read as read_prompts
from pipelines.records import Provenance, Record, SeriesRow, StructureRow, encode_record, read_record
from pipelines.sandbox import SandboxFailure, is_supported, warm
from pipelines.schemas import STRUCTURES
from pipelines.segmenters import SegmenterSource
from pipelines.version import code_version


def segment_file(
    source: Path,
    destination: Path,
    config: RunConfig,
    segmenter: SegmenterSource,
    prompts: PromptSource | None = None,
) -> tuple[StructureRow, ...]:
    """Write labels.nii.gz, labels.json, series.json and structures.parquet for one CT.

    Args:
        source: a folder with the objects of one series, or a .nii or .nii.gz file.
        destination: a folder, made where missing.
        config: structures, weights and limits.
        segmenter: where the segmenter comes from.
        prompts: where structures are; None asks the localizer.

    Returns:
        A row per requested structure, the same that a run over a bucket would publish.

    Raises:
        UsageError: an input that cannot be read or is refused, unusable weights or prompts, an unknown structure.
    """
    keep_freed_memory()
    try:
        volume, facts = _read(source, limits_of(config), config.resources.decode_timeout_s)
    except Rejected as refusal:
        raise UsageError(f"{source}: {refusal}") from None
    except (OSError, ValueError, SandboxFailure, DecoderMissing) as fault:
        raise UsageError(f"{source}: cannot be read: {fault}") from None
    given = read_prompts(prompts, facts) if prompts else None
    selection = ",".join(config.structures)
    try:
        if given:  # a wrong name is told before weights are loaded
            structures = resolve(selection, given.prompter.structures, given.everything)
        known = segmenter.identity()
        segmenter = known.source or segmenter
        if not given:
            structures = resolve(selection, known.structures)
        destination.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as fault:
        raise UsageError(str(fault)) from None
    try:
        # a segmenter may have no use for a prompter
        prompter = (given.prompter,) if given else ()
        found = segmenter.load().segment(volume, structures, *prompter)
    except PromptError as fault:
        raise fault if prompts is None else named(prompts, fault) from None
    rows = structure_rows(volume, found, structures)
    write_labels(destination / "labels.nii.gz", found.labels, volume.geometry)
    names = {str(label): name for name, label in sorted(found.label_ids.items(), key=lambda item: item[1])}
    (destination / "labels.json").write_text(json.dumps(names, indent=1) + "\n")
    told: dict[str, Any] = dict(given.facts) if given else {"prompter": str(PromptKind.LOCALIZER)}
    told["orientation_suspect"] = orientation_suspect(rows)
    facts_json = json.dumps(_facts(volume, facts) | told, indent=1, allow_nan=False)
    (destination / "series.json").write_text(facts_json + "\n")
    shaped_by = {**known.settings, **({"prompts": given.identity} if given else {})}
    settings = config_hash(meaning(config, structures, shaped_by))
    table = read_record(_record(volume, facts, rows, settings, known.weights_sha256), masks=False).structures
    (destination / "structures.parquet").write_bytes(parquet.write([table], STRUCTURES))
    return rows


def _read(source: Path, limits: Limits, timeout_s: float) -> tuple[Volume, SeriesFacts | None]:
    if source.is_dir():
        sandbox = warm(timeout_s) if is_supported() else None
        series = sandbox.read_folder(source, limits) if sandbox else read_folder(source, limits)
        return series.volume, series.facts
    if not source.is_file():
        raise FileNotFoundError("expected a folder of DICOM objects or a NIfTI file, found nothing")
    return read_volume(source), None


def _facts(volume: Volume, facts: SeriesFacts | None) -> dict[str, Any]:
    """What the series table would say of the grid, and of what was dealt with to have one."""
    return {
        "shape_zyx": volume.geometry.shape_zyx,
        "spacing_mm": volume.geometry.spacing_xyz_mm,
        "orientation": orientation_code(volume.geometry),
        "geometry_fix": facts.geometry_fix if facts else None,
        "frame_slices": facts.frame_slices if facts else None,
    }


def _record(
    volume: Volume, facts: SeriesFacts | None, rows: tuple[StructureRow, ...], settings: str, weights: str
) -> bytes:
    """The rows with what made them; an image that is in no manifest is named by its voxels and its grid."""
    content = hashlib.sha256(volume.hu.tobytes() + volume.geometry.affine.tobytes()).hexdigest()
    study = facts.study_instance_uid if facts else None
    series = facts.series_instance_uid if facts else None
    digest = identity.input_digest([(volume.hu.nbytes, content)])
    key = identity.series_key(study or "", series or content)
    made_by = Provenance(
        record_key=identity.record_key(key, digest, settings, weights),
        run_id=identity.run_id(digest, settings, weights),
        weights_sha256=weights,
        config_hash=settings,
        code_version=code_version(),
        input_digest=digest,
    )
    return encode_record(Record(SeriesRow(key, study, series, Status.OK), rows, made_by))
