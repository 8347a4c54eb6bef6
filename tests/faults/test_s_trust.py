"""Faults S01-S06, S11, S12, S14, S16: what is read is not run, what is named is not reached, what is open is closed."""

from __future__ import annotations

import ast
import json
import pickle
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from ctsam3d.network import checkpoint
from ctsam3d.network.checkpoint import CheckpointError
from ctsam3d.outcome import Status
from pipelines.cli import run_command
from pipelines.cohort.load import load
from pipelines.cohort.work import Work
from pipelines.config import ConfigError, limits_of, parse_config
from pipelines.faults import ExitCode
from pipelines.identity import record_path, series_key
from pipelines.installation import check_versions
from pipelines.manifest import SeriesRef
from pipelines.segmenters import BundledOrFile
from pipelines.store import InvalidLocation, ObjectInfo, StoreError, open_store
from tests.faults.cohort import run, write_series
from tests.faults.stores import MortalStore

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "ctsam3d", ROOT / "pipelines"]


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_S01_a_pickle_in_the_place_of_weights_is_not_unpickled(tmp_path: Path, capsys) -> None:
    """Changed: runs take safetensors alone, named in every row by their SHA-256: a list of allowed pickles would add
    nothing. The published pickle is converted once, by hand, with `weights_only`."""
    import torch

    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Malice(touched)))
    assert touched.exists()  # the payload works where it is let
    touched.unlink()
    evil = tmp_path / "params.pth"
    torch.save({"model_state_dict": {"a": torch.zeros(1), "b": Malice(touched)}}, evil)
    source = tmp_path / "source"
    source.mkdir()
    write_series(open_store(str(source)), 0)
    attempts = (
        ["weights", "convert", str(evil), str(tmp_path / "out.safetensors")],
        ["weights", "info", str(evil)],
        ["run", str(source), str(tmp_path / "output"), "--weights", str(evil)],
    )
    for command in attempts:
        assert run_command(command) == ExitCode.USAGE
        assert "Traceback" not in capsys.readouterr().err
    assert not touched.exists()


def test_S02_python_beside_weights_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code imports `config.py` from the folder of a checkpoint: ours does not look at it."""
    from ctsam3d.segmentation.segmenter import WEIGHTS_FOLDER

    weights = tmp_path / "nano.safetensors"
    weights.write_bytes((WEIGHTS_FOLDER / "nano.safetensors").read_bytes())
    for name in ("config.py", "__init__.py", "conftest.py", "sitecustomize.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'touched')!r}, 'w').close()")
    exec(
        compile((tmp_path / "config.py").read_text(), "config.py", "exec")
    )  # the payload works where it is let
    (tmp_path / "touched").unlink()
    monkeypatch.chdir(tmp_path)
    checkpoint.load(weights)
    assert BundledOrFile(str(weights)).identity().weights_sha256 == checkpoint.sha256(weights)
    assert not (tmp_path / "touched").exists()


def safetensors(header: dict, tail: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tail


@pytest.mark.parametrize(
    "content",
    [
        safetensors({}, length=1 << 62),
        safetensors({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 8]}}, bytes(8)),
        safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 62]}}, bytes(8)),
        safetensors(
            {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for i in range(999)}, bytes(4)
        ),
    ],
    ids=["header", "shape", "offset", "overlap"],
)
def test_S03_weights_that_claim_more_than_they_are_cost_nothing(tmp_path: Path, content: bytes) -> None:
    import resource

    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield f"{file.name}: {ast.unparse(node.func)}", node


def test_S04_nothing_that_runs_what_it_reads_is_ever_called() -> None:
    banned = (
        "eval",
        "exec",
        "__import__",
        "pickle.load",
        "pickle.loads",
        "yaml.load",
        "marshal.loads",
        "dill.load",
    )
    seen = 0
    for name, call in calls():
        function = name.partition(": ")[2]
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert function not in banned, name
        assert words.get("allow_pickle", "False") == "False", name
        assert words.get("shell", "False") == "False", name
        if function == "torch.load":
            seen += 1
            assert words.get("weights_only") == "True", name
    assert seen >= 1
    for file in (path for package in PACKAGES for path in package.rglob("*.py")):
        imported = {
            name.name.partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
        }
        assert not imported & {"pickle", "cloudpickle", "dill", "marshal", "shelve"}, file.name


def test_S05_ray_is_open_to_nobody_who_has_no_token() -> None:
    """A node's other ports listen on every interface whatever the dashboard does: the security group closes them."""
    cluster = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    starts = [
        line
        for name in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in cluster[name]
        if "ray start" in line
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and not any("0.0.0.0" in line for line in starts)
    spans = [
        span["CidrIp"]
        for rule in cluster["provider"]["security_group"]["IpPermissions"]
        for span in rule["IpRanges"]
    ]
    assert spans and all(span.startswith("10.") for span in spans)
    local = [call for name, call in calls() if name == "cluster.py: ray.init"]
    assert len(local) == 1
    assert '"include_dashboard": False' in (ROOT / "pipelines" / "cluster.py").read_text()
    floors = {Requirement(text).name: Requirement(text) for text in project()["dependencies"]}
    assert not floors["ray"].specifier.contains(
        "2.59.9"
    )  # older ones answer a browser, or run a table's types


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "settings",
    [
        {"aws_secret_access_key": "CANARYSECRET"},
        {"resources": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "CANARYSECRET"}}},
        {"runtime_env": {"env_vars": {"AWS_SESSION_TOKEN": "CANARYSECRET"}}},
    ],
)
def test_S06_settings_take_no_credentials_and_do_not_repeat_them(settings: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings)
    assert "unknown key" in str(caught.value) and "CANARY" not in str(caught.value)


def test_S06_no_environment_is_handed_to_ray() -> None:
    assert not [name for name, call in calls() if any(word.arg == "runtime_env" for word in call.keywords)]
    for package in PACKAGES:
        assert not [file for file in package.rglob("*.py") if "runtime_env=" in file.read_text()]


@pytest.mark.parametrize(
    "address", ["s3://CANARYKEY:CANARYSECRET@bucket/p", "s3://bucket/p?secret=CANARYSECRET"]
)
def test_S06_an_address_with_credentials_in_it_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(address)
    assert "CANARY" not in str(caught.value)


ODD = st.text(st.characters(codec="utf-8") | st.sampled_from("./\\\0"), max_size=40)


@given(ODD, st.sampled_from(["", "records/", "../", "/", "a/../", "a//"]))
def test_S11_no_key_leaves_the_store(
    tmp_path_factory: pytest.TempPathFactory, text: str, prefix: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "s11"
    inside = folder / "inside"
    inside.mkdir(parents=True, exist_ok=True)
    (folder / "secret").write_bytes(b"CANARY")
    store = open_store(str(inside))
    for key in (prefix + text, f"{text}/../../secret", "../secret", str(folder / "secret")):
        for use in (
            store.get,
            lambda k: store.put(k, b"new"),
            lambda k: store.put_if_absent(k, b"new"),
            store.delete,
        ):
            try:
                assert use(key) != b"CANARY"
            except StoreError:
                continue
    assert (folder / "secret").read_bytes() == b"CANARY"
    assert {path.name for path in folder.iterdir()} == {"inside", "secret"}


@given(ODD)
def test_S11_whatever_names_a_series_its_record_has_a_path_of_hexadecimal_digits(text: str) -> None:
    key = series_key(text, text)
    assert set(key) <= set("0123456789abcdef") and len(key) == 32
    assert record_path(key) == f"records/{key[:2]}/{key}.parquet"
    if set(text) - set("0123456789abcdef"):
        with pytest.raises(ValueError, match="record"):
            record_path(text)


@pytest.mark.parametrize(
    "key", ["../outside", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest"]
)
def test_S12_a_listing_reaches_nothing_outside_the_source(tmp_path: Path, key: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "outside").write_bytes(b"CANARY")
    source = open_store(str(tmp_path / "source"))
    ref = SeriesRef("0" * 32, None, None, Status.OK, (ObjectInfo(key, 6, None),))
    done = load(Work(ref, "0" * 32), source, limits_of(parse_config({})))
    assert done.status is Status.FAILED and done.reason in ("STORE_READ", "OBJECT_VANISHED")
    assert "CANARY" not in repr(done)


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://bucket",
        "gs://bucket",
        "az://box",
        "ftp://host",
        "s3a://b",
    ],
)
def test_S12_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(InvalidLocation):
        open_store(address)


def test_S14_every_dependency_has_a_floor_and_one_exact_version_that_was_tested() -> None:
    """Changed: no hashes; they differ between wheels of one version, and a list of them would name the places they came
    from. The exact versions are what the tests ran with; a command refuses to run with anything below the floors."""
    declared = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact and version and "://" not in line and not line.startswith("-"), line
            pins[name.lower().replace("_", "-")] = version
    for text in declared:
        need = Requirement(text)
        assert any(bound.operator == ">=" for bound in need.specifier), text
        if need.name.lower() in pins:
            assert need.specifier.contains(pins[need.name.lower()]), text
    missing = {Requirement(text).name.lower() for text in declared} - pins.keys()
    assert not missing
    check_versions()


def test_S14_a_library_below_its_floor_ends_a_run_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from pipelines import installation

    monkeypatch.setattr(installation, "version", lambda name: "2.9" if name == "ray" else "999")
    assert run_command(["run", "nowhere", "nowhere-else"]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("ctsam3d: ray 2.9, expected >=")


def test_S16_containers_are_of_a_pinned_image_and_have_no_more_rights_than_they_need() -> None:
    """Changed: the image is Ray's own, whose user is `ray` and not root; its file system is not read-only, for `ray up`
    installs this package in it."""
    docker = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["docker"]
    name, _, tag = docker["image"].partition(":")
    assert name == "rayproject/ray" and tag.partition("-")[0].count(".") == 2
    options = " ".join(docker["run_options"])
    for banned in (
        "--privileged",
        "--user",
        "-v ",
        "--volume",
        "docker.sock",
        "--cap-add",
        "--pid",
        "--env",
        "-e ",
    ):
        assert banned not in options
    assert "worker_run_options" not in docker and "head_run_options" not in docker


def test_S16_the_nodes_role_reads_studies_and_writes_results_and_does_nothing_else() -> None:
    policy = json.loads((ROOT / "infra" / "node-role.json").read_text())
    allowed = [rule for rule in policy["Statement"] if rule["Effect"] == "Allow"]
    rights: dict[str, set[str]] = {}
    for rule in allowed:
        assert set(rule) <= {
            "Sid",
            "Effect",
            "Action",
            "Resource",
            "Condition",
        }  # no NotAction, no NotResource
        for action in rule["Action"]:
            assert action.startswith("s3:") and "*" not in action
            for resource in rule["Resource"]:
                bucket, _, rest = resource.removeprefix("arn:aws:s3:::").partition("/")
                assert "*" not in bucket and (not rest or rest.endswith("-PREFIX/*"))
                assert bool(rest) != (action == "s3:ListBucket")
                if action == "s3:ListBucket":
                    assert all(p.endswith("-PREFIX/*") for p in rule["Condition"]["StringLike"]["s3:prefix"])
                rights.setdefault(bucket, set()).add(action)
    assert rights == {
        "STUDIES-BUCKET": {"s3:ListBucket", "s3:GetObject"},
        "RESULTS-BUCKET": {
            "s3:ListBucket",
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:AbortMultipartUpload",
        },
    }
    (denied,) = [rule for rule in policy["Statement"] if rule["Effect"] == "Deny"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert {resource.removesuffix("/*").rpartition(":")[2] for resource in denied["Resource"]} == set(rights)


def test_a_record_is_written_by_the_names_made_here_alone() -> None:
    """S11, seen from the other side: of a run over a source with odd names, no key has any of them."""
    from pipelines.driver import Stores

    source, output = MortalStore("source"), MortalStore("output")
    write_series(source, 0, folder="CANARY^A, B (1)/ü%2F..x")
    run(Stores(source, output))
    assert not [key for key in output.objects("") if "CANARY" in key]
