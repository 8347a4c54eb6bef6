"""A file of weights -> what its header says: shapes, provenance, licence. Reads no tensor, imports no torch.

The file is safetensors. Its one metadata entry, `ctsam3d`, is a JSON object with sorted keys (several
entries would be written in random order, and the same weights must always have the same hash).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"  # what is bundled
LOCALIZER_FILE = WEIGHTS_FOLDER / "localizer.safetensors"
FORMAT_VERSION = 1
METADATA_KEY = "ctsam3d"
HEADER_LIMIT_BYTES = 16 * 2**20  # the header of the largest network takes 0.1 MB
_LINE_LIMIT = 1000  # characters of an error: names in a file may be of any length

Shape = tuple[int, ...]


class CheckpointError(Exception):
    """A file of weights that cannot be used. One line: the file, what was found, what was expected."""

    def __init__(self, path: Path | str, problem: str) -> None:
        line = " ".join(f"{path}: {problem}".split())
        super().__init__(line if len(line) <= _LINE_LIMIT else f"{line[:_LINE_LIMIT]} ...")


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What a file says about its weights.

    Attributes:
        network: a size of `ctsam3d.network.config.SIZES`, or the name of another network.
        windows_hu: (lower, upper) of each input channel.
        spacing_mm: of the voxels the network expects, isotropic.
        licence: under which the weights may be used, an SPDX identifier where there is one.
        training: data, recipe, scores: whatever JSON can hold.
    """

    network: str
    windows_hu: tuple[tuple[float, float], ...]
    spacing_mm: float
    licence: str
    training: Mapping[str, Any]

    def to_json(self) -> str:
        """The metadata entry: sorted, compact, on one line."""
        entry = {
            "format_version": FORMAT_VERSION,
            "network": self.network,
            "windows_hu": self.windows_hu,
            "spacing_mm": self.spacing_mm,
            "licence": self.licence,
            "training": dict(self.training),
        }
        return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A file's header.

    Attributes:
        facts: what the file says about its weights.
        shapes: of every tensor, by name.
        dtypes: of every tensor, by name, as safetensors calls them (F32, F16, I64, ...).
        file_bytes: size of the file.
    """

    facts: WeightsFacts
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str]
    file_bytes: int

    @property
    def numbers(self) -> int:
        """How many numbers all tensors hold together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def info(path: Path | str) -> CheckpointInfo:
    """Read a file's header and nothing else.

    Raises:
        CheckpointError: no such file, not safetensors, damaged, truncated, or not written by this project.
    """
    path = Path(path)
    file_bytes = _check_frame(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: str(part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"expected a whole safetensors file, found it damaged: {error}") from None
    return CheckpointInfo(_facts(path, metadata), shapes, dtypes, file_bytes)


def sha256(path: Path | str) -> str:
    """Hash a whole file: the name by which results know the weights that made them.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(path, f"expected a file of weights, found: {error.strerror or error}") from None


def _check_frame(path: Path) -> int:
    """The file's size, once its first eight bytes, the header's length, are seen to make sense."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            file_bytes = path.stat().st_size
    except OSError as error:
        raise CheckpointError(path, f"expected a file of weights, found: {error.strerror or error}") from None
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > file_bytes - 8:
        raise CheckpointError(
            path, f"expected safetensors, found {file_bytes} bytes that are something else or cut short"
        )
    if length > HEADER_LIMIT_BYTES:
        raise CheckpointError(
            path, f"expected a header of at most {HEADER_LIMIT_BYTES} bytes, found one of {length}"
        )
    return file_bytes


def _facts(path: Path, metadata: Mapping[str, str]) -> WeightsFacts:
    if METADATA_KEY not in metadata:
        raise CheckpointError(path, f"expected the metadata entry {METADATA_KEY!r}, found none")
    try:
        entry = json.loads(metadata[METADATA_KEY])
        version = entry["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(path, f"expected format version {FORMAT_VERSION}, found {version!r}")
        facts = WeightsFacts(
            network=entry["network"],
            windows_hu=tuple((float(lower), float(upper)) for lower, upper in entry["windows_hu"]),
            spacing_mm=float(entry["spacing_mm"]),
            licence=entry["licence"],
            training=entry["training"],
        )
    except KeyError as error:
        raise CheckpointError(path, f"expected the field {error} in the metadata, found none") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"expected metadata of weights, found others: {error}") from None
    kinds = (facts.network, str), (facts.licence, str), (facts.training, dict)
    numbers = [facts.spacing_mm, *(end for window in facts.windows_hu for end in window)]
    if not all(isinstance(value, kind) for value, kind in kinds) or not all(map(math.isfinite, numbers)):
        raise CheckpointError(path, "expected metadata of weights, found a field of another type")
    return facts
