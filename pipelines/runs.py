"""A run: a manifest, a configuration and weights in, the names of all its records out, before any exists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines import identity
from pipelines.manifest import Manifest, ManifestDamaged, SeriesRef
from pipelines.records import Provenance, SeriesRow
from pipelines.store import NotFound, Store

_DESCRIPTION_VERSION = 1
_TEXTS = ("config_hash", "weights_sha256", "code_version", "manifest_id")


class RunDamaged(Exception):
    """A stored run that cannot be read. The message is one line."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run promises of one series: all that its record says without being computed, and no object's name.

    Attributes:
        row: of the series, as far as the manifest knows it.
        provenance: of its record.
    """

    row: SeriesRow
    provenance: Provenance

    @property
    def series_key(self) -> str:
        """Of the series."""
        return self.row.series_key

    @property
    def record_key(self) -> str:
        """The name of the series' record."""
        return self.provenance.record_key


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run.

    Attributes:
        manifest: every series the run must answer for.
        structures: the requested structures, a row of each for every series.
        config: plain JSON values, kept for people.
        config_hash: the name of all settings that can change a result, `structures` among them.
        weights_sha256: of the checkpoint file.
        code_version: of this project when the run was first started.
        manifest_id: the manifest's own name; it and the two hashes name the run.
    """

    manifest: Manifest
    structures: tuple[str, ...]
    config: Mapping[str, Any]
    config_hash: str
    weights_sha256: str
    code_version: str
    manifest_id: str

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        structures: tuple[str, ...],
        config: Mapping[str, Any],
        config_hash: str,
        weights_sha256: str,
        code_version: str,
    ) -> Run:
        """A run over the manifest."""
        return cls(
            manifest, structures, config, config_hash, weights_sha256, code_version, manifest.manifest_id
        )

    @property
    def run_id(self) -> str:
        """The same for the same manifest, configuration and weights."""
        return identity.run_id(self.manifest_id, self.config_hash, self.weights_sha256)

    def record_key(self, ref: SeriesRef) -> str:
        """The name of the series' record in this run."""
        return ref.record_key(self.config_hash, self.weights_sha256)

    def provenance(self, ref: SeriesRef, attempt: int | None = None) -> Provenance:
        """What every row of the series' record says about its making."""
        digest = ref.input_digest
        return Provenance(
            record_key=identity.record_key(ref.series_key, digest, self.config_hash, self.weights_sha256),
            run_id=self.run_id,
            weights_sha256=self.weights_sha256,
            config_hash=self.config_hash,
            code_version=self.code_version,
            input_digest=digest,
            attempt=attempt,
        )

    def expected(self) -> Iterator[Expected]:
        """Every series of the run, in order of their keys."""
        for ref in self.manifest:
            yield Expected(ref.series_row(), self.provenance(ref))


def save_run(output: Store, run: Run) -> None:
    """Keep the run under its name; its description, written last, makes it one. Repeating changes nothing."""
    manifest_key, description_key = _keys(run.run_id)
    description = {name: getattr(run, name) for name in _TEXTS}
    description |= {"version": _DESCRIPTION_VERSION, "run_id": run.run_id}
    description |= {"structures": list(run.structures), "config": dict(run.config)}
    output.put_if_absent(manifest_key, run.manifest.encode())
    output.put_if_absent(description_key, json.dumps(description, indent=1, sort_keys=True).encode())


def load_run(output: Store, run_id: str) -> Run:
    """The run of this name.

    Raises:
        NotFound: there is none.
        RunDamaged: it cannot be read, or is not the run its name says.
    """
    if not identity.is_key(run_id):
        raise RunDamaged("not the name of a run")
    manifest_key, description_key = _keys(run_id)
    try:
        value = json.loads(output.get(description_key))
        texts = {name: value[name] for name in _TEXTS}
        structures, config = tuple(value["structures"]), value["config"]
        if value["version"] != _DESCRIPTION_VERSION or not isinstance(config, dict):
            raise ValueError
        if not all(isinstance(text, str) for text in (*texts.values(), *structures)):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise RunDamaged(f"run {run_id}: its description is not one this version reads") from None
    try:
        manifest = Manifest.decode(output.get(manifest_key))
    except (ManifestDamaged, NotFound) as damage:
        raise RunDamaged(f"run {run_id}: its manifest cannot be read ({damage})") from None
    run = Run(manifest=manifest, structures=structures, config=config, **texts)
    if manifest.manifest_id != run.manifest_id or run.run_id != run_id:
        raise RunDamaged(f"run {run_id}: its parts are not those its name was made of")
    return run


def list_runs(output: Store) -> Iterator[str]:
    """The names of all runs that were saved whole, sorted."""
    found = (entry.key.split("/") for entry in output.list("runs"))
    yield from sorted(parts[1] for parts in found if parts[2:] == ["run.json"])


def _keys(run_id: str) -> tuple[str, str]:
    return f"runs/{run_id}/manifest.parquet", f"runs/{run_id}/run.json"
