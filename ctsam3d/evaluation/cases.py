"""Read a labelled case: a folder in; its CT, its label map on the CT's grid and the names of its labels out.

A case holds `ct.nii.gz` (or a folder `ct` with the objects of one DICOM series), `labels.nii.gz` and `labels.json`. The
last is an object with `labels` (id -> name) and `annotated` (names); without `annotated`, or as a bare object of
id -> name as `ctsam3d segment` writes it, all that is in view was labelled. What is not annotated is unknown and not
absent, and of voxels with the id 255, where that is no label's, nothing is known: they are not scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import UNKNOWN
from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_labels, read_volume
from ctsam3d.imaging.orientation import canonical_geometry, from_canonical, to_canonical
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Rejected

_MOST_OFF_MM = 0.1  # of image and labels: what qform, sform and DICOM differ by in rounding
# A case that names more structures than this was labelled whole: what it could name and did not is not in view.
_NAMES_OF_A_WHOLE_LABELLING = 40


class CaseError(Exception):
    """A case that cannot be scored. The message names the file, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class LabelNames:
    """What the ids of a label map mean.

    Attributes:
        names: id -> name.
        annotated: names that were looked for everywhere in the image; some may be nowhere in it.
        whole: whether all that is in view was labelled.
    """

    names: Mapping[int, str]
    annotated: frozenset[str]
    whole: bool

    def ids_of(self, name: str) -> tuple[int, ...]:
        """Every id that has this name."""
        return tuple(label for label, its in self.names.items() if its == name)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCase:
    """A CT and what is known of it.

    Attributes:
        name: the folder's.
        volume: on its own grid.
        labels: unsigned integers (z, y, x) on the same grid; 0 is no label.
        names: of the labels.
        unknown: bool (z, y, x), where nothing is known; None where there is no such place.
    """

    name: str
    volume: Volume
    labels: NDArray[Any]
    names: LabelNames
    unknown: NDArray[np.bool_] | None = None


def read_names(folder: Path) -> LabelNames:
    """What `labels.json` of a case says.

    Raises:
        CaseError: it is missing or not of the form that is expected.
    """
    path = folder / "labels.json"
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise CaseError(f"{path}: missing; expected an object with `labels` and `annotated`") from None
    except (OSError, ValueError) as fault:
        raise CaseError(f"{path}: cannot be read as JSON ({type(fault).__name__})") from None
    if not isinstance(document, dict):
        raise CaseError(f"{path}: expected an object, found {type(document).__name__}")
    labels = document.get("labels", document)
    if (
        not isinstance(labels, dict)
        or not labels
        or not all(key.isascii() and key.isdigit() and int(key) > 0 for key in labels)
        or not all(isinstance(name, str) and name for name in labels.values())
    ):
        raise CaseError(f"{path}: expected `labels` to map ids from 1 on to names")
    names = {int(key): name for key, name in labels.items()}
    annotated = document.get("annotated") if "labels" in document else None
    if annotated is None:
        return LabelNames(names, frozenset(names.values()), whole=True)
    if not isinstance(annotated, list) or not all(isinstance(name, str) for name in annotated):
        raise CaseError(f"{path}: expected `annotated` to be a list of names")
    strangers = sorted(set(annotated) - set(names.values()))
    if strangers:
        raise CaseError(f"{path}: annotated but without an id in `labels`: {', '.join(strangers[:5])}")
    return LabelNames(names, frozenset(annotated), len(annotated) > _NAMES_OF_A_WHOLE_LABELLING)


def read_case(folder: Path, names: LabelNames) -> LabelledCase:
    """A whole case, its label map in the order in which the image stores its voxels.

    Raises:
        CaseError: a file is missing, cannot be used, or does not fit the others.
    """
    image = next((p for n in ("ct.nii.gz", "ct.nii", "ct") if (p := folder / n).exists()), None)
    if image is None:
        raise CaseError(f"{folder / 'ct.nii.gz'}: missing; expected it or a folder `ct` of DICOM objects")
    path = folder / "labels.nii.gz"
    if not path.exists():
        raise CaseError(f"{path}: missing")
    try:
        volume = read_folder(image).volume if image.is_dir() else read_volume(image)
    except (Rejected, OSError, ValueError) as fault:
        raise CaseError(f"{image}: {_why(fault)}") from None
    try:
        labels, geometry = read_labels(path)
    except (Rejected, OSError) as fault:
        raise CaseError(f"{path}: {_why(fault)}") from None
    unnamed = {int(label) for label in np.unique(labels)} - {0, *names.names}
    strangers = sorted(unnamed - {UNKNOWN})
    if strangers:
        listed = ", ".join(map(str, strangers[:5]))
        raise CaseError(f"{path}: holds labels that {folder / 'labels.json'} does not name: {listed}")
    on_image = _on_grid_of(volume.geometry, labels, geometry, path, image)
    unknown = on_image == UNKNOWN if UNKNOWN in unnamed else None
    return LabelledCase(folder.name, volume, on_image, names, unknown)


def _on_grid_of(
    wanted: Geometry, labels: NDArray[Any], found: Geometry, path: Path, image: Path
) -> NDArray[Any]:
    """Labels in the storage order of the image's grid, which must hold the same voxels."""
    here, there = canonical_geometry(wanted), canonical_geometry(found)
    if here.shape_zyx != there.shape_zyx:
        raise CaseError(
            f"{path}: shape {found.shape_zyx} (z, y, x), expected that of {image.name}, {wanted.shape_zyx}"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in here.shape_zyx])).reshape(3, -1).T
    off_mm = float(np.abs(here.to_world_xyz_mm(corners) - there.to_world_xyz_mm(corners)).max())
    if off_mm > _MOST_OFF_MM:
        raise CaseError(f"{path}: lies up to {off_mm:.1f} mm off the grid of {image.name}, expected the same")
    return np.ascontiguousarray(from_canonical(to_canonical(labels, found), wanted))


def _why(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return f"cannot be read ({fault.strerror or type(fault).__name__})"
    return str(fault)
