"""Knobs in, DICOM CT series as bytes out: a phantom with body, lungs and a ball, and any fault asked for."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from tests.jpeg_lossless import encode_jpeg_lossless

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "rle": RLELossless,
    "jpeg_lossless": JPEGLosslessSV1,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}
# Every tag that names a person, a place or a time holds one of these; none may come out of anything.
_TEXT_TAGS = """
AccessionNumber InstitutionName InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber
ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PerformingPhysicianName
PhysiciansOfRecord NameOfPhysiciansReadingStudy OperatorsName RequestingPhysician RequestingService
StudyDescription SeriesDescription ProtocolName PatientName PatientID IssuerOfPatientID OtherPatientIDs
OtherPatientNames PatientBirthName PatientMotherBirthName PatientAddress PatientTelephoneNumbers Occupation
MilitaryRank EthnicGroup RegionOfResidence CountryOfResidence MedicalAlerts Allergies AdditionalPatientHistory
PatientReligiousPreference PatientComments ResponsiblePerson ResponsibleOrganization StudyID ImageComments
AdmittingDiagnosesDescription RequestedProcedureDescription PerformedProcedureStepDescription
PerformedProcedureStepID DerivationDescription FrameComments CurrentPatientLocation AdmissionID ReasonForStudy
StudyComments ContrastBolusAgent
""".split()
_DATE_TAGS = """
PatientBirthDate SeriesDate AcquisitionDate ContentDate PerformedProcedureStepStartDate
""".split()
CANARIES = {tag: f"CANARY{i:02}{tag[:7].upper()}" for i, tag in enumerate(_TEXT_TAGS)} | {
    tag: f"1901{month:02}17" for month, tag in enumerate(_DATE_TAGS, 1)
}
# These lie where a header nests: in a sequence, in private elements, and in a value no reader knows what to do with.
NESTED_CANARIES = ("CANARYNESTEDNAME", "CANARYNESTEDSTEP", "CANARYPRIVATE", "CANARYUNKNOWN")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_AIR, _TISSUE, _LUNG, _BALL = -1000, 40, -850, 300


@dataclass(frozen=True)
class Knobs:
    """A series. The default is 12 slices of 40 rows and 48 columns, anisotropic in every direction.

    Attributes:
        n: slices before dropping.
        shape: (rows, columns).
        spacing_xyz_mm: between columns, between rows, between slices.
        origin_xyz_mm: first voxel of slice 0.
        orientation: as in DICOM.
        tilt_deg: each slice shifted along its columns, as by a tilted gantry.
        along_mm: places of the slices along the normal, where they are not multiples of the spacing.
        drop: indices of slices left out.
        shuffle: seed of the order and of InstanceNumber; None leaves both.
        syntax: one of SYNTAXES.
        multi_frame: one enhanced object, frames in shuffled order if `shuffle` is set.
        slope, intercept, bits_stored, bits_allocated, signed: how HU are stored.
        padding_value: stored outside a circle, and declared; padding_declared=False only stores it.
        localizer: adds a sagittal scout to the same series.
        image_hu: voxels (n, rows, columns) instead of the phantom's; or a function that gives the HU at places
            (..., 3) in LPS+ mm, so that the same body lies in the same place however the series is stored.
        edit: called with each data set and its slice index just before it is written.
        seed: of noise and UIDs; the same knobs give the same bytes.
    """

    n: int = 12
    shape: tuple[int, int] = (40, 48)
    spacing_xyz_mm: tuple[float, float, float] = (0.7, 0.9, 2.5)
    origin_xyz_mm: tuple[float, float, float] = (-20.5, -31.25, 100.0)
    orientation: tuple[float, ...] = AXIAL
    tilt_deg: float = 0.0
    along_mm: tuple[float, ...] | None = None
    drop: tuple[int, ...] = ()
    shuffle: int | None = None
    syntax: str = "explicit"
    multi_frame: bool = False
    slope: float = 1.0
    intercept: float = -1024.0
    bits_stored: int = 12
    bits_allocated: int = 16
    signed: bool = False
    padding_value: int | None = None
    padding_declared: bool = True
    localizer: bool = False
    image_hu: NDArray[Any] | Callable[[NDArray[np.float64]], NDArray[Any]] | None = None
    edit: Callable[[Dataset, int], None] | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    seed: int = 0

    @property
    def axes(self) -> NDArray[np.float64]:
        """Direction cosines, columns: along columns (x), rows (y), slices (z)."""
        x, y = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.stack([x, y, np.cross(x, y)], axis=1)

    @property
    def affine(self) -> NDArray[np.float64]:
        """What a reader should find, LPS+ mm, if nothing is tilted or dropped."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes * self.spacing_xyz_mm
        affine[:3, 3] = self.origin_xyz_mm
        return affine

    def position(self, k: int) -> list[float]:
        """First voxel of slice k, as rounded as scanners write it."""
        shift = math.tan(math.radians(self.tilt_deg)) * self.axes[:, 1]
        along = k * self.spacing_xyz_mm[2] if self.along_mm is None else self.along_mm[k]
        place = self.origin_xyz_mm + along * (self.axes[:, 2] + shift)
        return [round(float(v), 6) for v in place]


def ct_series(**knobs: Any) -> list[tuple[str, bytes]]:
    """(name, bytes) of the objects of one series; keywords as in `Knobs`."""
    k = Knobs(**knobs)
    indices = [i for i in range(k.n) if i not in k.drop]
    numbers = list(indices)
    if k.shuffle is not None:
        rng = np.random.default_rng(k.shuffle)
        rng.shuffle(indices)
        numbers = [int(v) for v in rng.permutation(indices)]
    stored = _stored(k, hu_of(k))
    if k.multi_frame:
        objects = [("enhanced.dcm", _multi_frame(k, stored, indices))]
    else:
        objects = [
            (f"slice{i:04d}.dcm", _single_frame(k, stored[i], i, number))
            for i, number in zip(indices, numbers, strict=True)
        ]
    if k.localizer:
        objects.insert(len(objects) // 2, ("scout.dcm", _localizer(k)))
    return objects


def hu_of(k: Knobs) -> NDArray[np.int16]:
    """The HU (n, rows, columns) the series holds before anything is dropped or padded."""
    if callable(k.image_hu):
        return np.asarray(k.image_hu(places_xyz_mm(k)))
    if k.image_hu is not None:
        return np.asarray(k.image_hu)
    return phantom_hu((k.n, *k.shape), k.seed)


def places_xyz_mm(k: Knobs) -> NDArray[np.float64]:
    """The true place of every voxel (n, rows, columns, 3), LPS+ mm."""
    row_step, column_step = k.axes[:, 1] * k.spacing_xyz_mm[1], k.axes[:, 0] * k.spacing_xyz_mm[0]
    firsts = np.array([k.position(i) for i in range(k.n)])[:, None, None, :]
    rows, columns = (np.arange(n, dtype=np.float64) for n in k.shape)
    return firsts + rows[None, :, None, None] * row_step + columns[None, None, :, None] * column_step


def phantom_hu(shape_zyx: tuple[int, int, int], seed: int = 0) -> NDArray[np.int16]:
    """A body (ellipse, 40 HU) in air with two lungs of different size and a ball of 300 HU, noise of 5 HU."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape_zyx], indexing="ij")
    hu = np.full(shape_zyx, float(_AIR))
    hu[(x / 0.85) ** 2 + (y / 0.75) ** 2 < 1] = _TISSUE
    hu[((x - 0.4) / 0.28) ** 2 + ((y + 0.1) / 0.45) ** 2 + (z / 0.9) ** 2 < 1] = _LUNG
    hu[((x + 0.4) / 0.24) ** 2 + ((y + 0.1) / 0.4) ** 2 + (z / 0.8) ** 2 < 1] = _LUNG
    hu[((x - 0.1) / 0.12) ** 2 + ((y - 0.5) / 0.12) ** 2 + (z / 0.5) ** 2 < 1] = _BALL
    noise = np.random.default_rng(seed).normal(0, 5, shape_zyx)
    return np.rint(hu + noise).astype(np.int16)


def outside_circle(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a slice is padding (rows, columns): outside the ellipse inscribed in it."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return (x**2 + y**2) > 1.0


def _stored(k: Knobs, hu: NDArray[Any]) -> NDArray[Any]:
    stored = np.rint((hu - k.intercept) / k.slope).astype(np.int64)
    if k.padding_value is not None:
        stored[:, outside_circle(k.shape)] = k.padding_value
    kind = f"{'i' if k.signed else 'u'}{k.bits_allocated // 8}"
    return stored.astype(np.dtype(kind))


def _common(k: Knobs, sop_uid: str, sop_class: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = sop_uid
    for keyword, value in CANARIES.items():
        setattr(ds, keyword, value)
    _nest_canaries(ds)
    ds.StudyInstanceUID = k.study_uid or _uid(k, "study")
    ds.SeriesInstanceUID = k.series_uid or _uid(k, "series")
    ds.Modality, ds.Manufacturer, ds.ConvolutionKernel = "CT", "Builder", "B30f"
    ds.SliceThickness, ds.KVP = "5", "120"
    ds.AcquisitionNumber = "3"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = k.shape
    ds.PixelRepresentation = int(k.signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = k.bits_allocated, k.bits_stored, k.bits_stored - 1
    if k.padding_value is not None and k.padding_declared:
        ds.add_new(0x00280120, "SS" if k.signed else "US", k.padding_value)
    return ds


def _nest_canaries(ds: Dataset) -> None:
    name, step, private, unknown = NESTED_CANARIES
    patient, request = Dataset(), Dataset()
    patient.PatientID = patient.IssuerOfPatientID = name
    request.ScheduledProcedureStepDescription, request.RequestedProcedureID = step, "17"
    ds.OtherPatientIDsSequence, ds.RequestAttributesSequence = [patient], [request]
    block = ds.private_block(0x0009, "CANARYCREATOR", create=True)
    block.add_new(0x01, "LT", private)
    block.add_new(0x02, "UN", unknown.encode())


def _uid(k: Knobs, name: str) -> str:
    return str(generate_uid(entropy_srcs=[f"{name} {k.seed}"]))


def _single_frame(k: Knobs, stored: NDArray[Any], i: int, number: int) -> bytes:
    ds = _common(k, _uid(k, f"instance {i}"), CTImageStorage)
    ds.InstanceNumber = number + 1
    ds.ImagePositionPatient = k.position(i)
    ds.ImageOrientationPatient = list(k.orientation)
    ds.PixelSpacing = [k.spacing_xyz_mm[1], k.spacing_xyz_mm[0]]
    ds.RescaleSlope, ds.RescaleIntercept = k.slope, k.intercept
    return write(k, ds, stored, i)


def _multi_frame(k: Knobs, stored: NDArray[Any], indices: Sequence[int]) -> bytes:
    ds = _common(k, _uid(k, "enhanced"), EnhancedCTImageStorage)
    ds.NumberOfFrames = len(indices)
    measures, plane, rescale, kind, shared = (Dataset() for _ in range(5))
    measures.PixelSpacing = [k.spacing_xyz_mm[1], k.spacing_xyz_mm[0]]
    plane.ImageOrientationPatient = list(k.orientation)
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = k.slope, k.intercept, "HU"
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence, shared.CTImageFrameTypeSequence = [rescale], [kind]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for i in indices:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = k.position(i)
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    return write(k, ds, stored[list(indices)], 0)


def _localizer(k: Knobs) -> bytes:
    """A sagittal scout whose header says LOCALIZER."""
    scout = replace(k, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0), padding_value=None, edit=None)
    ds = _common(scout, _uid(k, "scout"), CTImageStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, -100.0, 300.0], list(scout.orientation)
    ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [1.0, 1.0], k.slope, k.intercept
    return write(scout, ds, _stored(scout, np.full((1, *k.shape), _TISSUE))[0], -1)


def write(k: Knobs, ds: Dataset, stored: NDArray[Any], i: int) -> bytes:
    """The data set with these pixels, (rows, columns) or (frames, rows, columns), in the syntax asked for."""
    syntax = SYNTAXES[k.syntax]
    little = stored.astype(stored.dtype.newbyteorder(">" if k.syntax == "big_endian" else "<"))
    ds.PixelData = little.tobytes()
    ds["PixelData"].VR = "OW"
    if k.syntax == "jpeg_lossless":
        frames = stored.reshape(-1, *k.shape)
        ds.PixelData = encapsulate([encode_jpeg_lossless(frame) for frame in frames])
        ds["PixelData"].VR = "OB"
    elif syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    if k.edit is not None:
        k.edit(ds, i)
    buffer = io.BytesIO()
    implicit, order = syntax.is_implicit_VR, syntax.is_little_endian
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=order, enforce_file_format=True)
    return buffer.getvalue()
