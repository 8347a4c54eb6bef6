"""The catalogue is consistent, and a selection text becomes names or a helpful error."""

import pytest

from ctsam3d.anatomy.localized import BACKGROUND, CLASSES, LOCALIZED, classes_of
from ctsam3d.anatomy.structures import CATALOGUE, Laterality, resolve


def test_sides_come_in_pairs_and_match_their_names() -> None:
    for name, structure in CATALOGUE.items():
        for side in Laterality:
            if side.value in name.split("_"):
                assert structure.laterality is side, name
    assert {n.replace("left", "right") for n in CATALOGUE if "rib_left" in n} <= set(CATALOGUE)


def test_a_code_means_one_structure() -> None:
    seen: dict[str, set[str]] = {}
    for structure in CATALOGUE.values():
        if structure.snomed_code:
            assert structure.snomed_code.isdigit() and len(structure.snomed_code) >= 6
            seen.setdefault(structure.snomed_code, set()).add(structure.name.replace("_left", "").replace("_right", ""))
    shared = {
        code: names for code, names in seen.items() if len({n.replace("rib__", "rib_") for n in names}) > 1
    }
    assert not {code for code, names in shared.items() if not all("rib" in n for n in names)}


def test_everything_localized_is_in_the_catalogue() -> None:
    assert set(LOCALIZED) <= set(CATALOGUE)


def test_every_name_maps_to_classes_there_are() -> None:
    for name in [*CATALOGUE, "lung", "vertebrae_cervical", "salivary_glands_left", "tumour", "anything"]:
        assert set(classes_of(name)) <= set(CLASSES)
    assert classes_of("rib_left_4") == ("ribs",)
    assert classes_of("lung_upper_lobe_left") == ("lung_left",)
    assert set(classes_of("lung")) == {"lung_left", "lung_right"}
    assert classes_of("anything") == (BACKGROUND,)


def test_resolve_keeps_order_and_drops_repeats() -> None:
    assert resolve("spleen, liver,spleen", LOCALIZED) == ("spleen", "liver")
    assert resolve("all", LOCALIZED) == LOCALIZED


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("livr", ["'livr'", "unknown structure", "liver"]),
        ("rib_left_4", ["not segmented by these weights"]),
        (" , ", ["no structure named"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(selection: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        resolve(selection, LOCALIZED)
    assert all(word in str(error.value) for word in words)
