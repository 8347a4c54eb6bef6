"""A recipe is read whole or refused with the name of what is wrong; the bundled one is read by every training."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctsam3d.anatomy.localized import LOCALIZED
from ctsam3d.training.recipe import BUNDLED, matches, read_recipes


def test_the_bundled_recipe_names_every_network_and_only_known_structures() -> None:
    recipes = read_recipes()
    assert set(recipes.of) == {"localizer", "cubes", "cross_patch"}
    assert all(any(matches(name, [pattern]) for name in LOCALIZED) for pattern in recipes.favoured)
    assert "nsclc_lung1-001" in recipes.left_out
    assert abs(sum(recipes.of["cubes"].rounds) - 1) < 1e-9


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("batch = 2 ", "bath = 2 ", r"\[localizer\]: unknown 'bath'"),
        ("clip_norm = 1.0\n", "", r"\[localizer\]: 'clip_norm' is missing"),
        ("steps = 9000", 'steps = "many"', r"expected steps to be int, found 'many'"),
        ("steps = 9000", "steps = true", r"expected steps to be int, found True"),
        ("[cross_patch]", "[cross_patches]", r"expected sections .*'cross_patch'.*found .*'cross_patches'"),
        ("favour = 2.5", "favor = 2.5", r"expected \['favour', 'favoured'\] in \[sampling\]"),
        ("[localizer]", "[localizer", r"expected TOML"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    text = BUNDLED.read_text()
    assert old in text
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"mine.toml.*{complaint}"):
        read_recipes(recipe)
