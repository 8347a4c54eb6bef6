"""A run over a cohort with prompts: believed where they are given, part of a result's name, a reason where unusable."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctsam3d.imaging.dicom import Limits, read_series
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.packed_labels import read_packed
from ctsam3d.outcome import Reason, Rejected
from pipelines import driver
from pipelines.cohort_prompts import read_cohort_prompts
from pipelines.config import Privacy, RunConfig
from pipelines.driver import Summary
from pipelines.faults import UsageError
from pipelines.reasons import Failure
from pipelines.sandbox import Sandbox, SandboxFailure, memory_for
from pipelines.shards import SERIES_FILES, STRUCTURE_FILES, Layout, read_shard
from pipelines.store import Store, open_store
from pipelines.verify import verify
from tests.anatomy import ORGANS, anatomy_series
from tests.ctsam3d.label_files import label_map, organ, write_nifti, write_seg
from tests.phantom import Phantom, write_phantom
from tests.pipelines.test_cli import ctsam3d
from tests.s3_server import S3Server
from tests.threshold import STRUCTURES, ThresholdSource

# in the phantom's left lung, well inside, and elsewhere in it
IN_LUNG, DEEPER = (71.0, -3.0, 48.0), (71.0, 3.0, 40.0)
SERIES = [f"1.2.3.{number}" for number in range(4)]
NAMES = {name: label for label, name in enumerate(ORGANS, 1)}


def click(uid: str, structure: str, xyz_mm: tuple[float, float, float] = IN_LUNG) -> dict[str, Any]:
    return {"series_uid": uid, "structure": structure} | dict(
        zip(("x_mm", "y_mm", "z_mm"), xyz_mm, strict=True)
    )


def run(folder: Path, prompts: object = None, config: RunConfig = RunConfig(), **notes: Path) -> Summary:  # noqa: B008
    """A run in this process, by the threshold; `prompts` are clicks, or the address of label maps."""
    if isinstance(prompts, list):
        (folder / "clicks.json").write_text(json.dumps(prompts))
        prompts = folder / "clicks.json"
    stores = driver.open_stores(str(folder / "source"), str(folder / "output"))
    said = read_cohort_prompts(str(prompts)) if prompts else None
    return driver.run(stores, config, ThresholdSource(**notes), prompts=said, in_process=True)


def rows(output: Store | Path, layout: Layout = STRUCTURE_FILES) -> list[dict[str, Any]]:
    store = open_store(str(output)) if isinstance(output, Path) else output
    return [row for shard in layout.shards(store) for row in read_shard(store, layout, shard).to_pylist()]


def by_structure(output: Store | Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["series_instance_uid"], row["structure"]): row for row in rows(output)}


def by_series(output: Store | Path) -> dict[str, dict[str, Any]]:
    return {row["series_instance_uid"]: row for row in rows(output, SERIES_FILES)}


@pytest.fixture
def phantoms(tmp_path: Path) -> list[Phantom]:
    return [write_phantom(tmp_path / "source" / f"s{number}", number) for number in range(3)]


def test_clicks_are_believed_where_they_are_given_and_the_rest_is_found_without(
    tmp_path: Path, phantoms: list[Phantom]
) -> None:
    first, second, third = (phantom.series_uid for phantom in phantoms)
    summary = run(tmp_path, [click(first, "brain"), click(second, "Left lung"), click("1.9.9", "liver")])
    assert (summary.computed, summary.prompted, summary.prompts_unused) == (3, 2, 1)
    found = by_structure(tmp_path / "output")
    # nobody but a click knows a liver: it is asked of all, and of two nobody says anything
    assert {name for _, name in found} == {*STRUCTURES, "liver"}
    assert found[first, "brain"]["prompter"] == "clicks" and found[first, "brain"]["status"] == "ok"
    assert 2 * found[first, "brain"]["voxels"] == phantoms[0].lung_voxels
    assert found[first, "lung_left"]["status"] == "absent"  # it is what was clicked on
    assert found[second, "lung_left"]["prompter"] == "clicks"
    assert found[second, "lung_right"]["prompter"] is None  # the threshold's own
    assert not [row for (uid, _), row in found.items() if uid == third and row["prompter"]]
    assert verify(open_store(str(tmp_path / "output"))).ok


def test_a_changed_click_computes_its_series_alone(tmp_path: Path, phantoms: list[Phantom]) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    first, second, third = phantoms

    def segmented() -> list[int]:
        """Lung voxels of what was segmented since this was asked last."""
        found = [int(note.read_text()) for note in notes.glob("segment-*")]
        for note in notes.glob("segment-*"):
            note.unlink()
        return sorted(found)

    plain = run(tmp_path, notes=notes)
    assert plain.computed == 3 and plain.prompted is None and len(segmented()) == 3
    clicks = [click(first.series_uid, "lung_left"), click(second.series_uid, "lung_left")]
    prompted = run(tmp_path, clicks, notes=notes)
    # the third is what it was without prompts
    assert segmented() == sorted(p.lung_voxels for p in (first, second))
    assert prompted.computed == 2 and prompted.run_id != plain.run_id

    assert run(tmp_path, list(reversed(clicks)), notes=notes).computed == 0
    moved = [clicks[0], click(second.series_uid, "lung_left", DEEPER)]
    assert run(tmp_path, moved, notes=notes).computed == 1
    assert segmented() == [second.lung_voxels]
    added = [*moved, click(third.series_uid, "lung_left")]
    assert run(tmp_path, added, notes=notes).computed == 1
    assert segmented() == [third.lung_voxels]
    assert run(tmp_path, notes=notes).computed == 0 == run(tmp_path, clicks, notes=notes).computed
    assert segmented() == []
    keys = [row["record_key"] for row in rows(tmp_path / "output", SERIES_FILES)]
    assert len(set(keys)) == 3
    report = verify(open_store(str(tmp_path / "output")))
    assert report.ok and report.records == 3 + 2 + 1 + 1


def test_prompts_that_are_wrong_altogether_are_told_before_anything_is_computed(
    tmp_path: Path, phantoms: list[Phantom], weights: Path
) -> None:
    uid = phantoms[0].series_uid
    with pytest.raises(UsageError, match="says something of 1 series, and the source has none of them"):
        run(tmp_path, [click("1.9.9", "liver")])
    asking = RunConfig(structures=("lung_left", "thymus"))
    with pytest.raises(UsageError, match="'thymus': known, but neither these weights nor the prompts"):
        run(tmp_path, [click(uid, "liver")], asking)
    assert not [file for file in (tmp_path / "output").rglob("*") if file.is_file()]

    command = ["run", tmp_path / "source", tmp_path / "output", "--weights", weights, "--prompts"]
    missing = ctsam3d(*command, tmp_path / "none.json")
    assert missing.code == 1 and "none.json" in missing.line
    (tmp_path / "bad.json").write_text(json.dumps([click(uid, "livr")]))
    unknown = ctsam3d(*command, tmp_path / "bad.json")
    assert unknown.code == 1 and "row 1, field structure: 'livr'" in unknown.line
    assert not [file for file in (tmp_path / "output").rglob("*") if file.is_file()]


def test_clicks_that_cannot_be_of_their_series_are_its_row(tmp_path: Path, phantoms: list[Phantom]) -> None:
    first, second, third = (phantom.series_uid for phantom in phantoms)
    negative = click(second, "brain") | {"positive": False}
    summary = run(tmp_path, [click(first, "lung_left", (71.0, -3.0, 900.0)), negative])
    assert summary.series_by_status == {"ok": 1, "rejected": 2}
    series = by_series(tmp_path / "output")
    assert {series[uid]["reason"] for uid in (first, second)} == {Reason.PROMPTS_INVALID}
    assert "field z_mm: found 900, outside of the image" in series[first]["detail"]
    assert "brain has no positive click" in series[second]["detail"]
    assert series[third]["status"] == "ok"


def test_with_pseudonyms_prompts_go_by_the_true_uids_and_nothing_stored_names_them(
    tmp_path: Path, phantoms: list[Phantom]
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 40)
    config = RunConfig(privacy=Privacy(str(tmp_path / "key")))
    maps = tmp_path / "maps"
    maps.mkdir()
    uid = phantoms[0].series_uid
    (maps / f"{uid}.nii.gz").write_bytes(b"no NIfTI")
    assert run(tmp_path, maps, config).series_by_status == {"ok": 2, "rejected": 1}
    assert run(tmp_path, [click(uid, "lung_left")], config).computed == 1
    for file in (tmp_path / "output").rglob("*"):
        assert uid not in file.name and (file.is_dir() or uid.encode() not in file.read_bytes())


# Label maps.


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four series of the test anatomy, alike but for their UIDs and their noise."""
    source = tmp_path_factory.mktemp("anatomy") / "source"
    for number, uid in enumerate(SERIES):
        (source / uid).mkdir(parents=True)
        for name, data in objects(number):
            (source / uid / Path(name).name).write_bytes(data)
    return source


def objects(number: int) -> list[tuple[str, bytes]]:
    return anatomy_series(study_uid=f"1.2.9.{number}", series_uid=SERIES[number], seed=number)


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return read_series(objects(0)).volume.geometry


def seg_bytes(folder: Path, number: int, geometry: Geometry, **options: Any) -> bytes:
    masks = {name: organ(name, geometry) for name in ("liver", "spleen")}
    return write_seg(folder / "seg.dcm", objects(number), masks, **options).read_bytes()


def nifti_bytes(folder: Path, geometry: Geometry, **options: Any) -> bytes:
    return write_nifti(folder / "m.nii.gz", label_map(NAMES, geometry), geometry, **options).read_bytes()


def test_label_maps_that_cannot_be_used_are_their_series_rows(
    tmp_path: Path, anatomy: Path, geometry: Geometry
) -> None:
    maps, table = tmp_path / "maps", {label: name for name, label in NAMES.items()}
    maps.mkdir()
    beside = Geometry(geometry.shape_zyx, geometry.affine + np.array([[0, 0, 0, 2000.0]] * 3 + [[0] * 4]))
    moved = write_nifti(tmp_path / "moved.nii.gz", label_map(NAMES, geometry), beside, table=table)
    contents = {
        f"{SERIES[0]}.nii.gz": gzip.compress(b"\0" * 400),
        f"{SERIES[1]}.dcm": seg_bytes(tmp_path, 0, geometry),
        f"{SERIES[2]}.nii.gz": nifti_bytes(tmp_path, geometry, table=table),
        f"{SERIES[2]}.nii": b"another",
        f"{SERIES[3]}.nii.gz": moved.read_bytes(),
    }
    for name, data in contents.items():
        (maps / name).write_bytes(data)
    (tmp_path / "source").symlink_to(anatomy)
    config = RunConfig(structures=("lung_left", "liver"))
    summary = run(tmp_path, maps, config)
    assert summary.series_by_status == {"rejected": 4}
    found = by_series(tmp_path / "output")
    assert {row["reason"] for row in found.values()} == {Reason.PROMPTS_INVALID}
    details = [found[uid]["detail"] for uid in SERIES]
    assert details[0].startswith("MALFORMED: the label map has no names")
    assert details[1:3] == [
        "the labels were made of another series than the image",
        "found 2 label maps, expected one",
    ]
    assert details[3].startswith("no label asked for lies in the image")
    assert verify(open_store(str(tmp_path / "output"))).ok

    (maps / f"{SERIES[2]}.nii").unlink()
    assert run(tmp_path, maps, config).computed == 1
    mended = by_structure(tmp_path / "output")[SERIES[2], "liver"]
    assert (mended["status"], mended["prompter"]) == ("ok", "mask")
    assert np.allclose(mended["centroid_xyz_mm"], ORGANS["liver"][1], atol=3)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(60.0)
    yield box
    box.close()


def test_the_sandbox_gives_the_labels_that_reading_here_gives(
    tmp_path: Path, geometry: Geometry, sandbox: Sandbox
) -> None:
    names = json.dumps({label: name for name, label in NAMES.items()}).encode()
    nifti, seg = nifti_bytes(tmp_path, geometry), seg_bytes(tmp_path, 0, geometry)
    for file, *beside in ([nifti, names], [gzip.decompress(nifti), names], [seg]):
        mine = read_packed(file, beside[0] if beside else None, 1 << 20)
        parts = [("", data) for data in (file, *beside)]
        theirs = sandbox.read_labels(parts, Limits(), 1 << 20, memory_for(len(file), 1 << 27))
        assert theirs.sheet == mine.sheet and np.array_equal(theirs.bits, mine.bits)
        for label in mine.labels:
            mask = theirs.mask(label)
            assert mask is not None
            name = {"c": "liver", "Spleen": "spleen"}.get(label.text, label.text)
            assert mask.mask.sum() == organ(name, geometry).sum()
    with pytest.raises(Rejected, match="masks of more than 100 bytes"):
        sandbox.read_labels([("", nifti), ("", names)], Limits(), 100, memory_for(1 << 20, 1 << 27))


def test_a_label_map_that_unpacks_without_end_costs_the_child_alone(sandbox: Sandbox) -> None:
    header = bytearray(352)
    header[:4], header[344:348] = (348).to_bytes(4, "little"), b"n+1\0"
    shape = np.array([3, 1024, 1024, 1024, 1, 1, 1, 1], "<i2")
    header[40:56] = shape.tobytes()
    header[70:74] = np.array([64, 64], "<i2").tobytes()  # float64
    header[108:112], header[254:256] = np.float32(352).tobytes(), b"\1\0"
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        stream.write(bytes(header))
        for _ in range(32):
            stream.write(b"\0" * (8 << 20))
    names = b'{"1": "liver"}'
    with pytest.raises((SandboxFailure, Rejected)) as caught:
        sandbox.read_labels(
            [("", packed.getvalue()), ("", names)],
            Limits(),
            1 << 20,
            memory_for(len(packed.getvalue()), 1 << 20),
        )
    fault = caught.value
    assert (fault.failure if isinstance(fault, SandboxFailure) else fault.reason) in (
        Failure.MEMORY,
        Reason.MALFORMED,
    )


def test_damaged_label_maps_end_in_labels_or_a_reason(
    tmp_path: Path, geometry: Geometry, sandbox: Sandbox
) -> None:
    names = json.dumps({label: name for name, label in NAMES.items()}).encode()
    nifti = gzip.decompress(nifti_bytes(tmp_path, geometry))
    outcomes: Counter[str] = Counter()
    dice = random.Random(0)
    for file, *beside in [[nifti, names], [seg_bytes(tmp_path, 0, geometry)]] * 25:
        damaged = bytearray(file)
        for _ in range(8):
            damaged[dice.randrange(min(len(damaged), 4000))] = dice.randrange(256)
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        parts = [("", bytes(data)) for data in (damaged, *beside)]
        try:
            sandbox.read_labels(parts, Limits(), 1 << 24, memory_for(len(file), 1 << 24))
            outcomes["labels"] += 1
        except Rejected as refusal:
            outcomes[refusal.reason] += 1
        except SandboxFailure as failure:
            outcomes[failure.failure] += 1
    assert sum(outcomes.values()) == 50
    assert outcomes["labels"] and outcomes[Reason.MALFORMED]
    assert not outcomes[Failure.INTERNAL] + outcomes[Failure.DECODER_CRASH], outcomes


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(400)
def test_label_maps_and_the_localizer_share_a_run_on_the_cluster_with_the_bundled_weights(
    tmp_path: Path, anatomy: Path, geometry: Geometry, aws_environment: S3Server
) -> None:
    """Source and label maps in a bucket, through the command line: DICOM SEG, NIfTI, and a series with neither."""
    bucket = f"s3://{aws_environment.bucket}/run-prompted"
    store = open_store(bucket)
    for uid in SERIES[:3]:
        for file in sorted((anatomy / uid).iterdir()):
            store.put(f"source/{uid}/{file.name}", file.read_bytes())
    store.put(f"maps/{SERIES[0]}.nii.gz", nifti_bytes(tmp_path, geometry))
    store.put("maps/labels.json", json.dumps({label: name for name, label in NAMES.items()}).encode())
    store.put(f"maps/{SERIES[1]}.dcm", seg_bytes(tmp_path, 1, geometry))
    store.put("maps/9.9.nii", b"of a series elsewhere")
    output = tmp_path / "output"
    command = [
        "run",
        f"{bucket}/source",
        output,
        "--structures",
        "liver,heart,thymus",
        "--prompts",
        f"{bucket}/maps",
    ]

    done = ctsam3d(*map(str, command), **aws_environment.environment)

    assert done.code == 0, done.err + done.out
    table = dict(line.rsplit(maxsplit=1) for line in done.out.splitlines())
    assert (table["ok"], table["with prompts"], table["prompts unused"]) == ("3", "2", "1")
    found = by_structure(output)
    assert [found[uid, "liver"]["prompter"] for uid in SERIES[:3]] == ["mask", "mask", "localizer"]
    assert [found[uid, "heart"]["prompter"] for uid in SERIES[:3]] == ["mask", "localizer", "localizer"]
    for uid in SERIES[:3]:
        row = found[uid, "thymus"]
        assert (row["status"], row["reason"], row["prompter"]) == ("absent", "NOT_PROMPTED", None)
    for uid in SERIES[:2]:
        row = found[uid, "liver"]
        assert row["status"] in ("ok", "coarse") and np.allclose(
            row["centroid_xyz_mm"], ORGANS["liver"][1], atol=8
        )
    stages = dict(by_series(output)[SERIES[1]]["seconds_per_stage"])
    assert {"fetch_prompts", "prompts"} <= stages.keys()
    assert not {"fetch_prompts", "prompts"} & dict(by_series(output)[SERIES[2]]["seconds_per_stage"]).keys()
    assert verify(open_store(str(output))).ok

    again = ctsam3d(*map(str, command), **aws_environment.environment)
    assert "computed now     0" in again.out
