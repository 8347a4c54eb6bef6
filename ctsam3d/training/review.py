"""Masks that somebody has looked at become labels: what `ctsam3d segment` found, and where it is right, in; a case out.

A list (TOML, like the bundled `review.toml`) names of each case the structures whose masks are right, and in which
slices. Elsewhere nothing is known: neither of the mask nor of what lies around it. What was drawn by people stays as it
is.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.anatomy.localized import UNKNOWN
from ctsam3d.evaluation.cases import read_names
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_labels, read_volume, write_labels
from ctsam3d.imaging.orientation import canonical_geometry, from_canonical, to_canonical
from ctsam3d.segmentation.bones import THIN
from ctsam3d.training.bones import as_dense, dense, doubtful
from ctsam3d.training.cases import REVIEWED
from ctsam3d.training.heads import BRAIN, SKULL, vault

BUNDLED = Path(__file__).with_name("review.toml")
_HEAD = (BRAIN, SKULL)
_LEAST_PIECE = 0.15  # of the largest: smaller ones are doubtful
_LEAST_BONE = 0.02  # likewise, of structures of many bones
_MANY_BONES = {"ribs", "costal_cartilages", "vertebrae"}
_BESIDE_RIBS_MM = 60.0
_BEYOND_MM = 80.0  # how far above and below its slices a structure may go on unseen


@dataclass(frozen=True, slots=True)
class Right:
    """Where a mask is right.

    Attributes:
        first, last: slices of the image's own grid, counted from the feet; None for the image's ends.
        around_mm: in other slices the structure may be anywhere so far around its mask.
        dense: it is a bone, and right is what the image shows of it where the mask says it is (`bones.as_dense`), or
            brain or skull, for which no mask is needed (`heads.vault`).
        soft_hu: what of a dense bone's mask is neither dense nor enclosed is no bone where it is softer, and unknown
            where it is not: fat is never marrow, discs are softer than it where somebody has seen that they are.
    """

    first: int | None = None
    last: int | None = None
    around_mm: float = 30.0
    dense: bool = False
    soft_hu: float = 20.0


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
            if not isinstance(where, dict) or not where.keys() <= known or not _are_of_their_types(where):
                raise ValueError(
                    f"{path.name}: [{case}] {name}: expected a table of {sorted(known)}, found {where!r}"
                )
    return {
        case: {name: Right(**where) for name, where in structures.items()}
        for case, structures in document.items()
    }


def _are_of_their_types(where: Mapping[str, object]) -> bool:
    return all(type(value) in ((bool,) if key == "dense" else (int, float)) for key, value in where.items())


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
    volume = read_volume(image)
    geometry = volume.geometry
    found_names = json.loads((segmented / case / "labels.json").read_text())
    found = to_canonical(read_labels(segmented / case / "labels.nii.gz")[0], geometry)
    masks = {name: found == int(label) for label, name in found_names.items()}
    if missing := sorted(review.keys() - masks.keys() - _by_density(review)):
        raise ValueError(f"{case}: no mask of {missing[0]}")
    drawn, names, document = _drawn(image.parent, review) or (
        np.zeros_like(found, np.uint8),
        {},
        {"source": case},
    )
    masks |= {name: drawn == label for label, name in names.items()}
    grid = canonical_geometry(geometry)
    doubtful = _mend(to_canonical(volume.hu, geometry), masks, review, grid)
    before = set(names.values())
    labels, names = reviewed(drawn, names, masks, review, grid, doubtful)
    out.mkdir(parents=True)
    shutil.copyfile(image, out / "ct.nii.gz")
    write_labels(out / "labels.nii.gz", from_canonical(labels, geometry), geometry)
    annotated = sorted({*document.get("annotated", ()), *review})
    looked_at = sorted({*document.get(REVIEWED, ()), *(review.keys() - before)})
    written = {
        **document,
        "labels": {str(k): v for k, v in names.items()},
        "annotated": annotated,
        REVIEWED: looked_at,
    }
    (out / "labels.json").write_text(json.dumps(written, indent=1) + "\n")


def _drawn(folder: Path, review: Review) -> tuple[NDArray[np.uint8], dict[int, str], dict[str, Any]] | None:
    """Labels of a case, their names and all that is said of it; without what is reviewed again. None without labels."""
    if not (folder / "labels.json").exists():
        return None
    document = json.loads((folder / "labels.json").read_text())
    labels, geometry = read_labels(folder / "labels.nii.gz")
    again = review.keys() & set(document.get(REVIEWED, ()))
    names = {label: name for label, name in read_names(folder).names.items() if name not in again}
    labels = to_canonical(labels, geometry).astype(np.uint8)
    labels[~np.isin(labels, [*names, UNKNOWN])] = 0
    return labels, names, document


def _by_density(review: Review) -> set[str]:
    """What needs no mask."""
    return {name for name in _HEAD if name in review and review[name].dense}


def _mend(
    hu: NDArray[np.int16], masks: dict[str, NDArray[np.bool_]], review: Review, geometry: Geometry
) -> NDArray[np.bool_]:
    """Replace the masks that are right as dense as they are. Returns what else is dense and may be more of them."""
    spacing_mm = np.array(geometry.spacing_xyz_mm[::-1])
    unknown = np.zeros(hu.shape, dtype=bool)
    wanted = {name for name, right in review.items() if right.dense}
    heads = _by_density(review)
    if heads:
        found = dict(zip(_HEAD, vault(hu, spacing_mm), strict=True))
        masks |= {name: found[name] for name in heads}
        unknown |= dense(hu, spacing_mm)
    # shoulder blades end where ribs begin
    for name in sorted(wanted - heads, key=lambda name: name != "ribs"):
        mask, bone = masks[name], as_dense(name, hu, masks, spacing_mm)
        masks[name] = bone
        if name not in THIN:
            unknown |= doubtful(mask, bone, hu, spacing_mm, review[name].soft_hu)
    if "ribs" in wanted and masks["ribs"].any():
        off_mm = ndimage.distance_transform_edt(~masks["ribs"], sampling=spacing_mm)
        unknown |= dense(hu, spacing_mm) & (off_mm < _BESIDE_RIBS_MM)
    return unknown


def reviewed(
    drawn: NDArray[np.uint8],
    names: Mapping[int, str],
    masks: Mapping[str, NDArray[np.bool_]],
    review: Review,
    geometry: Geometry,
    doubtful: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Drawn labels (z, y, x) with reviewed masks where nothing was drawn or known, and the names of all.

    Args:
        drawn: 0 where nothing was.
        names: of the drawn labels.
        masks: of each reviewed structure, on the same grid, axes along LPS+.
        review: where they are right.
        geometry: of the grid.
        doubtful: of what is no label there nothing is known.
    """
    labels, named = drawn.copy(), dict(names)
    unknown = np.zeros(drawn.shape, dtype=bool) if doubtful is None else doubtful.copy()
    for name, right in review.items():
        mask, crumbs = _pieces(name, masks[name])
        unknown |= crumbs
        elsewhere = np.ones(len(mask), dtype=bool)
        elsewhere[right.first or 0 : None if right.last is None else right.last + 1] = False
        unknown |= _around(mask, elsewhere, right.around_mm, geometry)
        if name not in named.values():
            named[max(named, default=0) + 1] = name
            unnamed = (labels == 0) | (labels == UNKNOWN)
            labels[unnamed & mask & ~elsewhere[:, None, None]] = max(named)
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
