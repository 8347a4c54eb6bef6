"""Prompt with a label map that somebody else made of the study: labels with names in, a coarse mask per structure out.

1. Labels are brought to names of the catalogue: by SNOMED CT code where DICOM has one, else by name or alias.
2. A structure is what its own label says, and the parts of it that nobody asked for by their own name:
   TotalSegmentator's lobes make lungs, its vertebrae `vertebrae`, its chambers a heart.
3. Each label's voxels are laid over the model grid by the file's geometry; of every 6 mm block the share that they fill
   is kept. The blocks of the largest share, as many as have the structure's volume, are the coarse mask: of a compact
   organ those that it about half fills, of a vessel thinner than a block those that it runs through.
4. What cannot be of this volume is refused: labels beside the image, in the air around the body, or left and right of
   each other the wrong way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.catalogue import CATALOGUE, Laterality, Structure, coded, named, simplified
from ctsam3d.anatomy.localized import BACKGROUND, classes_of
from ctsam3d.imaging.dicom_seg import DicomSegmentation, is_dicom, snomed_code
from ctsam3d.imaging.label_maps import CodedName, Label, LabelMaps, LabelMask
from ctsam3d.imaging.nifti_labels import SUFFIXES, NiftiFolder, NiftiLabelMap
from ctsam3d.imaging.resample import mask_to_box
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Rejected
from ctsam3d.prompting.coarse import coarsen
from ctsam3d.prompting.plausibility import body_mask
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure, Prompt, PromptError, PromptKind

# Whole organs that are had from their parts, where all of these are named.
_WHOLES = {
    "lung_left": {"lung_upper_lobe_left", "lung_lower_lobe_left"},
    "lung_right": {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"},
    "heart": {
        "heart_myocardium",
        "heart_atrium_left",
        "heart_atrium_right",
        "heart_ventricle_left",
        "heart_ventricle_right",
    },
}
_COLLECTIONS = {"vertebrae", "ribs"}  # as many as there are
_LEAST_IN_BODY = 0.5  # of what is labelled, or the label map is of something else
_SURE = 0.51  # probability in the mask at least, so that it is above one half
_THINNEST = 0.02  # share of a block from which on it can be in a mask
_LEFT = {"7771000"}
_RIGHT = {"24028007"}
_ANATOMICAL = {"123037004", "91723000", "91832008", "85756007"}  # categories: structure, organ, tissue
_UNSPECIFIC = _ANATOMICAL | {"113343008"}  # types that leave it to the region to say what is meant
_ALL_CODES = frozenset(
    code for s in CATALOGUE.values() for code in (s.snomed_code, s.snomed_region, *s.also_coded) if code
)


class MaskPrompter:
    """A label map of one study.

    Attributes:
        labelled: names of the catalogue that the labels themselves have, in its order.
        structures: these, and the wholes that they are parts of.
        unknown: how many labels are of no structure in the catalogue.
    """

    kind = PromptKind.MASK

    def __init__(self, maps: LabelMaps) -> None:
        """Raises PromptError where no label is of the catalogue."""
        self._maps = maps
        found = [(label, structure_of(label)) for label in maps.labels]
        self.unknown = sum(structure is None for _, structure in found)
        self._own: dict[str, list[Label]] = {}
        self._parts: dict[str, list[tuple[str, Label]]] = {}
        for label, structure in found:
            name = structure.name if structure else simplified(label.text)
            if structure is not None:
                self._own.setdefault(name, []).append(label)
            classes = classes_of(name)
            if len(classes) == 1 and classes[0] not in (name, BACKGROUND):
                self._parts.setdefault(classes[0], []).append((name, label))
        self.labelled = tuple(name for name in CATALOGUE if name in self._own)
        self.structures = tuple(
            name for name in CATALOGUE if name in self._own or self._is_made_of_parts(name)
        )
        if not self.structures:
            raise PromptError(
                f"none of the {len(found)} labels is of a structure in the catalogue (`ctsam3d structures` lists them)"
            )

    def check_study(self, series_uid: str | None, frame_of_reference_uid: str | None) -> None:
        """Compare what labels and image say they belong to, as far as both say it.

        Raises:
            PromptError: another frame of reference, or another series where none is stated.
        """
        frame = self._maps.frame_of_reference_uid
        if frame and frame_of_reference_uid:
            if frame != frame_of_reference_uid:
                raise PromptError("the labels lie in another frame of reference than the image")
        elif self._maps.series_uids and series_uid and series_uid not in self._maps.series_uids:
            raise PromptError("the labels were made of another series than the image")

    def prompts(self, grid: Volume, structures: Sequence[str]) -> dict[str, Prompt]:
        """A coarse mask for each structure with voxels in the volume.

        Raises:
            PromptError: a structure asked for beside all of its parts, labels that cannot be of this volume, or a
                file that cannot be read.
        """
        asked = {name: self._labels(name, structures) for name in structures}
        shares: dict[str, NDArray[np.float32]] = {}
        labelled = 0
        for name, labels in asked.items():
            masks = [mask for label in labels if (mask := self._mask(label)) is not None]
            labelled += sum(int(mask.mask.sum()) for mask in masks)
            share = _share(masks, grid)
            if share.any():
                shares[name] = share
        if labelled:
            _check_place(shares, grid)
            _check_sides(shares)
        return {name: Prompt(_coarse(share)) for name, share in shares.items()}

    def _is_made_of_parts(self, name: str) -> bool:
        parts = {part for part, _ in self._parts.get(name, ())}
        return bool(parts) and (name in _COLLECTIONS or _WHOLES.get(name, {""}) <= parts)

    def _labels(self, name: str, structures: Sequence[str]) -> list[Label]:
        """Labels that make a structure up, less those that are asked for by their own name."""
        if name not in self.structures:
            return []
        own, parts = self._own.get(name, []), self._parts.get(name, [])
        free = [label for part, label in parts if part not in structures]
        if not own and not free:
            made_of = ", ".join(sorted({part for part, _ in parts}))
            raise PromptError(
                f"{name} is made of {made_of}: each voxel can be of one structure only, ask for the whole or its parts"
            )
        return [*own, *free]

    def _mask(self, label: Label) -> LabelMask | None:
        try:
            return self._maps.mask(label)
        except Rejected as refusal:
            raise PromptError(str(refusal)) from None


def read_mask(path: Path) -> MaskPrompter:
    """The labels of a NIfTI file with names, a folder of binary NIfTI files, or a DICOM segmentation object.

    A folder without NIfTI files may hold one segmentation object.

    Raises:
        PromptError: something else, damaged, or without a name that the catalogue knows.
        OSError: it cannot be opened.
    """
    try:
        return MaskPrompter(_maps(path))
    except Rejected as refusal:
        raise PromptError(str(refusal)) from None


def _maps(path: Path) -> LabelMaps:
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()]
        if len(files) == 1 and is_dicom(files[0]):
            return DicomSegmentation(files[0])
        return NiftiFolder(path)
    if is_dicom(path):
        return DicomSegmentation(path)
    if not path.name.endswith(SUFFIXES):
        raise PromptError("expected a .nii or .nii.gz file, a folder of them, or a DICOM segmentation")
    return NiftiLabelMap(path)


def structure_of(label: Label) -> Structure | None:
    """The structure of the catalogue that a label is of, by its codes or else by its name."""
    if label.coded is None:
        return named(label.text)
    return _structure_of_code(label.coded) or (named(label.text) if _is_anatomical(label.coded) else None)


def _structure_of_code(name: CodedName) -> Structure | None:
    sides = {snomed_code(side, _LEFT | _RIGHT) for side in name.sides} - {None}
    if len(sides) > 1:
        return None
    side = None if not sides else Laterality.LEFT if sides <= _LEFT else Laterality.RIGHT
    kind = snomed_code(name.kind, _ALL_CODES | _UNSPECIFIC)
    region = snomed_code(name.region, _ALL_CODES)
    if kind in _UNSPECIFIC:
        kind, region = region, None
    return coded([kind], side, region) if kind else None


def _is_anatomical(name: CodedName) -> bool:
    """Whether what is segmented is a part of the body, and not something that has grown in one."""
    return name.category is None or snomed_code(name.category, _ANATOMICAL) is not None


def _share(masks: Sequence[LabelMask], grid: Volume) -> NDArray[np.float32]:
    """Share of each block of the grid that masks fill together, float32 (z, y, x)."""
    blocks = tuple(-(-n // COARSE_FACTOR) for n in grid.hu.shape)
    share = np.zeros(blocks, dtype=np.float32)
    for mask in masks:
        box, there = mask_to_box(mask.mask, mask.geometry, grid.geometry, COARSE_FACTOR)
        if not there.size:
            continue
        z, y, x = (n // COARSE_FACTOR for n in there.shape)
        filled = there.reshape(z, COARSE_FACTOR, y, COARSE_FACTOR, x, COARSE_FACTOR).mean(axis=(1, 3, 5))
        # labels of one map never overlap; masks from several files may
        of_blocks = tuple(slice(s.start // COARSE_FACTOR, s.stop // COARSE_FACTOR) for s in box)
        share[of_blocks] = np.minimum(share[of_blocks] + filled, 1)
    return share


def _coarse(share: NDArray[np.float32]) -> CoarseStructure:
    """The mask of as many blocks as have the structure's volume, and a probability that is one half at its edge."""
    wanted = max(1, round(float(share.sum(dtype=np.float64))))
    ranked = np.partition(share.ravel(), -wanted)
    least = max(float(ranked[-wanted]), min(_THINNEST, float(share.max())))
    mask = share >= least
    inside = _SURE + (1 - _SURE) * (share - least) / max(1 - least, 1e-6)
    outside = (1 - _SURE) * share / least
    probability = np.where(mask, inside, outside).astype(np.float32)
    return CoarseStructure(mask, probability, float(probability[mask].mean()))


def _check_place(shares: Mapping[str, NDArray[np.float32]], grid: Volume) -> None:
    """That what is labelled lies in the image, and in the body there."""
    low, high = np.sort(
        grid.geometry.to_world_xyz_mm(np.array([(-0.5,) * 3, np.array(grid.hu.shape) - 0.5])), axis=0
    )
    extent = ", ".join(f"{axis} {a:.0f} to {b:.0f}" for axis, a, b in zip("xyz", low, high, strict=True))
    if not shares:
        raise PromptError(
            f"no label asked for lies in the image, which spans {extent} mm: expected the same patient"
        )
    body = body_mask(coarsen(grid.hu, COARSE_FACTOR).numpy())
    total = sum(float(share.sum(dtype=np.float64)) for share in shares.values())
    inside = sum(float(share[body].sum(dtype=np.float64)) for share in shares.values())
    if inside < _LEAST_IN_BODY * total:
        raise PromptError(
            f"{inside / total:.0%} of what is labelled lies in the body that the image shows, expected at least "
            f"{_LEAST_IN_BODY:.0%}: the labels are of another image or in another frame of reference"
        )


def _check_sides(shares: Mapping[str, NDArray[np.float32]]) -> None:
    """That left structures lie left of their right twins; in LPS+ x grows to the left."""
    wrong = pairs = 0
    for name in shares:
        structure = CATALOGUE[name]
        twin = "_".join({"left": "right"}.get(word, word) for word in name.split("_"))
        if structure.laterality is Laterality.LEFT and twin in shares:
            pairs += 1
            wrong += _middle_x(shares[name]) <= _middle_x(shares[twin])
    if pairs and wrong == pairs:
        raise PromptError(
            f"left and right are exchanged in all {pairs} pairs of structures: the labels are mirrored"
        )


def _middle_x(share: NDArray[np.float32]) -> float:
    along = share.sum(axis=(0, 1), dtype=np.float64)
    return float(along @ np.arange(along.size) / along.sum())
