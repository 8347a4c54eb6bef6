"""NIfTI files to volumes and label maps on LPS+ grids, and label maps to files without any text."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, Literal, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.hounsfield import hu_from_values
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Reason, Rejected

MAX_VOXELS = 2**31  # 2048^3 / 4: beyond any CT, and before a hostile header costs memory
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_COMPRESSION_LEVEL = 5
_UNREADABLE = (ImageFileError, HeaderDataError, WrapStructError)
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI2_HEADER_BYTES = 540
_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")


def read_volume(path: Path | str) -> Volume:
    """A CT from a .nii or .nii.gz file in Hounsfield units, stored in any orientation, as integers or floats.

    The array keeps the file's storage order reversed to (z, y, x); the affine goes from RAS+ to LPS+. Values
    that are all whole numbers become int16, others float32. Values below air are air, and where they are too
    low to be a measurement, or not finite, also padding.

    Raises:
        Rejected: MALFORMED for a damaged file or one that is not a 3D image, GEOMETRY_INVALID for one that
            does not say where it lies, TOO_LARGE beyond `MAX_VOXELS`.
    """
    values, geometry = _read(Path(path))
    hu, padding = hu_from_values(values, geometry)
    return Volume(hu, geometry, padding)


def read_labels(file: Path | str | bytes) -> tuple[NDArray[Any], Geometry]:
    """A label map from a .nii or .nii.gz file or its bytes: unsigned integers (z, y, x) and their LPS+ grid.

    Raises:
        Rejected: as `read_volume`; MALFORMED also for values that are not whole numbers from 0 to 65535.
    """
    values, geometry = _read(file if isinstance(file, bytes) else Path(file))
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    # Comparisons with NaN are false: a NaN fails here too.
    if not (low >= 0 and high <= 65535) or (
        values.dtype.kind == "f" and not (np.rint(values) == values).all()
    ):
        raise Rejected(Reason.MALFORMED, "label map holds values that are not whole numbers from 0 to 65535")
    return values.astype(np.uint8 if high <= 255 else np.uint16), geometry


def write_labels(path: Path | str, labels: NDArray[Any], geometry: Geometry) -> None:
    """Write integers (z, y, x) on an LPS+ grid as .nii.gz: same input, same bytes; text fields blank.

    Both the qform and the sform are set; a grid whose axes are not perpendicular is exact in the sform alone.

    Raises:
        ValueError: labels not of the grid's shape, negative, or above 65535.
    """
    if labels.shape != geometry.shape_zyx:
        raise ValueError(f"labels of shape {labels.shape} on a grid of shape {geometry.shape_zyx}")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 65535:
        raise ValueError(f"labels range from {low} to {high}, expected 0 to 65535")
    affine = _RAS_TO_LPS @ geometry.affine
    stored = labels.astype(np.uint8 if high <= 255 else np.uint16, copy=False)
    image = nib.Nifti1Image(stored.T, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner", strip_shears=True)
    buffer = io.BytesIO()
    # No file name and no time in the gzip header: the bytes depend on the labels and the grid alone.
    with gzip.GzipFile(
        filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=_COMPRESSION_LEVEL
    ) as stream:
        stream.write(image.to_bytes())
    Path(path).write_bytes(buffer.getvalue())


def open_nifti(file: Path | bytes) -> nib.Nifti1Image | None:
    """An image whose voxels are still to be read, from a path or from the bytes of a file, packed or not.

    None for an image of another kind. Raises what nibabel and the unpacking raise.
    """
    if not isinstance(file, bytes):
        image = nib.load(file)
        return image if isinstance(image, nib.Nifti1Image) else None
    stream: Any = io.BytesIO(file)
    if file.startswith(_GZIP_MAGIC):
        stream = gzip.GzipFile(fileobj=stream)
    size = stream.read(4)
    stream.seek(0)
    is_second = any(int.from_bytes(size, order) == _NIFTI2_HEADER_BYTES for order in _BYTE_ORDERS)
    found: nib.Nifti1Image = (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(stream)
    return found


def _read(file: Path | bytes) -> tuple[NDArray[Any], Geometry]:
    try:
        image = open_nifti(file)
        if image is None:
            raise Rejected(Reason.MALFORMED, "not a NIfTI file")
        shape = image.shape
        if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape[:3]) < 1:
            raise Rejected(Reason.MALFORMED, f"image of shape {shape}, expected three axes")
        if int(np.prod([int(n) for n in shape], dtype=object)) > MAX_VOXELS:
            raise Rejected(Reason.TOO_LARGE, f"image of shape {shape}, expected at most {MAX_VOXELS} voxels")
        if not (image.header["sform_code"] or image.header["qform_code"]):
            raise Rejected(Reason.GEOMETRY_INVALID, "header has neither a qform nor an sform")
        proxy = cast(nib.arrayproxy.ArrayProxy, image.dataobj)
        is_scaled = (proxy.slope, proxy.inter) != (1, 0)
        # float32 holds every scaled HU to far below its noise, in half the memory of nibabel's float64.
        values = np.asanyarray(proxy, dtype=np.float32) if is_scaled else np.asanyarray(proxy)
        values = values.reshape(shape[:3]).T
        affine = _RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64)
    except (*_UNREADABLE, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise Rejected(Reason.MALFORMED, f"file cannot be read as NIfTI ({type(error).__name__})") from None
    if values.dtype.kind not in "iuf":
        raise Rejected(Reason.MALFORMED, f"voxels of type {values.dtype}, expected integers or floats")
    try:
        geometry = Geometry((values.shape[0], values.shape[1], values.shape[2]), affine)
    except ValueError:
        raise Rejected(Reason.GEOMETRY_INVALID, "affine is not an invertible finite matrix") from None
    return values, geometry
