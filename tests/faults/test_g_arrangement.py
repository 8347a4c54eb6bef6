"""Fault G14, where the header itself is wrong: a mirrored patient is told by where the organs lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from ctsam3d.anatomy.arrangement import _RULES, MARGIN_MM, Found, is_orientation_suspect
from ctsam3d.anatomy.measure import Measurement, measure
from ctsam3d.imaging.dicom import Limits
from ctsam3d.imaging.nifti import read_labels
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from pipelines.cohort.commit import orientation_suspect, series_row
from pipelines.cohort.discover import discover
from pipelines.cohort.load import load
from pipelines.cohort.measure import structure_rows
from pipelines.cohort.work import Work
from pipelines.store import open_store
from tests.anatomy import ORGANS, anatomy_series, measured_anatomy, segment_anatomy
from tests.faults.outcome import read, shared_data


def found_of(measured: Mapping[str, Measurement]) -> dict[str, Found]:
    return {
        name: Found(one.centroid_xyz_mm, one.volume_ml, one.truncated_faces) for name, one in measured.items()
    }


def places(volume: Volume) -> dict[str, Found]:
    return found_of(measured_anatomy(volume))


def test_G14_no_way_of_storing_a_patient_is_suspect() -> None:
    axes = np.eye(3)
    signs = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, -1), (-1, 1))
    for (x, y, _), (one, other) in zip(permutations(range(3)), signs, strict=True):
        orientation = (*(one * axes[x]), *(other * axes[y]))
        knobs = {"orientation": orientation, "n": 34, "shape": (34, 40), "spacing_xyz_mm": (4.0, 4.0, 4.0)}
        assert is_orientation_suspect(places(read(anatomy_series(**knobs)).volume)) is False


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["upside down", "back to front", "left to right"])
def test_G14_a_mirrored_patient_is_suspect(axis: int) -> None:
    volume = read(anatomy_series()).volume
    assert is_orientation_suspect(places(volume)) is False
    mirrored = replace(volume, hu=np.flip(volume.hu, axis))  # and a header that does not say so
    found = places(mirrored)
    assert set(found) == set(ORGANS)
    assert is_orientation_suspect(found) is True


def test_G14_the_rows_of_a_series_tell(tmp_path: Path) -> None:
    source = open_store(str(tmp_path), create=True)
    for name, data in anatomy_series():
        source.put(name, data)
    (ref,) = discover(source).manifest
    work = load(Work(ref, ref.record_key("config", "0" * 64)), source, Limits())
    assert work.volume is not None
    assert series_row(work).orientation_suspect is None  # nothing was looked for yet
    names = tuple(ORGANS)
    for flip, suspect in ((False, False), (True, True)):
        volume = replace(work.volume, hu=np.flip(work.volume.hu, 2)) if flip else work.volume
        rows = structure_rows(volume, segment_anatomy(volume), names)
        assert series_row(replace(work, structures=rows)).orientation_suspect is suspect
        doubtful = [
            replace(row, status=Status.COARSE) if row.structure == "liver" else row
            for row in rows
            if row.structure in ("liver", "spleen")
        ]
        assert orientation_suspect(doubtful) is None  # a mask that is not believed accuses nobody


def test_G14_two_organs_must_contradict_by_more_than_a_margin() -> None:
    def at(*place: float) -> Found:
        return Found(place, 1000.0)

    liver = at(0.0, 0.0, 0.0)
    near, far = 0.9 * MARGIN_MM, 1.1 * MARGIN_MM
    assert is_orientation_suspect({"liver": liver}) is None
    assert is_orientation_suspect({"liver": liver, "kidney_left": at(-80.0, 0.0, 0.0)}) is None
    for name, direction in (("spleen", (1, 0, 0)), ("vertebrae", (0, 1, 0)), ("heart", (0, 0, 1))):
        for distance, suspect in ((far, False), (-near, False), (-far, True)):
            where = at(*(distance * step for step in direction))
            assert is_orientation_suspect({"liver": liver, name: where}) is suspect


def test_G14_names_put_back_into_their_places_are_told_by_their_sizes() -> None:
    """As our own network does with a mirrored patient: it calls a part of the stomach the liver, the liver a spleen."""

    def sized(liver_ml: float, spleen_ml: float, *faces: str) -> bool | None:
        places = {"liver": (-111.0, -110.0, -189.0), "spleen": (93.0, -128.0, -183.0)}
        return is_orientation_suspect(
            {"liver": Found(places["liver"], liver_ml, faces), "spleen": Found(places["spleen"], spleen_ml)}
        )

    assert sized(61.0, 356.0) is True  # a real chest, mirrored
    assert sized(1406.0, 261.0) is False  # and as it is
    assert sized(1500.0, 2000.0) is False  # a very large spleen
    assert sized(61.0, 356.0, "right") is False  # the liver is cut off at its side
    assert sized(61.0, 356.0, "inferior") is True


KNOWN = {name for one, _, other in _RULES for name in (one, other)}
CASES = [
    *("labeled/totalseg_example_3mm", "label_maps/totalseg_s0011", "label_maps/totalseg_subject2"),
    *("label_maps/icrp110_am", "label_maps/icrp110_af", "labeled/onkodicom_thorax"),
]


@pytest.mark.parametrize("name", CASES)
def test_G14_real_patients_are_not_suspect_and_their_mirror_images_are(name: str) -> None:
    folder = shared_data(name)
    labels, geometry = read_labels(folder / "labels.nii.gz")
    names = {v: int(k) for k, v in json.loads((folder / "labels.json").read_text())["labels"].items()}
    wanted = {k: v for k, v in names.items() if k in KNOWN}
    volume = Volume(np.zeros(labels.shape, np.int16), geometry)
    told = [is_orientation_suspect(_found(volume, labels, wanted))]
    told += [is_orientation_suspect(_found(volume, np.flip(labels, axis), wanted)) for axis in range(3)]
    assert told[0] is False
    assert any(told[1:])


def _found(volume: Volume, labels: np.ndarray, wanted: dict[str, int]) -> dict[str, Found]:
    return found_of(measure(volume, np.ascontiguousarray(labels), wanted))
