"""The catalogue of structures: a name in, its SNOMED CT code, side and group out; a selection text in, names out.

Names are TotalSegmentator's snake_case. SNOMED CT codes are of the body structure without its side; the side is
`laterality`. A code is None where none was verified.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class Structure:
    """One anatomical target."""

    name: str
    snomed_code: str | None
    laterality: Laterality | None
    group: Group


_SINGLE: dict[Group, dict[str, str | None]] = {
    Group.ORGAN: {
        "spleen": "78961009",
        "gallbladder": "28231008",
        "liver": "10200004",
        "stomach": "69695003",
        "pancreas": "15776009",
        "lung_middle_lobe_right": "72481006",
        "atrial_appendage_left": "33626005",
        "esophagus": "32849002",
        "trachea": "44567001",
        "thyroid_gland": "69748006",
        "small_bowel": "30315005",
        "duodenum": "38848004",
        "colon": "71854001",
        "urinary_bladder": "89837001",
        "prostate": "41216001",
        "heart": "80891009",
        "larynx": "4596009",
        "thymus": "9875009",
    },
    Group.VESSEL: {
        "aorta": "15825003",
        "pulmonary_vein": "122972007",
        "pulmonary_artery": "81040000",
        "brachiocephalic_trunk": "12691009",
        "superior_vena_cava": "48345005",
        "inferior_vena_cava": "64131007",
        "portal_vein_and_splenic_vein": None,
    },
    Group.BONE: {
        "sacrum": "54735007",
        "skull": "89546000",
        "mandible": "91609006",
        "sternum": "56873002",
        "costal_cartilages": "50016007",
        "vertebrae": "51282000",
        "ribs": "113197003",
    },
    Group.NERVOUS: {"brain": "12738006", "brainstem": "15926001", "spinal_cord": "2748008"},
    Group.TISSUE: {"skeletal_muscle": "127954009", "subcutaneous_fat": "67769002", "visceral_fat": None},
}
_PAIRED: dict[Group, dict[str, str | None]] = {
    Group.ORGAN: {
        "lung": "39607008",
        "lung_upper_lobe": "45653009",
        "lung_lower_lobe": "90572001",
        "kidney": "64033007",
        "adrenal_gland": "23451007",
        "parotid_gland": "45289007",
        "eye": "81745001",
    },
    Group.VESSEL: {
        "subclavian_artery": "36765005",
        "common_carotid_artery": "32062004",
        "brachiocephalic_vein": "8887007",
        "iliac_artery": "73634005",
        "iliac_vena": "46027005",
    },
    Group.BONE: {
        "humerus": "85050009",
        "scapula": "79601000",
        "clavicula": "51299004",
        "femur": "71341001",
        "hip": "29836001",
    },
    Group.MUSCLE: {
        "gluteus_maximus": "181674001",
        "gluteus_medius": "78333006",
        "gluteus_minimus": "75297007",
        "autochthon": "44947003",
        "iliopsoas": "68455001",
    },
}
_VERTEBRAE = dict(
    zip(
        [f"C{i}" for i in range(1, 8)] + [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 6)],
        "14806007 39976000 113205007 5329002 36978003 36054005 87391001 64864005 53733008 1626008 73071006 56401006 "
        "45296009 62487009 11068009 82687006 7610001 12989004 23215003 66794005 14293000 36470004 11994002 "
        "49668003".split(),
        strict=True,
    )
)
_RIBS = (
    "48535007 78247007 25888004 25523003 15339008 59558009 24915002 5953002 22565002 77644006 58830002 43993008"
).split()


def _side(name: str) -> Laterality | None:
    return next((side for side in Laterality if name.endswith(f"_{side}")), None)


def _catalogue() -> dict[str, Structure]:
    found = [Structure(n, code, _side(n), group) for group, names in _SINGLE.items() for n, code in names.items()]
    for side in Laterality:
        found += [
            Structure(f"{n}_{side}", code, side, group)
            for group, names in _PAIRED.items()
            for n, code in names.items()
        ]
        found += [Structure(f"rib_{side}_{i}", code, side, Group.BONE) for i, code in enumerate(_RIBS, 1)]
    found += [Structure(f"vertebrae_{level}", code, None, Group.BONE) for level, code in _VERTEBRAE.items()]
    found.append(Structure("vertebrae_S1", None, None, Group.BONE))
    return {s.name: s for s in sorted(found, key=lambda s: s.name)}


CATALOGUE: dict[str, Structure] = _catalogue()


def resolve(selection: str, available: Sequence[str]) -> tuple[str, ...]:
    """Names for a selection text.

    Args:
        selection: "all", or names separated by commas.
        available: what the weights can segment, in the order "all" lists them.

    Raises:
        ValueError: a name that is not available, with the nearest ones that are.
    """
    if selection.strip() == "all":
        return tuple(available)
    names = [part.strip() for part in selection.split(",") if part.strip()]
    if not names:
        raise ValueError("no structure named; expected 'all' or names separated by commas")
    for name in names:
        if name in available:
            continue
        known = "known, but not segmented by these weights" if name in CATALOGUE else "unknown structure"
        near = difflib.get_close_matches(name, available, n=3) or list(available[:3])
        raise ValueError(f"{name!r}: {known}; nearest available: {', '.join(near)}")
    return tuple(dict.fromkeys(names))
