"""Look whether organs lie as in a person: where they were found in, doubt about the image's orientation out.

A header with a wrong sign, or a converter that flips an axis, mirrors a patient without any error. The liver left of
the spleen tells it; so it does of the one in ten thousand with organs the other way round, who is worth a look as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

# Further from the expected side than this is a contradiction, in mm: parts of organs at the edge of an image do not
# lie quite as the whole ones.
MARGIN_MM = 20.0
_SPINE = ("vertebrae", "spinal_cord")
_LEFT, _BEHIND, _ABOVE = (np.array(axis, float) for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))  # LPS+
# The first lies in this direction from the second, whatever the patient's position on the table.
_RULES: tuple[tuple[str, NDArray[np.float64], str], ...] = (
    ("spleen", _LEFT, "liver"),
    ("heart", _ABOVE, "liver"),
    *((spine, _BEHIND, organ) for spine, organ in product(_SPINE, ("liver", "heart"))),
)


def is_orientation_suspect(centroids_xyz_mm: Mapping[str, tuple[float, ...]]) -> bool | None:
    """Whether any two structures lie the other way round than in a person.

    Args:
        centroids_xyz_mm: places of the structures that were found with certainty, LPS+ mm, by name.

    Returns:
        None where no two structures were found that tell.
    """
    told = [
        float(direction @ np.subtract(centroids_xyz_mm[one], centroids_xyz_mm[other])) < -MARGIN_MM
        for one, direction, other in _RULES
        if one in centroids_xyz_mm and other in centroids_xyz_mm
    ]
    return any(told) if told else None
