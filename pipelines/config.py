"""What a run is asked to do: a TOML file or plain values in, frozen settings out."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ctsam3d.imaging.dicom import READING_RULES, Limits
from pipelines.faults import UsageError

_STRICT = ConfigDict(extra="forbid")
_STANDSTILL_S = 300.0


def split_names(value: Any) -> Any:
    """ "a, b" to ["a", "b"]; anything else unchanged."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


# What pydantic calls things in Python's words, in TOML's.
_EXPECTED = {
    "dataclass_type": "a table",
    "tuple_type": "a list of names",
    "string_type": "a string",
    "too_short": "at least one name",
}


class ConfigError(UsageError):
    """Settings that cannot be used; each line names a key, what was found and what is expected."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """When a series is refused: see `ctsam3d.imaging.dicom.Limits`; other limits refuse other series."""

    __pydantic_config__ = _STRICT

    max_pixel_bytes: Annotated[int, Field(gt=0)] = 4 << 30
    max_object_bytes: Annotated[int, Field(gt=0)] = 2 << 30
    min_slices: Annotated[int, Field(ge=1)] = 3
    min_extent_mm: Annotated[float, Field(ge=0)] = 20.0
    check_hounsfield: bool = True


@dataclass(frozen=True, slots=True)
class Privacy:
    """What an output may say of whose studies it is made.

    Attributes:
        pseudonym_key_file: holds the key of `pipelines.pseudonyms`; None keeps UIDs and dates as they are.
    """

    __pydantic_config__ = _STRICT

    pseudonym_key_file: Annotated[str, Field(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What the machines give to a run. Nothing here changes a result, so nothing here is part of the hash.

    Attributes:
        address: of a running Ray cluster; None takes RAY_ADDRESS, or else starts a cluster of one's own.
        replicas: actors that hold the weights; None fills the cluster (its GPUs, or its CPUs less one in eight, as far
            as there is memory).
        gpus: to count on where an autoscaler adds them when asked; None counts those that are there.
        gpus_per_replica: share of a GPU a replica takes where the cluster has GPUs.
        cpus_per_load: share of a CPU a decoding task takes; never a replica's, or Ray would fuse the two.
        cpus_per_commit: share of a CPU a measuring and writing task takes.
        torch_threads: of each replica; None divides the cores among the replicas.
        fetch_threads: objects of one series fetched at a time.
        decode_timeout_s: CPU time that parsing and decoding one series may take, and time it may stand still.
        decode_memory_bytes: address space it may take; None reckons it from the series' size.
        max_attempts: how often a series may be begun, in all runs together; one that ended its worker as often
            is poisoned.
        series_timeout_s: how long one series may hold a worker; one that overruns counts as a worker's death.
        series_memory_bytes: what one series may have a worker hold; the same.
        stall_timeout_s: how long no series may end before the run is; None allows for the slowest that may end.
        judge_after_series: from how many ended series on most of them may not end for one reason.
        max_share_of_one_reason: the share that may; 1 lets every run go on.
    """

    __pydantic_config__ = _STRICT

    address: str | None = None
    replicas: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[int, Field(ge=1)] | None = None
    gpus_per_replica: Annotated[float, Field(gt=0, le=1)] = 1.0
    cpus_per_load: Annotated[float, Field(gt=0, lt=1)] = 0.5
    cpus_per_commit: Annotated[float, Field(gt=0, lt=1)] = 0.25
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    fetch_threads: Annotated[int, Field(ge=1, le=256)] = 16
    decode_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    decode_memory_bytes: Annotated[int, Field(gt=0)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    series_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    series_memory_bytes: Annotated[int, Field(gt=0)] = 16 << 30
    stall_timeout_s: Annotated[float, Field(gt=0)] | None = None
    judge_after_series: Annotated[int, Field(ge=1)] = 200
    max_share_of_one_reason: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def longest_wait_s(self) -> float:
        """How long no series may end: by default longer than any way in which one can."""
        if self.stall_timeout_s is not None:
            return self.stall_timeout_s
        return self.series_timeout_s * (self.max_attempts + 1) + _STANDSTILL_S


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything a run is asked to do.

    Attributes:
        structures: names from the catalogue, or ("all",).
        weights: the name of bundled weights, or the path of a checkpoint.
        precision: of the network's convolutions: "float32", "bfloat16", or "auto" for bfloat16 where this machine is
            faster with it and the weights bear it. What was chosen is part of the hash. Where replicas are on other
            machines than this one, name it.
        limits: when a series is too large or too short.
        resources: what the machines give; not part of the hash.
        privacy: whether the output has pseudonyms; of the hash only the key's fingerprint is part.
    """

    __pydantic_config__ = _STRICT

    structures: Annotated[tuple[str, ...], BeforeValidator(split_names), Field(min_length=1)] = ("all",)
    weights: Annotated[str, Field(min_length=1)] = "nano"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    limits: InputLimits = field(default_factory=InputLimits)
    resources: Resources = field(default_factory=Resources)
    privacy: Privacy = field(default_factory=Privacy)


def read_config(path: Path) -> RunConfig:
    """The settings in a TOML file; ConfigError where a key is unknown or a value does not fit."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return parse_config(values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def parse_config(values: dict[str, Any]) -> RunConfig:
    """Settings from nested plain values, as a TOML file holds them."""
    try:
        return TypeAdapter(RunConfig).validate_python(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(details) for details in error.errors())) from None


def meaning(
    config: RunConfig,
    structures: tuple[str, ...],
    segmentation: Mapping[str, Any],
    pseudonyms: str | None = None,
) -> dict[str, Any]:
    """What can change a result, as plain JSON values; `segmentation` are the segmenter's own settings.

    Weights are named by their own hash, and resources change no result. `structures` are resolved names:
    "all" means something else in the next version. `pseudonyms` is the fingerprint of their key.
    """
    kept = {
        "structures": sorted(structures),
        "limits": asdict(config.limits),
        "reading": READING_RULES,
        "segmentation": dict(segmentation),
    }
    return kept | ({"pseudonyms": pseudonyms} if pseudonyms else {})


def config_hash(plain: Mapping[str, Any]) -> str:
    """The name of settings that `meaning` gave: SHA-256 of their canonical JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def limits_of(config: RunConfig) -> Limits:
    """The limits as imaging takes them."""
    return Limits(**asdict(config.limits))


def _line(details: Any) -> str:
    location = details["loc"]
    key = ".".join(str(part) for part in location)
    if details["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = _names_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
        return f"{key}: unknown key; {hint}"
    if details["type"] in _EXPECTED:
        return f"{key}: found {details['input']!r}, expected {_EXPECTED[details['type']]}"
    expected = str(details["msg"]).removeprefix("Input should be ")
    return f"{key}: found {details['input']!r}, expected {expected}"


def _names_at(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys that the settings at a place know."""
    settings: Any = RunConfig()
    for part in location:
        settings = getattr(settings, str(part), None)
    return [f.name for f in fields(settings)] if is_dataclass(settings) else []
