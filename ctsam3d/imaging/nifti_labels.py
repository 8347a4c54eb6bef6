"""Label maps in NIfTI, a file or a folder of them, in; names and masks of labels out.

Of one file the names come from a JSON file beside it (`labels.json` beside `labels.nii.gz`), else from the table that
TotalSegmentator and Connectome Workbench write into the header. A file without names is refused: TotalSegmentator has
numbered its classes in two ways, and a guess would give one organ another's name. In a folder each file is one
structure's mask and names it: `liver.nii.gz`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ctsam3d.imaging.label_maps import (
    MAX_JSON_BYTES,
    Label,
    LabelMask,
    checked_names,
    cut_out,
    names_of,
    part_of,
)
from ctsam3d.imaging.nifti import open_nifti, read_labels
from ctsam3d.imaging.orientation import canonical_geometry, to_canonical
from ctsam3d.outcome import Reason, Rejected

SUFFIXES = (".nii.gz", ".nii")


class _Nifti:
    series_uids: frozenset[str] = frozenset()
    frame_of_reference_uid: str | None = None


class NiftiLabelMap(_Nifti):
    """One NIfTI file whose values are labels."""

    def __init__(self, file: Path | bytes, beside: bytes | None = None) -> None:
        """Read a file, or what is in one.

        Args:
            file: a path, or the bytes.
            beside: of bytes the JSON that names their labels; beside a path it is looked for.

        Raises:
            Rejected: MALFORMED and others as `read_labels`; MALFORMED for a file without usable names.
        """
        json_name = "labels.json"
        if isinstance(file, Path):
            json_name, beside = _json_beside(file).name, _content_beside(file)
        names = names_of(beside or b"") or _names_within(file)
        if not names and beside is not None:
            raise Rejected(Reason.MALFORMED, f'{json_name}: expected names by label, as {{"1": "liver"}}')
        if not names:
            raise Rejected(
                Reason.MALFORMED,
                f"the label map has no names: expected {json_name} beside it or a table in its header",
            )
        self.labels = tuple(Label(key, text) for key, text in sorted(names.items()))
        labels, geometry = read_labels(file)
        self._map = to_canonical(labels, geometry)
        self._geometry = canonical_geometry(geometry)
        self._boxes = ndimage.find_objects(np.ascontiguousarray(self._map))

    def mask(self, label: Label) -> LabelMask | None:
        assert isinstance(label.key, int)
        box = self._boxes[label.key - 1] if label.key <= len(self._boxes) else None
        return None if box is None else LabelMask(self._map[box] == label.key, part_of(self._geometry, box))


class NiftiFolder(_Nifti):
    """A folder of NIfTI files, each the mask of the structure it is named after; read when asked for."""

    def __init__(self, folder: Path) -> None:
        files = {name: file for file in sorted(folder.iterdir()) if (name := _stem(file)) is not None}
        if not files:
            raise Rejected(
                Reason.EMPTY_OBJECT, "expected masks such as liver.nii.gz in the folder, found none"
            )
        self.labels = tuple(Label(str(file), name) for name, file in files.items())

    def mask(self, label: Label) -> LabelMask | None:
        """Raises Rejected: as `read_labels`; MALFORMED for a file with more than one label."""
        labels, geometry = read_labels(Path(label.key))  # type: ignore[arg-type]
        values = np.flatnonzero(np.bincount(labels.ravel()))
        if len(values[values > 0]) > 1:
            raise Rejected(
                Reason.MALFORMED,
                f"{Path(str(label.key)).name}: found {len(values[values > 0])} labels, expected one structure's mask",
            )
        return cut_out(labels > 0, geometry)


def _stem(path: Path) -> str | None:
    """The name of a NIfTI file without its suffix; None for any other."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    return path.name.removesuffix(suffix) if suffix and path.is_file() else None


def _json_beside(path: Path) -> Path:
    return path.with_name(f"{_stem(path) or path.stem}.json")


def _content_beside(path: Path) -> bytes | None:
    """The JSON beside a file; None where there is none, of one that is too large nothing."""
    beside = _json_beside(path)
    if not beside.is_file():
        return None
    return b"" if beside.stat().st_size > MAX_JSON_BYTES else beside.read_bytes()


def _names_within(file: Path | bytes) -> dict[int, str]:
    """Names by label from the label table in a header extension."""
    import defusedxml
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        image = open_nifti(file)
        extensions = image.header.extensions if image is not None else []
        for extension in extensions:
            content = extension.get_content()
            text = content if isinstance(content, bytes) else str(content).encode()
            if b"<LabelTable>" in text:
                # as it ends in the file: padded with blanks and zeros
                table = fromstring(text.strip(b"\0 \n").decode("utf-8", "strict"))
                rows = table.iter("Label")
                return checked_names({row.get("Key", ""): (row.text or "").strip() for row in rows})
    except FileNotFoundError:
        raise
    except (ParseError, ValueError, defusedxml.DefusedXmlException):
        raise Rejected(Reason.MALFORMED, "the label table in the header cannot be read") from None
    except Exception:  # not a NIfTI file: reading its voxels says so
        return {}
    return {}
