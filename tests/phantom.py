"""A body with two lungs as a DICOM series: a folder and a number in, objects written, what is in them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SHAPE_ZYX = (12, 40, 48)
SPACING_XYZ_MM = (7.0, 6.0, 8.0)
BODY_HU, LUNG_HU, AIR_HU = 40, -850, -1000


@dataclass(frozen=True)
class Phantom:
    """UIDs and true voxel counts of a series that was written."""

    study_uid: str
    series_uid: str
    body_voxels: int
    lung_voxels: int


def phantom_hu(number: int) -> np.ndarray:
    """int16 (z, y, x): an elliptic body, closed at both ends; the lungs' size depends on the number."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE_ZYX], indexing="ij")
    hu = np.full(SHAPE_ZYX, AIR_HU, np.int16)
    hu[(x / 0.85) ** 2 + (y / 0.8) ** 2 < 1] = BODY_HU
    size = 0.25 + 0.01 * (number % 10)
    for side in (-0.4, 0.4):
        hu[((x - side) / size) ** 2 + (y / 0.5) ** 2 + (z / 0.8) ** 2 < 1] = LUNG_HU
    return hu


def write_phantom(folder: Path, number: int, *, missing_slice: bool = False) -> Phantom:
    """Write one object a slice; `missing_slice` leaves out the middle one, so that the series is refused."""
    hu = phantom_hu(number)
    study, series = f"1.2.826.0.1.3680043.10.1.{number}", f"1.2.826.0.1.3680043.10.1.{number}.1"
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(SHAPE_ZYX[0]):
        if missing_slice and k == SHAPE_ZYX[0] // 2:
            continue
        _slice(hu[k], k, study, series).save_as(folder / f"{k:03}.dcm", enforce_file_format=True)
    return Phantom(study, series, int((hu > -500).sum()), int((hu == LUNG_HU).sum()))


def _slice(hu: np.ndarray, k: int, study: str, series: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID = "Secret^Name", "SECRET-ID"
    image.InstanceNumber = k + 1
    image.Rows, image.Columns = hu.shape
    image.PixelSpacing = [SPACING_XYZ_MM[1], SPACING_XYZ_MM[0]]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [-160, -120, 8 * k]
    image.SliceThickness, image.KVP = SPACING_XYZ_MM[2], 120
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.PixelData = hu.astype("<i2").tobytes()
    return image
