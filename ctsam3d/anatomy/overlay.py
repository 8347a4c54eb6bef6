"""Draw a study's masks over its image: a volume and a label map in, one PNG with planes and a legend out."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.orientation import canonical_geometry, to_canonical
from ctsam3d.imaging.volume import Volume

_WINDOW_HU = (-160.0, 240.0)
_ALPHA = 0.45


def draw_overlay(
    volume: Volume, labels: NDArray[Any], legend: Mapping[str, tuple[int, str]], path: Path
) -> None:
    """Four axial, two coronal and two sagittal planes, the patient's left on the viewer's right, as radiologists look.

    Args:
        volume: the image.
        labels: integers (z, y, x) on the volume's own grid.
        legend: structure name -> its label and a text to print beside it, such as its volume.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    hu, masks = to_canonical(volume.hu, volume.geometry), to_canonical(labels, volume.geometry)
    spacing = canonical_geometry(volume.geometry).spacing_xyz_mm[::-1]
    colours = _colours(legend)
    figure = Figure(figsize=(17, 9), facecolor="black", layout="constrained")
    axes = figure.subplots(2, 5, width_ratios=[1, 1, 1, 1, 0.75])
    planes = [(0, f) for f in (0.8, 0.6, 0.4, 0.2)] + [(1, 0.4), (1, 0.6), (2, 0.4), (2, 0.6)]
    for place, (axis, fraction) in zip(axes[:, :4].ravel(), planes, strict=True):
        index = _index_within(masks, axis, fraction)
        image = _blend(np.take(hu, index, axis), np.take(masks, index, axis), colours)
        rest = [s for i, s in enumerate(spacing) if i != axis]
        origin = "upper" if axis == 0 else "lower"
        place.imshow(image, origin=origin, aspect=rest[0] / rest[1], interpolation="nearest")
        place.set_title(f"{('axial', 'coronal', 'sagittal')[axis]} {index}", color="white", fontsize=9)
    for place in axes.ravel():
        place.axis("off")
    handles = [Patch(color=colours[i], label=f"{name}  {text}") for name, (i, text) in legend.items()]
    half = -(-len(handles) // 2)
    for place, part in ((axes[0, 4], handles[:half]), (axes[1, 4], handles[half:])):
        if part:
            place.legend(
                handles=part,
                loc="center left",
                fontsize=8,
                labelcolor="white",
                facecolor="black",
                frameon=False,
            )
    FigureCanvasAgg(figure).print_png(str(path))


def grey_of(hu: NDArray[Any]) -> NDArray[np.float32]:
    """HU of any shape in a window of soft tissue, 0 to 1."""
    low, high = _WINDOW_HU
    grey: NDArray[np.float32] = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1)
    return grey


def _index_within(masks: NDArray[Any], axis: int, fraction: float) -> int:
    """The plane at a fraction of what is labelled, or of the image where nothing is."""
    occupied = np.flatnonzero(masks.any(axis=tuple(i for i in range(3) if i != axis)))
    low, high = (occupied[0], occupied[-1]) if occupied.size else (0, masks.shape[axis] - 1)
    return int(round(low + fraction * (high - low)))


def _colours(legend: Mapping[str, tuple[int, str]]) -> dict[int, tuple[float, float, float]]:
    """A colour for each label: hues a golden section apart, so that neighbours in the list differ."""
    return {
        label: colorsys.hsv_to_rgb((k * 0.618034) % 1, 0.75 if k % 2 else 0.95, 1.0)
        for k, (label, _) in enumerate(legend.values())
    }


def _blend(
    hu: NDArray[Any], labels: NDArray[Any], colours: Mapping[int, tuple[float, float, float]]
) -> NDArray[np.float32]:
    image = np.repeat(grey_of(hu)[..., None], 3, axis=-1)
    for label, colour in colours.items():
        here = labels == label
        image[here] = (1 - _ALPHA) * image[here] + _ALPHA * np.array(colour, dtype=np.float32)
    return image
