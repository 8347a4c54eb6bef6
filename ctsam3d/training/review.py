"""Masks that somebody has looked at become labels: what `ctsam3d segment` found, and where it is right, in; a case out.

A list (TOML, like the bundled `review.toml`) names of each case the structures whose masks are right, and in which
slices. Elsewhere nothing is known: neither of the mask nor of what lies around it. What was drawn by people stays as it
is.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.evaluation.cases import read_names
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_labels, read_volume, write_labels
from ctsam3d.imaging.orientation import canonical_geometry, from_canonical, to_canonical
from ctsam3d.training.cases import UNKNOWN

BUNDLED = Path(__file__).with_name("review.toml")
_LEAST_PIECE = 0.15  # of the largest: smaller ones are doubtful
_LEAST_BONE = 0.02  # likewise, of structures of many bones
_MANY_BONES = {"ribs", "costal_cartilages", "vertebrae"}
_BEYOND_MM = 80.0  # how far above and below its slices a structure may go on unseen


@dataclass(frozen=True, slots=True)
class Right:
    """Where a mask is right.

    Attributes:
        first, last: slices of the image's own grid, counted from the feet; None for the image's ends.
        around_mm: in other slices the structure may be anywhere so far around its mask.
    """

    first: int | None = None
    last: int | None = None
    around_mm: float = 30.0


Review = Mapping[str, Right]


def read_reviews(path: Path = BUNDLED) -> dict[str, Review]:
    """Of each case its structures that are right.

    Raises:
        ValueError: not a list of this form; the message names what is wrong.
    """
    try:
        document = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as fault:
        raise ValueError(f"{path.name}: expected TOML: {fault}") from None
    known = {f.name for f in fields(Right)}
    for case, structures in document.items():
        for name, where in structures.items() if isinstance(structures, dict) else [("", None)]:
            if not isinstance(where, dict) or not where.keys() <= known or not _are_numbers(where.values()):
                raise ValueError(
                    f"{path.name}: [{case}] {name}: expected a table of {sorted(known)}, found {where!r}"
                )
    return {
        case: {name: Right(**where) for name, where in structures.items()}
        for case, structures in document.items()
    }


def _are_numbers(values: Iterable[object]) -> bool:
    return all(type(value) in (int, float) for value in values)


def write_case(data: Path, segmented: Path, case: str, review: Review, out: Path) -> None:
    """Write a case that `prepare` takes: image, drawn and reviewed labels.

    Args:
        data: holds SET/CASE/ct.nii.gz, with labels or without, or SET/CASE.nii.gz.
        segmented: holds CASE/labels.nii.gz and labels.json, as `ctsam3d segment` writes them.
        case: its name.
        review: what of it is right.
        out: the case's folder, made.

    Raises:
        ValueError: the case is nowhere, or was not found to hold a structure of the review.
    """
    image = next(iter(sorted([*data.glob(f"*/{case}/ct.nii.gz"), *data.glob(f"*/{case}.nii.gz")])), None)
    if image is None:
        raise ValueError(f"{case}: no image of this name in {data.name}")
    geometry = read_volume(image).geometry
    found_names = json.loads((segmented / case / "labels.json").read_text())
    found = to_canonical(read_labels(segmented / case / "labels.nii.gz")[0], geometry)
    masks = {name: found == int(label) for label, name in found_names.items()}
    if missing := sorted(review.keys() - masks.keys()):
        raise ValueError(f"{case}: no mask of {missing[0]}")
    drawn = np.zeros(found.shape, dtype=np.uint8)
    names: dict[int, str] = {}
    document: dict[str, Any] = {"source": case}
    if (image.parent / "labels.json").exists():
        document = json.loads((image.parent / "labels.json").read_text())
        drawn = to_canonical(read_labels(image.parent / "labels.nii.gz")[0], geometry).astype(np.uint8)
        names = dict(read_names(image.parent).names)
    labels, names = reviewed(drawn, names, masks, review, canonical_geometry(geometry))
    out.mkdir(parents=True)
    shutil.copyfile(image, out / "ct.nii.gz")
    write_labels(out / "labels.nii.gz", from_canonical(labels, geometry), geometry)
    annotated = sorted({*document.get("annotated", ()), *review})
    written = {**document, "labels": {str(k): v for k, v in names.items()}, "annotated": annotated}
    (out / "labels.json").write_text(json.dumps(written, indent=1) + "\n")


def reviewed(
    drawn: NDArray[np.uint8],
    names: Mapping[int, str],
    masks: Mapping[str, NDArray[np.bool_]],
    review: Review,
    geometry: Geometry,
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Drawn labels (z, y, x) with reviewed masks where nothing was drawn, and the names of all.

    Args:
        drawn: 0 where nothing was.
        names: of the drawn labels.
        masks: of each reviewed structure, on the same grid, axes along LPS+.
        review: where they are right.
        geometry: of the grid.
    """
    labels, named = drawn.copy(), dict(names)
    unknown = np.zeros(drawn.shape, dtype=bool)
    for name, right in review.items():
        mask, doubtful = _pieces(name, masks[name])
        unknown |= doubtful
        elsewhere = np.ones(len(mask), dtype=bool)
        elsewhere[right.first or 0 : None if right.last is None else right.last + 1] = False
        unknown |= _around(mask, elsewhere, right.around_mm, geometry)
        if name not in named.values():
            named[max(named, default=0) + 1] = name
            labels[(labels == 0) & mask & ~elsewhere[:, None, None]] = max(named)
    labels[(labels == 0) & unknown] = UNKNOWN
    return labels, named


def _pieces(name: str, mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pieces of a mask that are large enough to be believed, and the others."""
    pieces = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    least = _LEAST_BONE if name in _MANY_BONES else _LEAST_PIECE
    kept = np.isin(pieces, np.flatnonzero(sizes >= max(1, least * sizes.max())))
    return kept, mask & ~kept


def _around(
    mask: NDArray[np.bool_], elsewhere: NDArray[np.bool_], around_mm: float, geometry: Geometry
) -> NDArray[np.bool_]:
    """Where a structure may be in other slices than those in which its mask is right: so near to where it is in any."""
    found = np.zeros_like(mask)
    if not mask.any():
        return found
    x_mm, y_mm, z_mm = geometry.spacing_xyz_mm
    off_mm = ndimage.distance_transform_edt(~mask.any(axis=0), sampling=(y_mm, x_mm))
    slices, beyond = np.flatnonzero(mask.any(axis=(1, 2))), int(_BEYOND_MM / z_mm)
    reach = slice(max(0, slices[0] - beyond), slices[-1] + beyond + 1)
    found[reach] = elsewhere[reach, None, None] & (off_mm <= around_mm)
    return found
