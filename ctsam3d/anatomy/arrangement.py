"""Look whether organs lie as in a person: their places and sizes in, doubt about the image's orientation out.

A header with a wrong sign, or a converter that flips an axis, mirrors a patient without any error. A liver left of the
spleen tells it. A network that has learned where organs lie may put the names back into their places, though: then
what is called the liver is small, and what is called the spleen is large. So it is in the one of ten thousand people
whose organs lie the other way round, and in some with a very large spleen, who are worth a look as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

# Further from the expected side than this is a contradiction, in mm: parts of organs at the edge of an image do not
# lie quite as the whole ones.
MARGIN_MM = 20.0
# Of a spleen this many times as large as the liver one of the two names is wrong.
LARGEST_SPLEEN_TO_LIVER = 2.0
_LATERAL = frozenset({"left", "right", "field_of_view"})
_SPINE = ("vertebrae", "spinal_cord")
_BELOW_HEART = ("liver", "spleen", "kidney_left", "kidney_right", "colon", "urinary_bladder")
_ABOVE_HEART = ("trachea", "scapula_left", "scapula_right")
_LEFT, _BEHIND, _ABOVE = (1, 0, 0), (0, 1, 0), (0, 0, 1)  # LPS+
# The first lies in this direction from the second, whatever the patient's position on the table.
_RULES: tuple[tuple[str, tuple[int, int, int], str], ...] = (
    ("spleen", _LEFT, "liver"),
    *((spine, _BEHIND, organ) for spine, organ in product(_SPINE, ("liver", "heart"))),
    *(("heart", _ABOVE, organ) for organ in _BELOW_HEART),
    *((organ, _ABOVE, "heart") for organ in _ABOVE_HEART),
    ("liver", _ABOVE, "urinary_bladder"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A structure that was found with certainty: `Measurement`'s place in LPS+ mm, volume in ml and faces touched."""

    centroid_xyz_mm: tuple[float, ...]
    volume_ml: float
    truncated_faces: tuple[str, ...] = ()


def is_orientation_suspect(found: Mapping[str, Found]) -> bool | None:
    """Whether any two structures lie the other way round than in a person, or have each other's size.

    Args:
        found: structures by name.

    Returns:
        None where no two structures were found that tell.
    """
    told = [
        float(np.dot(direction, np.subtract(found[one].centroid_xyz_mm, found[other].centroid_xyz_mm)))
        < -MARGIN_MM
        for one, direction, other in _RULES
        if one in found and other in found
    ]
    liver, spleen = found.get("liver"), found.get("spleen")
    if liver and spleen and not _LATERAL & set(liver.truncated_faces):
        told.append(spleen.volume_ml > LARGEST_SPLEEN_TO_LIVER * liver.volume_ml)
    return any(told) if told else None
