"""Settings: what a file may say, how a mistake is named, and what makes results another's."""

from pathlib import Path

import pytest

from pipelines.config import ConfigError, Resources, RunConfig, meaning, parse_config, read_config


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("")
    assert read_config(file) == RunConfig()


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('structures = "liver, spleen"\n[limits]\nmin_slices = 10\n[resources]\nreplicas = 2\n')
    config = read_config(file)
    assert config.structures == ("liver", "spleen")
    assert config.limits.min_slices == 10
    assert config.limits.max_object_bytes == RunConfig().limits.max_object_bytes
    assert config.resources == Resources(replicas=2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"resources": {"replcas": 2}}, ("resources.replcas", "unknown key", "'replicas'")),
        ({"zzz": 1}, ("zzz", "unknown key", "structures, weights, precision, limits, resources")),
        ({"resources": {"replicas": 0}}, ("resources.replicas", "found 0", "greater than or equal to 1")),
        ({"resources": {"cpus_per_load": 1}}, ("resources.cpus_per_load", "found 1", "less than 1")),
        ({"limits": 3}, ("limits", "found 3", "expected a table")),
        ({"structures": []}, ("structures", "found []", "at least one name")),
        ({"weights": 3}, ("weights", "found 3", "expected a string")),
    ],
)
def test_a_mistake_is_one_line_with_key_found_and_expected(values: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert len(str(caught.value).splitlines()) == 1
    assert all(word in str(caught.value) for word in words)


def test_every_mistake_of_a_file_gets_its_own_line_with_the_file_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("weights = 3\nlimits = 4\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: ") for line in lines)


@pytest.mark.parametrize("text", [None, "a = ", b"\xff\xfe"])
def test_a_file_that_is_missing_or_no_toml_is_one_line(tmp_path: Path, text: str | bytes | None) -> None:
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert len(str(caught.value).splitlines()) == 1


def test_resources_change_no_result_and_limits_settings_and_structures_do() -> None:
    names, settings = ("liver", "spleen"), {"threshold": 0.5}
    plain = meaning(RunConfig(), names, settings)
    assert meaning(RunConfig(resources=Resources(replicas=7)), names, settings) == plain
    assert meaning(RunConfig(structures=("spleen", "liver")), names[::-1], settings) == plain
    assert meaning(RunConfig(), ("liver",), settings) != plain
    assert meaning(RunConfig(), names, {"threshold": 0.6}) != plain
    assert meaning(parse_config({"limits": {"min_slices": 9}}), names, settings) != plain
