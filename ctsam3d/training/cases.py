"""Read a labelled case folder into arrays on one grid: HU, label map, and what each label may mean.

A case is `ct.nii.gz` (absent for a label map alone), `labels.nii.gz` and `labels.json` with `labels` (id -> name) and
`annotated`. What is not annotated is unknown, not absent. Of voxels with the id 255 nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import BACKGROUND, CLASSES, LOCALIZED, UNKNOWN, classes_of
from ctsam3d.training import lossy

# TotalSegmentator label maps name everything they know; these it does not know and so they stay unknown there.
_NOT_IN_TOTALSEGMENTATOR = {"brainstem", "parotid_gland_left", "parotid_gland_right"}
# Vessels, single muscles and the cartilage of the ribs are one organ each for a phantom's whole trunk.
_NOT_IN_PHANTOMS = (
    "aorta", "inferior_vena_cava", "iliac", "portal_vein", "autochthon", "iliopsoas", "gluteus", "costal",
)  # fmt: skip
_SALIVARY = "salivary_glands_"  # and left or right
# A phantom's brain includes the stem, which ends so far above the lowest of it at most, and so far from its midline.
_HIGHEST_STEM_MM, _WIDEST_STEM_MM = 75.0, 30.0
# A case that names more structures than this was labelled whole: what it could name and did not is not there.
_NAMES_OF_A_WHOLE_BODY_LABELLING = 40
REVIEWED = "reviewed"  # of a case's labels.json: what was not drawn but looked at


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One training or validation case.

    Attributes:
        name: the folder's name.
        hu: int16 (z, y, x), or None for a label map alone. Axes run along LPS+.
        labels: uint8 (z, y, x); 0 is "no label".
        tissue: uint8 (z, y, x), finer ids to paint from (a voxel phantom's organs), or None.
        names: label id -> name.
        tissue_names: tissue id -> name, where there are tissues.
        known: localizer classes that an unlabelled voxel cannot be.
        spacing_mm: of the cubic grid.
        reviewed: names of labels that nobody drew: masks of a network that somebody found right.
    """

    name: str
    hu: NDArray[np.int16] | None
    labels: NDArray[np.uint8]
    tissue: NDArray[np.uint8] | None
    names: dict[int, str]
    tissue_names: dict[int, str]
    known: frozenset[str]
    spacing_mm: float
    reviewed: frozenset[str] = frozenset()

    def is_whole(self, least_known: int) -> bool:
        """Whether it names so many classes, and leaves no voxel unknown, that a body can be painted of it."""
        return len(self.known) >= least_known and not (self.labels == UNKNOWN).any()

    def classes(self, label: int) -> tuple[str, ...]:
        """Localizer classes that a voxel of a label may belong to, as far as its name says.

        A name that covers several leaves out what has a label of its own here: with a mandible beside it, a skull is
        nothing but skull.
        """
        name = self.names[label]
        classes = classes_of(name)
        if len(classes) == 1 or BACKGROUND in classes:
            return classes
        apart = {c for other in self.names.values() if len(only := classes_of(other)) == 1 for c in only}
        return tuple(c for c in classes if c == name or c not in apart & self.known)

    def allowed(self) -> NDArray[np.bool_]:
        """bool (256, classes): which localizer classes a voxel of each label id may belong to."""
        table = np.zeros((256, len(CLASSES)), dtype=bool)
        unknown = [i for i, c in enumerate(CLASSES) if c != BACKGROUND and c not in self.known]
        for label in (0, *self.names):
            classes = (BACKGROUND,) if label == 0 else self.classes(label)
            table[label, [CLASSES.index(c) for c in classes]] = True
            if BACKGROUND in classes:
                table[label, unknown] = True
        return table


def decided(allowed: NDArray[np.bool_], structure: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Label ids (256,) that are a localizer class, and those of which it is known whether they are.

    Args:
        allowed: of the case.
        structure: the class.
    """
    column, single = allowed[:, CLASSES.index(structure)], allowed.sum(axis=1) == 1
    return column & single, (single | ~column) & allowed.any(axis=1)


def known_classes(document: dict[str, object]) -> frozenset[str]:
    """Localizer classes that an unlabelled voxel of a case cannot be, from the case's labels.json.

    A merged class (vertebrae, ribs) is known only where all its parts are drawn; a label that covers more
    than one class (both lungs as one) makes all of them known to be absent elsewhere.
    """
    whole_body = set(LOCALIZED) - _NOT_IN_TOTALSEGMENTATOR
    names = document.get("annotated")
    if names is None:  # a TotalSegmentator label map: whatever is not labelled is not there
        return frozenset(whole_body)
    assert isinstance(names, list)
    known = {c for name in names for c in classes_of(str(name)) if c != BACKGROUND}
    if len(names) > _NAMES_OF_A_WHOLE_BODY_LABELLING:
        known |= whole_body
    elif not any(n == "vertebrae" or str(n).startswith("vertebrae_L") for n in names):
        known.discard("vertebrae")  # one vertebra of a crop is not the spine
    if _is_phantom(document):
        known -= {c for c in LOCALIZED if c.startswith(_NOT_IN_PHANTOMS)}
    return frozenset(known)


def _is_phantom(document: dict[str, object]) -> bool:
    return "ICRP" in str(document.get("source", ""))


def _names(document: dict[str, object]) -> dict[int, str]:
    labels = document["labels"]
    assert isinstance(labels, dict)
    renamed = {"small_bowel": "small_bowel_with_duodenum"} if _is_phantom(document) else {}
    return {int(k): renamed.get(v, str(v)) for k, v in labels.items()}


def read_case(folder: Path, spacing_mm: float) -> Case:
    """A case on a cubic LPS+ grid: image averaged then linear, labels nearest.

    Of the salivary glands of a side, which voxel phantoms name as one, the largest piece is the parotid gland. Without
    that a phantom says where none is and never where one is, and a network that is shown phantoms finds none. Of their
    brain, which includes the stem, what is too high or too far to the side for one is named apart.
    """
    import nibabel

    document = json.loads((folder / "labels.json").read_text())
    labels = _on_grid(nibabel.load(folder / "labels.nii.gz"), spacing_mm, order=0).astype(np.uint8)
    image = folder / "ct.nii.gz"
    hu = read_hu(image, spacing_mm) if image.exists() else None
    names = _parotids_named(labels, _names(document))
    if _is_phantom(document):
        names = _brain_named(labels, names, spacing_mm)
    organs = folder / "organs.nii.gz"
    tissue = _on_grid(nibabel.load(organs), spacing_mm, order=0).astype(np.uint8) if organs.exists() else None
    return Case(
        name=folder.name,
        hu=hu,
        labels=labels,
        tissue=tissue,
        names=names,
        tissue_names={int(k): str(v) for k, v in document.get("organs", {}).items()},
        known=known_classes(document),
        spacing_mm=spacing_mm,
        reviewed=frozenset(document.get(REVIEWED, ())),
    )


def _parotids_named(labels: NDArray[np.uint8], names: dict[int, str]) -> dict[int, str]:
    """Names with those of parotid glands, whose voxels get labels of their own."""
    named = dict(names)
    for label, name in names.items():
        side = name.removeprefix(_SALIVARY)
        if side != name and (labels == label).any():
            largest = cc3d.largest_k((labels == label).view(np.uint8), k=1, connectivity=26) > 0
            own = max(named) + 1
            labels[largest], named[own] = own, f"parotid_gland_{side}"
            named[label] = f"other_{name}"
    return named


def _brain_named(labels: NDArray[np.uint8], names: dict[int, str], spacing_mm: float) -> dict[int, str]:
    """Names with that of a brain where it cannot be brainstem, whose voxels get a label of their own."""
    label = next((label for label, name in names.items() if name == "brain"), None)
    voxels = np.argwhere(labels == label)
    if label is None or not len(voxels):
        return names
    z, _, x = voxels.T
    off_midline_mm = np.abs(x - np.median(x)) * spacing_mm
    beyond = ((z - z.min()) * spacing_mm > _HIGHEST_STEM_MM) | (off_midline_mm > _WIDEST_STEM_MM)
    own = max(names) + 1
    labels[tuple(voxels[beyond].T)] = own
    return names | {own: "brain_beyond_its_stem"}


def finest_spacing_mm(folder: Path) -> float:
    """Along the axis on which a case's voxels lie closest: a finer copy of it would hold nothing more."""
    import nibabel

    image = nibabel.load(folder / "labels.nii.gz")
    assert isinstance(image, nibabel.spatialimages.SpatialImage)
    return float(min(image.header.get_zooms()[:3]))


def read_hu(image: Path, spacing_mm: float) -> NDArray[np.int16]:
    """HU (z, y, x) of a NIfTI image on a cubic LPS+ grid."""
    import nibabel

    return _on_grid(nibabel.load(image), spacing_mm, order=1).round().astype(np.int16)


def _on_grid(image: object, spacing_mm: float, order: int) -> NDArray[np.float32]:
    """Voxels (z, y, x) along LPS+ at a cubic spacing, from a NIfTI image whose axes lie along the body's."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
    from scipy import ndimage

    assert isinstance(image, nibabel.spatialimages.SpatialImage)
    to_lps = ornt_transform(io_orientation(image.affine), axcodes2ornt(("L", "P", "S")))
    lps = image.as_reoriented(to_lps)
    voxels = np.asarray(lps.dataobj, dtype=np.float32).transpose(2, 1, 0)
    steps = np.array(lps.header.get_zooms()[:3], dtype=float)[::-1]
    ratio = spacing_mm / steps
    if order:
        voxels = np.maximum(voxels, -1024)
        for axis, r in enumerate(ratio):
            if (
                r > 1.5
            ):  # average over about the new voxel before sampling it; a box of even width would shift
                voxels = ndimage.gaussian_filter1d(voxels, 0.35 * r, axis=axis, mode="nearest")
    shape = np.maximum(np.ceil(np.array(voxels.shape) / ratio - 1e-6), 1).astype(int)
    offset = (ratio - 1) / 2  # the first new voxel's centre, so that both grids share their outer corner
    sampled: NDArray[np.float32] = ndimage.affine_transform(
        voxels, ratio, offset=offset, output_shape=tuple(shape), order=order, mode="nearest"
    )
    return sampled


def as_often(structure: str) -> float:
    """Every structure as often as any other."""
    return 1.0


def choose(rng: np.random.Generator, structures: Collection[str], often: Callable[[str], float]) -> str:
    """One structure at random, as often as its weight says."""
    names = sorted(structures)
    weights = np.array([often(name) for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def save_case(case: Case, path: Path, hu_error: float = 0) -> None:
    """Write a case compactly; `load_case` reads it back without any medical imaging library.

    Args:
        case: what to write.
        path: ends in .npz.
        hu_error: root mean square in HU that the stored image may be off by: 5 takes a fifth of the room of none.
    """
    header = {
        "name": case.name,
        "names": case.names,
        "tissue_names": case.tissue_names,
        "known": sorted(case.known),
        "spacing_mm": case.spacing_mm,
        REVIEWED: sorted(case.reviewed),
    }
    arrays: dict[str, NDArray[np.generic]] = {"labels": case.labels}
    if case.hu is not None and hu_error > 0:
        arrays["hu_slices"], arrays["hu_ends"] = lossy.encode(case.hu, hu_error)
    elif case.hu is not None:
        arrays["hu"] = case.hu
    if case.tissue is not None:
        arrays["tissue"] = case.tissue
    np.savez_compressed(path, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def load_case(path: Path) -> Case:
    """A case written by `save_case`."""
    with np.load(path, allow_pickle=False) as stored:
        header = json.loads(str(stored["header"]))
        hu = stored["hu"] if "hu" in stored else None
        if "hu_slices" in stored:
            hu = lossy.decode(stored["hu_slices"], stored["hu_ends"])
        return Case(
            name=header["name"],
            hu=hu,
            labels=stored["labels"],
            tissue=stored["tissue"] if "tissue" in stored else None,
            names={int(k): v for k, v in header["names"].items()},
            tissue_names={int(k): v for k, v in header["tissue_names"].items()},
            known=frozenset(header["known"]),
            spacing_mm=header["spacing_mm"],
            reviewed=frozenset(header.get(REVIEWED, ())),  # none in caches of before there were any
        )


def load_cases(folder: Path, wanted: Callable[[str], bool]) -> list[Case]:
    """The cached cases of a folder whose name is wanted, in the order of their names."""
    paths = [path for path in sorted(folder.glob("*.npz")) if wanted(path.stem)]
    with ThreadPoolExecutor() as pool:  # decompressing frees the interpreter for others
        return list(pool.map(load_case, paths))
