"""CT objects as bytes for the tests of storage: identity and image size in, a small DICOM file out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_ROOT = "1.2.826.0.1.3680043.8.498"


def uid(*parts: int) -> str:
    """A valid UID of these numbers."""
    return ".".join([_ROOT, *map(str, parts)])


def ct_object(study: str | None, series: str | None, instance: int, **changes: Any) -> bytes:
    """A CT image of 12 x 16 voxels at z = 2.5 mm x instance; `changes` by keyword, None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid(9, instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    elements: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{series or uid(8)}.{instance}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "CANARY^NAME",
        "Manufacturer": "Builder",
        "KVP": "120",
        "SliceThickness": "2.5",
        "ImagePositionPatient": [-5.0, -6.0, 2.5 * instance],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.9, 0.7],
        "Rows": 12,
        "Columns": 16,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "PixelData": np.full((12, 16), instance, np.int16).tobytes(),
    } | changes
    dataset = Dataset()
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    FileDataset(buffer, dataset, file_meta=meta, preamble=b"\0" * 128).save_as(
        buffer, enforce_file_format=True
    )
    return buffer.getvalue()
