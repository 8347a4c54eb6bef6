"""Look for what is remarkable of a measured structure: a measurement in, flags out."""

from __future__ import annotations

from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.anatomy.measure import Measurement
from ctsam3d.outcome import Flag


def flags(name: str, measured: Measurement) -> tuple[Flag, ...]:
    """Flags of one structure.

    A volume is judged only where the whole structure was seen: one that touches the edge of the image is `truncated`
    and tells nothing. Structures without a plausible range are never flagged.
    """
    known = CATALOGUE.get(name)
    if known is None or known.plausible_ml is None or measured.truncated_faces:
        return ()
    low, high = known.plausible_ml
    if measured.volume_ml < low:
        return (Flag.VOLUME_LOW,)
    return (Flag.VOLUME_HIGH,) if measured.volume_ml > high else ()
