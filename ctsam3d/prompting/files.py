"""Prompts that somebody made of a study, in whatever file: a path in, the prompter that reads it out."""

from __future__ import annotations

import struct
from pathlib import Path

from ctsam3d.imaging.nifti_labels import SUFFIXES
from ctsam3d.prompting.clicks import ClickPrompter, read_clicks
from ctsam3d.prompting.mask import MaskPrompter, read_mask
from ctsam3d.prompting.prompt import PromptError, PromptKind

_HEAD_BYTES = 512
_NIFTI_HEADER_BYTES = (348, 540)


def read_prompts(
    path: Path,
    kind: PromptKind | None = None,
    *,
    series_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
) -> MaskPrompter | ClickPrompter:
    """The prompter of a file or folder.

    Args:
        path: a label map (`read_mask`) or clicks (`read_clicks`).
        kind: which of the two; None looks.
        series_uid, frame_of_reference_uid: of the image; None where it does not say.

    Raises:
        PromptError: prompts that cannot be read, or that say they are of another series or frame of reference.
        OSError: the file cannot be opened.
    """
    kind = kind or kind_of(path)
    if kind is PromptKind.CLICKS:
        return read_clicks(path, series_uid)
    if kind is not PromptKind.MASK:
        raise PromptError(f"a {kind} reads no prompts, expected {PromptKind.MASK} or {PromptKind.CLICKS}")
    prompter = read_mask(path)
    prompter.check_study(series_uid, frame_of_reference_uid)
    return prompter


def kind_of(path: Path) -> PromptKind:
    """What a path holds, by its content, then by its suffix; PromptError where neither tells."""
    if path.is_dir():
        return PromptKind.MASK
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(b"PAR1") or head.lstrip()[:1] in (b"[", b"{"):
        return PromptKind.CLICKS
    nifti = len(head) >= 4 and any(struct.unpack(f"{o}i", head[:4])[0] in _NIFTI_HEADER_BYTES for o in "<>")
    if head[128:132] == b"DICM" or nifti or path.name.endswith(SUFFIXES):
        return PromptKind.MASK
    raise PromptError(
        "expected a label map (NIfTI, a folder of NIfTI files, DICOM SEG) or clicks (JSON, Parquet), found neither"
    )
