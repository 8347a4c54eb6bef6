"""The catalogue of structures: a name, an alias or a SNOMED CT code in; what is known of the structure out.

Names are TotalSegmentator's: the 117 classes of its `total` task, the chambers and the face of its first version, the
tissues that TotalSeg++ adds, and what our own weights find beyond (`catalogue.csv`, a row each).

Codes are of the body structure without its side, which is `laterality`. `snomed_source` of the file says where a code
was read: in DICOM PS3.16 ("DICOM"), in the mapping that TotalSegmentator publishes, or in several public mappings that
agree ("public"). A structure whose code was not found in any of them has none. `also_coded` are codes that others write
for the same thing, such as TotalSegmentator's for the subclavian arteries, which in DICOM is the right one's alone.

Plausible volumes are of whole structures of adults and wide: outside of them a mask is likelier wrong than a person so
built. They are no reference values. `volume_basis` says "widened n" where the smallest and largest of n whole examples
(the ICRP 110 phantoms and labelled scans) were taken 2.5 times further (3 times for n <= 3), and "judged n" where
filling, disease or surgery change a volume by more than that, or no whole example was at hand: set by judgement, around
n examples. No range is given for what no scan holds whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from ctsam3d.anatomy.localized import LOCALIZED


class Laterality(StrEnum):
    """Side of a paired structure, the patient's own."""

    LEFT = "left"
    RIGHT = "right"


class Group(StrEnum):
    """What kind of thing a structure is."""

    ORGAN = "organ"
    VESSEL = "vessel"
    BONE = "bone"
    MUSCLE = "muscle"
    NERVOUS = "nervous"
    TISSUE = "tissue"
    LESION = "lesion"


@dataclass(frozen=True, slots=True)
class Structure:
    """One anatomical target; None where a value is not known.

    Attributes:
        name: TotalSegmentator's snake_case.
        snomed_code, snomed_meaning: SNOMED CT, without the side.
        snomed_region: code of the organ that a lesion is in.
        also_coded: other SNOMED CT codes that are read as this structure.
        laterality: of one of a pair.
        group: what kind of thing it is.
        plausible_ml: lowest and highest volume of the whole structure in an adult.
        aliases: other names that are read as this structure.
    """

    name: str
    snomed_code: str | None
    laterality: Laterality | None
    group: Group
    snomed_meaning: str | None = None
    snomed_region: str | None = None
    also_coded: tuple[str, ...] = ()
    plausible_ml: tuple[float, float] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def localized(self) -> bool:
        """Whether a localizer can be trained here to find it. What given weights find is in their own header."""
        return self.name in LOCALIZED


def _read() -> dict[str, Structure]:
    text = (resources.files("ctsam3d.anatomy") / "catalogue.csv").read_text(encoding="utf-8")
    return {row["name"]: _structure(row) for row in csv.DictReader(text.splitlines())}


def _structure(row: dict[str, str]) -> Structure:
    low, high = row["low_ml"], row["high_ml"]
    return Structure(
        name=row["name"],
        snomed_code=row["snomed_code"] or None,
        laterality=Laterality(row["laterality"]) if row["laterality"] else None,
        group=Group(row["group"]),
        snomed_meaning=row["snomed_meaning"] or None,
        snomed_region=row["snomed_region"] or None,
        also_coded=tuple(row["also_coded"].split()),
        plausible_ml=(float(low), float(high)) if low and high else None,
        aliases=tuple(row["aliases"].split()),
    )


CATALOGUE: dict[str, Structure] = _read()
_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}


def simplified(name: str) -> str:
    """A name without its way of writing: lower case, words joined by "_", its side written out at the end.

    "Left Kidney", "kidney-left" and "Kidney_L" all become "kidney_left".
    """
    words = [word for word in re.split(r"[^0-9a-z]+", name.casefold()) if word]
    side = next((i for i, word in enumerate(words) if word in _SIDES), None)
    if side is not None:
        words.append(_SIDES[words.pop(side)])
    return "_".join(words)


def named(name: str) -> Structure | None:
    """The structure of a name or alias, however it is written; None for a name of none."""
    found = CATALOGUE.get(name)
    return found if found is not None else _by_name().get(simplified(name))


def coded(codes: Iterable[str], side: Laterality | None, region: str | None = None) -> Structure | None:
    """The structure of a SNOMED CT code.

    Args:
        codes: the code, or several of which one may be known.
        side: as stated beside the code; None where it is not, which is enough for a code that one structure has.
        region: code of the organ that a lesion is stated to be in.

    Returns:
        The structure; None for a code of none, or of several among which nothing stated decides.
    """
    for code in codes:
        found = [s for s in _by_code().get(code, ()) if s.snomed_region in (None, region)]
        if side is not None:
            found = [s for s in found if s.laterality in (None, side)]
        if len(found) == 1:
            return found[0]
    return None


@cache
def _by_name() -> dict[str, Structure]:
    return {simplified(name): s for s in CATALOGUE.values() for name in (s.name, *s.aliases)}


@cache
def _by_code() -> dict[str, list[Structure]]:
    found: dict[str, list[Structure]] = {}
    for structure in CATALOGUE.values():
        for code in (structure.snomed_code, *structure.also_coded):
            if code is not None:
                found.setdefault(code, []).append(structure)
    return found
