"""Labels of one study that somebody made: their names, their masks, and what every kind of file that holds them gives.

The kinds are read by `ctsam3d.imaging.nifti_labels` and `ctsam3d.imaging.dicom_seg`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.orientation import canonical_geometry, to_canonical

MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class CodedName:
    """What DICOM says a segment is, each as (scheme, value); None where it does not say.

    Attributes:
        kind: the type of what is segmented.
        category: the category of that type.
        region: the part of the body it is in.
        sides: modifiers of the type and of the region.
    """

    kind: tuple[str, str] | None
    category: tuple[str, str] | None
    region: tuple[str, str] | None
    sides: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """One label of a map.

    Attributes:
        key: what its source calls it: a number, or a file.
        text: its name as written.
        coded: its name as DICOM codes; None in NIfTI.
    """

    key: int | str
    text: str
    coded: CodedName | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LabelMask:
    """One label's voxels, cut to a box around them.

    Attributes:
        mask: bool (z, y, x), axes nearest to LPS+, however the source stores them.
        geometry: of the box.
    """

    mask: NDArray[np.bool_]
    geometry: Geometry


class LabelMaps(Protocol):
    """Labels of one study, from whatever kind of file."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """All that are named, whether or not they have voxels."""
        ...

    @property
    def series_uids(self) -> frozenset[str]:
        """Series that the labels are said to be of; empty where nothing is said."""
        ...

    @property
    def frame_of_reference_uid(self) -> str | None:
        """The frame of reference that the labels lie in; None where nothing is said."""
        ...

    def mask(self, label: Label) -> LabelMask | None:
        """The voxels of a label; None where it has none."""
        ...


def cut_out(mask: NDArray[np.bool_], geometry: Geometry) -> LabelMask | None:
    """A mask stored in any order, cut to its voxels; None where there are none."""
    from scipy import ndimage  # here, as the readers' libraries are: most processes of a run read no labels

    upright = to_canonical(mask, geometry)
    boxes = ndimage.find_objects(np.ascontiguousarray(upright).view(np.uint8))
    if not boxes:
        return None
    return LabelMask(upright[boxes[0]], part_of(canonical_geometry(geometry), boxes[0]))


def part_of(geometry: Geometry, box: tuple[slice, ...]) -> Geometry:
    """The grid of a box of voxels."""
    start = np.array([s.start for s in box])
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world_xyz_mm(start)
    z, y, x = (s.stop - s.start for s in box)
    return Geometry((z, y, x), affine)


def names_of(table: bytes) -> dict[int, str]:
    """Names by label from JSON: {"1": "liver"}, alone or as its `labels`; none from any other."""
    try:
        found = json.loads(table)
        if isinstance(found, dict) and isinstance(found.get("labels"), dict):
            found = found["labels"]
        return checked_names(found)
    except (ValueError, RecursionError):
        return {}


def checked_names(table: Any) -> dict[int, str]:
    """Names by positive label; 0, the background, is left out. ValueError for anything else."""
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table.values()):
        raise ValueError("not a table of names")
    names = {int(key): str(name) for key, name in table.items()}
    if any(not 0 <= key <= 65535 for key in names):
        raise ValueError("not labels")
    return {key: name for key, name in names.items() if key > 0}
