"""The catalogue is consistent, its codes are those of DICOM, and names are understood however they are written."""

from __future__ import annotations

import csv
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from ctsam3d.anatomy.catalogue import CATALOGUE, Group, Laterality, coded, named, simplified
from ctsam3d.anatomy.localized import CLASSES, LOCALIZED, classes_of
from ctsam3d.anatomy.measure import measure
from ctsam3d.anatomy.quality import flags
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Flag

ROWS = list(csv.DictReader((resources.files("ctsam3d.anatomy") / "catalogue.csv").read_text().splitlines()))


def test_names_and_aliases_mean_one_structure_each() -> None:
    assert len({row["name"] for row in ROWS}) == len(ROWS) == len(CATALOGUE)
    seen = Counter(simplified(name) for s in CATALOGUE.values() for name in {s.name, *s.aliases})
    assert [name for name, count in seen.items() if count > 1] == []


def test_a_code_and_a_side_mean_one_structure() -> None:
    seen = Counter(
        (s.snomed_code, s.snomed_region, s.laterality) for s in CATALOGUE.values() if s.snomed_code
    )
    assert [key for key, count in seen.items() if count > 1] == []
    for structure in CATALOGUE.values():
        if structure.snomed_code:
            found = coded([structure.snomed_code], structure.laterality, structure.snomed_region)
            assert found is structure


def test_sides_come_in_pairs_and_match_their_names() -> None:
    single = {"atrial_appendage_left", "lung_middle_lobe_right"}  # of which there is one
    for name, structure in CATALOGUE.items():
        for side, other in ((Laterality.LEFT, "right"), (Laterality.RIGHT, "left")):
            if side.value in name.split("_"):
                assert structure.laterality is side, name
                if name not in single:
                    twin = CATALOGUE[name.replace(side.value, other)]
                    assert (twin.snomed_code, twin.plausible_ml) == (
                        structure.snomed_code,
                        structure.plausible_ml,
                    ) or name.startswith("heart_")  # chambers have codes of their own
        if not {"left", "right"} & set(name.split("_")):
            assert structure.laterality is None, name


def test_the_classes_of_totalsegmentator_and_our_own_are_in_it() -> None:
    assert set(LOCALIZED) <= set(CATALOGUE)
    assert {s.name for s in CATALOGUE.values() if s.localized} == set(LOCALIZED)
    levels = [f"C{i}" for i in range(1, 8)] + [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 6)]
    bones = {f"vertebrae_{level}" for level in [*levels, "S1"]}
    bones |= {f"rib_{side}_{i}" for side in Laterality for i in range(1, 13)}
    first_version = {
        "face",
        "heart_myocardium",
        "heart_atrium_left",
        "heart_ventricle_right",
        "pulmonary_artery",
    }
    tissues = {"skeletal_muscle", "subcutaneous_fat", "visceral_fat"}
    assert bones | first_version | tissues <= set(CATALOGUE)
    assert len(CATALOGUE) >= 117 + len(first_version | tissues)
    assert {s.group for s in CATALOGUE.values()} == set(Group)


def test_codes_that_are_said_to_be_dicoms_are() -> None:
    known = {getattr(codes.SCT, keyword).value for keyword in codes.SCT.dir()}
    by_source = Counter(row["snomed_source"] for row in ROWS)
    assert set(by_source) == {"DICOM", "TotalSegmentator", "public", ""}
    for row in ROWS:
        assert bool(row["snomed_code"]) == bool(row["snomed_meaning"]) == bool(row["snomed_source"]), row
        assert not row["snomed_code"] or (row["snomed_code"].isdigit() and len(row["snomed_code"]) >= 6)
        assert (row["snomed_code"] in known) == (row["snomed_source"] == "DICOM"), row
    assert [row["name"] for row in ROWS if not row["snomed_code"]] == ["visceral_fat"]


def test_every_code_has_the_check_digit_of_a_snomed_identifier() -> None:
    """SCTIDs end in a Verhoeff check digit: a code with a mistyped digit fails."""
    for row in ROWS:
        for code in (row["snomed_code"], row["snomed_region"], *row["also_coded"].split()):
            assert not code or _verhoeff(code) == 0, code


def _verhoeff(number: str) -> int:
    """0 for a number whose last digit is its Verhoeff check digit (dihedral group of order ten)."""

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
        return 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5

    order = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for place, digit in enumerate(int(character) for character in reversed(number)):
        for _ in range(place % 8):
            digit = order[digit]
        check = times(check, digit)
    return check


def test_plausible_volumes_are_ranges_and_parts_are_smaller_than_their_wholes() -> None:
    for structure in CATALOGUE.values():
        if structure.plausible_ml is None:
            assert structure.group is Group.TISSUE, structure.name
            continue
        low, high = structure.plausible_ml
        assert low > 0 and 2.5 * low <= high <= 7000, structure.name
    for name, structure in CATALOGUE.items():
        wholes = classes_of(name)
        if wholes != (name,) and len(wholes) == 1 and wholes[0] in CATALOGUE and structure.plausible_ml:
            whole = CATALOGUE[wholes[0]].plausible_ml
            assert (
                whole and structure.plausible_ml[0] <= whole[0] and structure.plausible_ml[1] <= whole[1]
            ), name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Left Kidney", "kidney_left"),
        ("Kidney_L", "kidney_left"),
        ("kidney-right", "kidney_right"),
        ("Parotid_R", "parotid_gland_right"),
        ("SpinalCord", "spinal_cord"),
        ("clavicle_left", "clavicula_left"),
        ("left rib 4", "rib_left_4"),
        ("Oesophagus", "esophagus"),
        ("vertebrae_c1", "vertebrae_C1"),
        ("IVC", "inferior_vena_cava"),
        ("torso_fat", "visceral_fat"),
    ],
)
def test_a_name_is_understood_however_it_is_written(written: str, name: str) -> None:
    found = named(written)
    assert found is not None and found.name == name


@pytest.mark.parametrize("written", ["", "kidney", "left", "lung", "vertebrae_L6", "rib_4", "tumour"])
def test_a_name_that_leaves_something_open_is_of_none(written: str) -> None:
    assert named(written) is None


def test_a_code_needs_its_side_unless_one_structure_has_it() -> None:
    assert coded(["64033007"], None) is None
    assert coded(["64033007"], Laterality.RIGHT) is CATALOGUE["kidney_right"]
    assert coded(["10200004"], None) is CATALOGUE["liver"]
    assert coded(["33626005"], None) is CATALOGUE["atrial_appendage_left"]
    assert coded(["29700009"], Laterality.LEFT) is CATALOGUE["subclavian_artery_left"]
    assert coded(["367643001"], Laterality.LEFT) is None  # a cyst, but of what?
    assert coded(["367643001"], Laterality.LEFT, "64033007") is CATALOGUE["kidney_cyst_left"]
    assert coded(["1"], None) is None


def test_a_chamber_is_heart_to_the_localizer() -> None:
    assert all(set(classes_of(name)) <= set(CLASSES) for name in CATALOGUE)
    assert classes_of("heart_ventricle_left") == ("heart",)


@pytest.mark.parametrize(
    ("side", "at", "expected"),
    [(1, 5, (Flag.VOLUME_LOW,)), (12, 5, ()), (30, 5, (Flag.VOLUME_HIGH,)), (1, 0, ()), (30, 0, ())],
)
def test_a_volume_is_flagged_only_where_the_whole_structure_is_seen(
    side: int, at: int, expected: tuple[Flag, ...]
) -> None:
    """Cubes of 1 ml, 1.7 litres and 27 litres taken for a liver, amid the image or at its face."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[at : at + side, 5 : 5 + side, 5 : 5 + side] = 1
    image = Volume(np.zeros(labels.shape, np.int16), Geometry.from_spacing(labels.shape, (10, 10, 10)))
    measured = measure(image, labels, {"liver": 1})["liver"]
    assert measured.volume_ml == pytest.approx(side**3)
    assert flags("liver", measured) == expected
    assert flags("skeletal_muscle", measured) == flags("no such structure", measured) == ()
