"""Prompts for one study from the command line: a path in, the prompter and what names its results out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctsam3d.imaging.dicom import SeriesFacts
from ctsam3d.prompting.prompt import PromptError, PromptKind
from pipelines.faults import UsageError

if TYPE_CHECKING:
    from ctsam3d.prompting.clicks import ClickPrompter
    from ctsam3d.prompting.mask import MaskPrompter


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Where prompts lie.

    Attributes:
        path: a file or a folder.
        kind: what is there; None looks.
    """

    path: Path
    kind: PromptKind | None = None

    @classmethod
    def of(cls, path: Path | None, kind: PromptKind | None) -> PromptSource | None:
        """What two options of a command ask for; None for the localizer. UsageError where they contradict."""
        if path is None:
            if kind in (None, PromptKind.LOCALIZER):
                return None
            raise UsageError(f"--prompter {kind} needs --prompts: the file or folder to read")
        if kind is PromptKind.LOCALIZER:
            raise UsageError(
                "--prompter localizer finds structures by itself, and --prompts says where they are: give one"
            )
        return cls(path, kind)


@dataclass(frozen=True, slots=True)
class StudyPrompts:
    """A prompter read for one study.

    Attributes:
        prompter: says where structures are.
        everything: what "all" stands for: of a label map the names it has itself, not the wholes they are parts of.
        identity: what names results, besides weights and settings: the kind, and the content's SHA-256.
        facts: for the study's JSON.
    """

    prompter: MaskPrompter | ClickPrompter
    everything: tuple[str, ...]
    identity: Mapping[str, str]
    facts: Mapping[str, object]


def read(source: PromptSource, facts: SeriesFacts | None) -> StudyPrompts:
    """Read prompts and compare what they say they are of with the study.

    Raises:
        UsageError: as `ctsam3d.prompting.files.read_prompts`; each line names the path.
    """
    from ctsam3d.prompting.files import read_prompts
    from ctsam3d.prompting.mask import MaskPrompter

    try:
        prompter = read_prompts(
            source.path,
            source.kind,
            series_uid=facts.series_instance_uid if facts else None,
            frame_of_reference_uid=facts.frame_of_reference_uid if facts else None,
        )
        digest = content_sha256(source.path)
    except PromptError as fault:
        raise named(source, fault) from None
    except OSError as fault:
        raise UsageError(
            f"{source.path}: cannot be read ({fault.strerror or type(fault).__name__})"
        ) from None
    known: dict[str, object] = {"prompter": str(prompter.kind), "prompts_sha256": digest}
    everything = prompter.structures
    if isinstance(prompter, MaskPrompter):
        everything = prompter.labelled
        known["labels_unknown"] = prompter.unknown
    return StudyPrompts(prompter, everything, {"kind": str(prompter.kind), "content_sha256": digest}, known)


def named(source: PromptSource, fault: PromptError) -> UsageError:
    """The fault of prompts as one of usage, the path in each line."""
    return UsageError("\n".join(f"{source.path}: {line}" for line in str(fault).splitlines()))


def content_sha256(path: Path) -> str:
    """The name of prompts: of the file and the JSON that may name its labels, or of all files of a folder."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if not path.is_dir() and beside != path and beside.is_file():
        files.append(beside)
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # a folder's files are their names; a single file may be called anything
        total.update(f"{file.name if path.is_dir() else file.suffix == '.json'}\0{digest}\n".encode())
    return total.hexdigest()
