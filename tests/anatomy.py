"""A body in millimetres, the same wherever and however it is scanned: places in, HU out; a segmenter and series of it.

Liver on the patient's right, spleen on the left, heart above the liver, lungs of different size, the spine behind: no
two directions can be swapped without its being seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.anatomy.measure import Measurement, measure
from ctsam3d.imaging.resample import labels_to_source, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.segmentation.result import Finding, StudySegmentation
from tests.builders import Knobs, ct_series, places_xyz_mm

AIR_HU, TISSUE_HU = -1000, 0
# name: (HU, centre in LPS+ mm, half axes in mm); each lies free in the tissue, so that half its HU is its border
ORGANS: dict[str, tuple[int, tuple[float, float, float], tuple[float, float, float]]] = {
    "heart": (300, (4.0, -14.0, 26.0), (12.0, 14.0, 12.0)),
    "lung_left": (500, (38.0, -4.0, 30.0), (15.0, 26.0, 15.0)),
    "lung_right": (700, (-36.0, -4.0, 30.0), (19.0, 28.0, 16.0)),
    "liver": (900, (-26.0, -6.0, -22.0), (26.0, 26.0, 16.0)),
    "spleen": (1100, (36.0, 14.0, -22.0), (13.0, 14.0, 14.0)),
    "vertebrae": (1300, (0.0, 36.0, 2.0), (10.0, 9.0, 36.0)),
}
_BODY = (64.0, 52.0)
_FAINTEST_HU = 100


def anatomy_hu(places_xyz_mm: NDArray[np.float64]) -> NDArray[np.int16]:
    """HU at places (..., 3) in LPS+ mm."""
    x, y, _ = np.moveaxis(places_xyz_mm, -1, 0)
    hu = np.where((x / _BODY[0]) ** 2 + (y / _BODY[1]) ** 2 < 1, TISSUE_HU, AIR_HU).astype(np.int16)
    for value, centre, half in ORGANS.values():
        hu[((((places_xyz_mm - centre) / half) ** 2).sum(axis=-1)) < 1] = value
    return hu


def anatomy_series(**knobs: Any) -> list[tuple[str, bytes]]:
    """A series of the body, the middle of its field at the body's middle; `Knobs` as for `ct_series`."""
    return ct_series(**anatomy_knobs(**knobs))


def anatomy_knobs(**knobs: Any) -> dict[str, Any]:
    """What `anatomy_series` makes its series of."""
    given = {
        "n": 25,
        "shape": (34, 40),
        "spacing_xyz_mm": (4.0, 3.8, 5.0),
        "image_hu": anatomy_hu,
        "origin_xyz_mm": (0.0, 0.0, 0.0),
    } | knobs
    middle = places_xyz_mm(Knobs(**given))
    origin = -(middle[0, 0, 0] + middle[-1, -1, -1]) / 2
    # short decimals, as headers hold them, and off the grid of any rounding
    return given | {"origin_xyz_mm": tuple(round(float(v), 2) + 0.013 for v in origin)}


def true_volume_ml(name: str) -> float:
    """The volume of an organ by its formula."""
    half = ORGANS[name][2]
    return 4 / 3 * np.pi * half[0] * half[1] * half[2] / 1000


def segment_anatomy(volume: Volume, structures: Sequence[str] = tuple(ORGANS)) -> StudySegmentation:
    """Organs by how bright they are, on the model's grid and back, the way masks go; knows no left and right."""
    grid = to_model_grid(volume)
    found = np.zeros(grid.hu.shape, np.uint8)
    blobs, count = ndimage.label(grid.hu > _FAINTEST_HU)
    names = list(ORGANS)
    for blob, box in enumerate(ndimage.find_objects(blobs, count), 1):
        hu = np.where(blobs[box] == blob, grid.hu[box], AIR_HU)
        bright = float(np.percentile(hu[hu > _FAINTEST_HU], 90))
        name = min(names, key=lambda name: abs(ORGANS[name][0] - bright))
        found[box][hu > ORGANS[name][0] / 2] = names.index(name) + 1
    ids = {name: label for label, name in enumerate(names, 1) if name in structures}
    found[~np.isin(found, list(ids.values()))] = 0
    labels = labels_to_source(found, grid.geometry, volume.geometry)
    ids = {name: label for name, label in ids.items() if (labels == label).any()}
    findings = {
        name: Finding(Status.OK, clicks=1, confidence=0.95) if name in ids else Finding(Status.ABSENT)
        for name in structures
    }
    return StudySegmentation(labels, ids, findings, {})


def measured_anatomy(volume: Volume) -> dict[str, Measurement]:
    """The organs that are found in a volume, measured."""
    found = segment_anatomy(volume)
    return measure(volume, found.labels, found.label_ids)


def check_anatomy(measured: dict[str, Measurement], within: float = 0.1, off_mm: float = 1.0) -> None:
    """Assert that every organ is there, whole, of its volume (relative tolerance) and in its place."""
    assert set(measured) == set(ORGANS)
    for name, organ in measured.items():
        true = true_volume_ml(name)
        assert abs(organ.volume_ml - true) < within * true, (name, organ.volume_ml, true)
        off = np.abs(np.subtract(organ.centroid_xyz_mm, ORGANS[name][1])).max()
        assert off < off_mm, (name, organ.centroid_xyz_mm)
        assert not organ.truncated_faces, (name, organ.truncated_faces)
