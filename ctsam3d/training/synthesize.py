"""Paint a CT from a label map: label or tissue ids in, a random but plausible HU image out.

After SynthSeg (Billot et al. 2023): every draw gives each tissue a new intensity, texture and contrast phase, so that a
few label maps become endlessly many images and the network cannot lean on any one scanner's grey values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

# (pattern of the name, lowest mean HU, highest mean HU, HU added at full contrast); the first match holds.
_TISSUES: tuple[tuple[str, float, float, float], ...] = (
    (r"air inside|nasal|trachea|bronchi", -1000, -950, 0),
    (r"^lung.*blood", 0, 60, 100),
    (r"^lung_tumour|^tumour", 0, 60, 40),
    (r"^lung", -900, -740, 0),
    (r"adipose|residual tissue", -120, -75, 0),
    (r"skin|breast", -20, 50, 0),
    (r"teeth", 1200, 2000, 0),
    (r"cortical", 500, 1300, 0),
    (r"spongiosa", 80, 380, 0),
    (r"medullary", -60, 120, 0),
    (r"cartilage", 60, 160, 0),
    (r"skull|mandible", 400, 1000, 0),
    (r"vertebrae|sacrum|sternum|rib|hip_|femur|humer|scapula|clavic", 120, 400, 0),
    (r"kidney", 20, 45, 190),
    (r"spleen", 35, 60, 90),
    (r"liver", 25, 70, 70),
    (r"pancreas", 10, 50, 80),
    (r"heart|aorta|artery|trunk$|vein|vena|atrial|blood|subclavian|carotid", 25, 60, 300),
    (r"brain|spinal|pituitary", 20, 50, 10),
    (r"eye", 0, 60, 0),
    (r"bladder", -10, 30, 0),
    (r"stomach|intestine|bowel|duodenum|colon|rectum", 0, 60, 30),
    (r"thyroid", 60, 160, 90),
    (r"muscle|autochthon|iliopsoas|gluteus|tongue", 30, 75, 10),
)
_SOFT = (10.0, 60.0, 30.0)
_HOLLOW = re.compile(r"stomach|intestine contents|bowel|duodenum|colon|rectum")
_SOLID_BONE = re.compile(r"^(vertebrae|sacrum|sternum|rib|hip_|femur|humer|scapula|clavic|skull|mandible)")


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> NDArray[np.float32]:
    """Noise (z, y, x) of unit variance or so whose grain is about `size` voxels."""
    coarse = torch.from_numpy(rng.standard_normal([1, 1, *(n // size + 2 for n in shape)]).astype(np.float32))
    fine: NDArray[np.float32] = functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy()
    return fine


def paint(
    rng: np.random.Generator, ids: NDArray[np.uint8], names: Mapping[int, str], spacing_mm: float
) -> NDArray[np.float32]:
    """HU (z, y, x) for a map of label or tissue ids. Id 0 is air, or 255 an unnamed part of the body."""
    table = np.full(256, -1000.0, dtype=np.float32)
    texture = np.zeros(256, dtype=np.float32)
    contrast = rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.4, 0.6])
    for label, name in names.items():
        low, high, added = next((t[1:] for t in _TISSUES if re.search(t[0], name.lower())), _SOFT)
        table[label] = rng.uniform(low, high) + contrast * added * rng.uniform(0.4, 1.0)
        texture[label] = rng.uniform(3, 25) if low > -500 else rng.uniform(10, 60)
    hu = table[ids]
    hollow = [i for i, n in names.items() if _HOLLOW.search(n.lower())]
    if hollow:
        _fill_hollow(rng, hu, np.isin(ids, hollow))
    _fill_unnamed(rng, hu, ids == 255)
    bones = [i for i, n in names.items() if _SOLID_BONE.search(n)]
    if bones:  # label maps without cortex: brighten the rim
        bone = np.isin(ids, bones)
        rim = bone & ~ndimage.binary_erosion(bone, iterations=max(1, round(2.5 / spacing_mm)))
        hu[rim] += rng.uniform(100, 600)
    hu += texture[ids] * smooth_noise(rng, ids.shape, max(2, round(9 / spacing_mm)))
    if rng.random() < 0.7:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.2, 1.2) / spacing_mm)
    hu += rng.uniform(0, 25) * rng.standard_normal(ids.shape).astype(np.float32)
    return hu


def _fill_hollow(rng: np.random.Generator, hu: NDArray[np.float32], hollow: NDArray[np.bool_]) -> None:
    """Gas, fluid, stool or oral contrast in patches inside the gut."""
    filling = smooth_noise(rng, hu.shape, 6)
    gas = hollow & (filling > rng.uniform(0.3, 2.0))
    hu[gas] = rng.uniform(-1000, -600)
    other = hollow & (filling < rng.uniform(-2.0, -0.3))
    hu[other] = rng.choice([rng.uniform(-80, 60), rng.uniform(100, 500)], p=[0.75, 0.25])


def _fill_unnamed(rng: np.random.Generator, hu: NDArray[np.float32], unnamed: NDArray[np.bool_]) -> None:
    """Fat with strands and slabs of muscle where nothing is labelled."""
    if not unnamed.any():
        return
    fat, muscle = rng.uniform(-120, -80), rng.uniform(30, 70)
    depth = smooth_noise(rng, hu.shape, 5)
    is_muscle = depth > rng.uniform(-0.8, 0.8)
    hu[unnamed] = np.where(is_muscle, muscle, fat)[unnamed]


def body_of(labels: NDArray[np.uint8], spacing_mm: float) -> NDArray[np.uint8]:
    """Distance (z, y, x) in mm, capped at 60, from the nearest labelled voxel, axial holes filled: a body to clothe."""
    step = 2 if spacing_mm < 3 else 1  # a body's outline needs no finer grid than 3 mm or so
    inside = ndimage.binary_closing(
        labels[::step, ::step, ::step] > 0, iterations=max(1, round(9 / spacing_mm / step))
    )
    for z in range(inside.shape[0]):
        inside[z] = ndimage.binary_fill_holes(inside[z])
    distance = np.minimum(ndimage.distance_transform_edt(~inside, sampling=spacing_mm * step), 60).astype(
        np.uint8
    )
    for axis in range(3):
        distance = distance.repeat(step, axis)
    z, y, x = labels.shape
    return distance[:z, :y, :x]


def clothe(
    rng: np.random.Generator, labels: NDArray[np.uint8], distance_mm: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Labels with the unnamed rest of a body (id 255) around and between them, of a random stoutness."""
    wobble = 1 + 0.3 * smooth_noise(rng, labels.shape, 16)
    body = distance_mm <= rng.uniform(8, 40) * wobble
    return np.where((labels == 0) & body, np.uint8(255), labels)
