"""Every name has its classes, and a selection text becomes names or a helpful error."""

import pytest

from ctsam3d.anatomy.catalogue import CATALOGUE
from ctsam3d.anatomy.localized import BACKGROUND, CLASSES, LOCALIZED, classes_of
from ctsam3d.anatomy.structures import resolve


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
    assert resolve("all", LOCALIZED, ("liver",)) == ("liver",)
    assert resolve("Left Kidney, kidney_left, IVC", LOCALIZED) == ("kidney_left", "inferior_vena_cava")


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("livr", ["'livr'", "unknown structure", "liver"]),
        ("rib_left_4", ["neither these weights nor the prompts"]),
        (" , ", ["no structure named"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(selection: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        resolve(selection, LOCALIZED)
    assert all(word in str(error.value) for word in words)
