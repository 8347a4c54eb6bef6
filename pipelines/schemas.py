"""The fixed Arrow schemas of all that is stored: names, types, units, and the version in the metadata."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"
_METADATA = {b"ctsam3d.schema_version": SCHEMA_VERSION.encode()}


def _column(name: str, kind: pa.DataType, unit: str | None = None, *, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"unit": unit} if unit else None)


_TEXT, _COUNT, _REAL = pa.string(), pa.int64(), pa.float64()

_IDENTITY = [
    _column("series_key", _TEXT, null=False),
    _column("study_instance_uid", _TEXT),
    _column("series_instance_uid", _TEXT),
]
_PROVENANCE = [
    _column("weights_sha256", _TEXT, null=False),
    _column("config_hash", _TEXT, null=False),
    _column("code_version", _TEXT, null=False),
    _column("run_id", _TEXT, null=False),
    _column("record_key", _TEXT, null=False),
    _column("input_digest", _TEXT, null=False),
    _column("attempt", pa.int32()),
]
_BBOX = _column("bbox", pa.list_(pa.int32()), "voxel index z0 y0 x0 z1 y1 x1, half open, source grid")
_VOXELS = _column("voxels", _COUNT, "voxel of the source grid")
_STRUCTURE = _column("structure", _TEXT, null=False)
_MASK = [
    _column("shape_zyx", pa.list_(pa.int32()), "voxel"),
    _column("affine", pa.list_(_REAL), "row by row, (x, y, z, 1) to LPS+ mm"),
    _column("encoding", _TEXT),
    _column("bits", pa.large_binary()),
]
MASK_COLUMNS = tuple(f.name for f in _MASK)

# One row per (series, requested structure).
STRUCTURES = pa.schema(
    [
        *_IDENTITY,
        _STRUCTURE,
        _column("snomed_code", _TEXT),
        _column("status", _TEXT, null=False),
        _column("reason", _TEXT),
        _column("volume_ml", _REAL, "ml"),
        _column("volume_soft_ml", _REAL, "ml"),
        _VOXELS,
        _column("mean_hu", _REAL, "HU"),
        _column("sd_hu", _REAL, "HU"),
        _column("p05_hu", _REAL, "HU"),
        _column("p50_hu", _REAL, "HU"),
        _column("p95_hu", _REAL, "HU"),
        _BBOX,
        _column("centroid_xyz_mm", pa.list_(_REAL), "mm, LPS+"),
        _column("truncated_faces", pa.list_(_TEXT)),
        _column("clicks", pa.int32()),
        _column("confidence", _REAL),
        _column("flags", pa.list_(_TEXT)),
        _column("prompter", _TEXT),
        *_PROVENANCE,
    ],
    metadata=_METADATA,
)

# One row per discovered series, kept or not.
SERIES = pa.schema(
    [
        *_IDENTITY,
        _column("status", _TEXT, null=False),
        _column("reason", _TEXT),
        _column("detail", _TEXT),
        _column("study_date", pa.date32()),
        _column("modality", _TEXT),
        _column("rows", pa.int32()),
        _column("columns", pa.int32()),
        _column("slices", pa.int32()),
        _column("spacing_mm", pa.list_(_REAL), "mm, x y z"),
        _column("orientation", _TEXT),
        _column("orientation_suspect", pa.bool_()),
        _column("geometry_fix", pa.list_(_TEXT)),
        _column("frame_slices", pa.list_(pa.int32()), "voxel index z, source grid, of each frame"),
        _column("manufacturer", _TEXT),
        _column("kernel", _TEXT),
        _column("slice_thickness", _REAL, "mm"),
        _column("kvp", _REAL, "kV"),
        _column("contrast", pa.bool_()),
        _column("lossy", pa.bool_()),
        _column("objects", _COUNT),
        _column("objects_set_aside", _COUNT),
        _column("seconds_per_stage", pa.map_(_TEXT, _REAL), "s"),
        _column("peak_memory_bytes", _COUNT, "byte"),
        _column("bytes_read", _COUNT, "byte"),
        *_PROVENANCE,
    ],
    metadata=_METADATA,
)

# One row per (series, structure) that has a mask.
MASKS = pa.schema(
    [
        *_IDENTITY,
        _STRUCTURE,
        _VOXELS,
        _BBOX,
        *_MASK,
        _column("record_key", _TEXT, null=False),
        _column("run_id", _TEXT, null=False),
    ],
    metadata=_METADATA,
)

# What a record object holds: a structure's row and its mask side by side.
RECORD = pa.schema([*STRUCTURES, *_MASK], metadata=_METADATA)

# One row per published run; the highest sequence is the newest.
RUNS = pa.schema(
    [
        _column("run_id", _TEXT, null=False),
        _column("sequence", _COUNT, null=False),
        _column("published_at", pa.timestamp("us", tz="UTC"), null=False),
        _column("manifest_id", _TEXT, null=False),
        _column("config_hash", _TEXT, null=False),
        _column("weights_sha256", _TEXT, null=False),
        _column("code_version", _TEXT, null=False),
        _column("series", _COUNT, null=False),
        _column("series_by_status", pa.map_(_TEXT, _COUNT), null=False),
        _column("config_json", _TEXT, null=False),
    ],
    metadata=_METADATA,
)

_OBJECT = pa.struct(
    [
        pa.field("key", _TEXT, nullable=False),
        pa.field("size", _COUNT, nullable=False),
        pa.field("etag", _TEXT),
    ]
)

# One row per series found in a source, kept or not; where there are prompts of it, the name of their content.
MANIFEST = pa.schema(
    [
        *_IDENTITY,
        _column("status", _TEXT, null=False),
        _column("reason", _TEXT),
        _column("detail", _TEXT),
        _column("objects", pa.list_(_OBJECT), null=False),
        _column("object_count", _COUNT, null=False),
        _column("bytes_total", _COUNT, "byte", null=False),
        _column("image_count", _COUNT, null=False),
        _column("study_date", pa.date32()),
        _column("modality", _TEXT),
        _column("rows", pa.int32()),
        _column("columns", pa.int32()),
        _column("manufacturer", _TEXT),
        _column("kernel", _TEXT),
        _column("slice_thickness", _REAL, "mm"),
        _column("kvp", _REAL, "kV"),
        _column("contrast", pa.bool_()),
        _column("lossy", pa.bool_()),
        _column("prompts_digest", _TEXT),
    ],
    metadata=_METADATA,
)

# One row per series to compute, while a run lasts: as in the manifest, and its prompts as JSON.
PENDING = pa.schema([*MANIFEST, _column("prompts", _TEXT)], metadata=_METADATA)
