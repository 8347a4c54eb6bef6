"""Label maps of the test anatomy as files: organs in millimetres in; NIfTI in any order and DICOM segmentations out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code

from ctsam3d.imaging.geometry import Geometry
from tests.anatomy import ORGANS

LEFT, RIGHT = Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right")
ANATOMICAL = Code("123037004", "SCT", "Anatomical Structure")
# one segment each: label text, type, side
SEGMENTS: dict[str, tuple[str, Code, Code | None]] = {
    "heart": ("CANARY heart", Code("80891009", "SCT", "Heart"), None),
    "lung_left": ("a", Code("39607008", "SCT", "Lung"), LEFT),
    "lung_right": ("b", Code("T-28000", "SRT", "Lung"), RIGHT),  # the retired way of writing the same
    "liver": ("c", Code("10200004", "SCT", "Liver"), None),
    "spleen": ("Spleen", Code("X1", "99LOCAL", "of a scheme nobody knows"), None),
}


def organ(name: str, geometry: Geometry) -> NDArray[np.bool_]:
    """Voxels of an organ of the test anatomy, bool (z, y, x)."""
    _, centre, half = ORGANS[name]
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape_zyx), indexing="ij"), axis=-1)
    return ((((geometry.to_world_xyz_mm(index) - centre) / half) ** 2).sum(axis=-1)) < 1


def label_map(ids: Mapping[str, int], geometry: Geometry) -> NDArray[np.uint8]:
    """Organs as numbers, (z, y, x)."""
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for name, label in ids.items():
        labels[organ(name, geometry)] = label
    return labels


def write_nifti(
    path: Path,
    labels: NDArray[np.uint8],
    geometry: Geometry,
    *,
    order: tuple[int, ...] = (0, 1, 2),
    flips: tuple[int, ...] = (1, 1, 1),
    table: Mapping[int, str] | None = None,
    beside: Mapping[int, str] | None = None,
) -> Path:
    """Store a label map with its axes permuted and flipped, the affine saying so.

    `table` goes into the header as TotalSegmentator writes it, `beside` into a JSON file.
    """
    data, affine = labels.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    for axis, flip in enumerate(flips):
        if flip < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    image = nib.Nifti1Image(data.transpose(order), affine[:, [*order, 3]])
    if table is not None:
        rows = "".join(
            f'<Label Key="{k}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{v}]]></Label>\n'
            for k, v in table.items()
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <VolumeInformation Index="0">   <LabelTable>\n'
            f"{rows}\n  </LabelTable> <VolumeType><![CDATA[Label]]></VolumeType> </VolumeInformation></CaretExtension>"
            "\n              "
        )
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, text.encode()))
    nib.save(image, path)
    if beside is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(beside))
    return path


def write_seg(
    path: Path,
    objects: list[tuple[str, bytes]],
    masks: Mapping[str, NDArray[np.bool_]],
    kind: str = "BINARY",
    frame_of_reference_uid: str | None = None,
) -> Path:
    """A DICOM segmentation of a series, a segment per mask (z, y, x) in the order of its objects."""
    sources = [pydicom.dcmread(io.BytesIO(data)) for _, data in objects]
    for source in sources:
        source.FrameOfReferenceUID = frame_of_reference_uid or source.get("FrameOfReferenceUID", "1.2.3.9")
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
        ):
            if keyword not in source:
                setattr(source, keyword, "")
        for keyword in ("StudyID", "AccessionNumber", "ReferringPhysicianName"):
            if keyword not in source:
                setattr(source, keyword, "")
    descriptions = [
        hd.seg.SegmentDescription(n, SEGMENTS[name][0], ANATOMICAL, SEGMENTS[name][1], "MANUAL")
        for n, name in enumerate(masks, 1)
    ]
    array = np.stack([mask for mask in masks.values()], axis=-1)
    seg = hd.seg.Segmentation(
        sources,
        array.astype(np.float32) if kind == "FRACTIONAL" else array.astype(np.uint8),
        kind,
        descriptions,
        "1.2.3.77",
        1,
        "1.2.3.77.1",
        1,
        "maker",
        "model",
        "1",
        "serial",
    )
    for item, name in zip(seg.SegmentSequence, masks, strict=True):
        side = SEGMENTS[name][2]
        if side is not None:
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
                side.value,
                side.scheme_designator,
                "x",
            )
            item.SegmentedPropertyTypeCodeSequence[
                0
            ].SegmentedPropertyTypeModifierCodeSequence = DicomSequence([code])
    seg.save_as(path)
    return path
