"""Labelled cases: what is read, what is refused and how, and what of it is scored."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ctsam3d.anatomy.localized import LOCALIZED
from ctsam3d.evaluation.cases import CaseError, LabelNames, read_case, read_names
from ctsam3d.evaluation.targets import Target, check_wanted, targets_of
from ctsam3d.imaging.geometry import Geometry
from tests.ctsam3d.labelled_case import write_case
from tests.phantom import SHAPE_ZYX, SPACING_XYZ_MM, phantom_hu, write_phantom

GEOMETRY = Geometry.from_spacing(SHAPE_ZYX, SPACING_XYZ_MM, (-160, -120, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hu = phantom_hu(1)
    return write_case(tmp_path / "one", hu, (hu == -850) * 3, GEOMETRY, {3: "lung", 4: "liver"}, ["lung"])


def case_of(folder: Path):  # noqa: ANN201
    return read_case(folder, read_names(folder))


def test_a_case_is_read_with_what_is_known_of_it(folder: Path) -> None:
    case = case_of(folder)
    assert case.name == "one" and case.volume.hu.shape == case.labels.shape == SHAPE_ZYX
    assert case.names == LabelNames({3: "lung", 4: "liver"}, frozenset({"lung"}), whole=False)
    assert np.array_equal(case.labels == 3, case.volume.hu == -850)


def test_labels_stored_in_another_order_are_brought_onto_the_image(folder: Path) -> None:
    image = nibabel.load(folder / "labels.nii.gz")
    flipped = image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nibabel.save(flipped, folder / "labels.nii.gz")
    case = case_of(folder)
    assert np.array_equal(case.labels == 3, case.volume.hu == -850)


def test_the_image_may_be_a_folder_of_dicom_objects(folder: Path) -> None:
    (folder / "ct.nii.gz").unlink()
    write_phantom(folder / "ct", 1)
    case = case_of(folder)
    assert np.array_equal(case.labels == 3, case.volume.hu == -850)


def test_names_as_segment_writes_them_are_all_there_is(folder: Path) -> None:
    (folder / "labels.json").write_text('{"3": "lung_left"}')
    assert read_names(folder) == LabelNames({3: "lung_left"}, frozenset({"lung_left"}), whole=True)


@pytest.mark.parametrize("file", ["ct.nii.gz", "labels.nii.gz", "labels.json"])
def test_a_missing_or_damaged_file_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"\x00damaged")
    with pytest.raises(CaseError, match=file):
        case_of(folder)
    (folder / file).unlink()
    with pytest.raises(CaseError, match=f"{file}: missing"):
        case_of(folder)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1], "expected an object, found list"),
        ({"labels": {}}, "ids from 1 on"),
        ({"labels": {"one": "lung"}}, "ids from 1 on"),
        ({"labels": {"0": "lung"}}, "ids from 1 on"),
        ({"labels": {"3": 3}}, "ids from 1 on"),
        ({"labels": {"3": "lung"}, "annotated": "lung"}, "list of names"),
        ({"labels": {"3": "lung"}, "annotated": ["lungs"]}, "without an id in `labels`: lungs"),
    ],
)
def test_names_of_another_form_are_refused(folder: Path, document: object, words: str) -> None:
    (folder / "labels.json").write_text(json.dumps(document))
    with pytest.raises(CaseError, match="labels.json") as refused:
        read_names(folder)
    assert words in str(refused.value)


def test_labels_without_a_name_are_refused(folder: Path) -> None:
    (folder / "labels.json").write_text('{"labels": {"1": "liver"}, "annotated": []}')
    with pytest.raises(
        CaseError, match=r"labels\.nii\.gz: holds labels that .*labels\.json does not name: 3"
    ):
        case_of(folder)


def test_of_voxels_with_an_id_that_is_no_labels_nothing_is_known(folder: Path) -> None:
    image = nibabel.load(folder / "labels.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    assert case_of(folder).unknown is None
    labels[0] = 255
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), folder / "labels.nii.gz")
    unknown = case_of(folder).unknown
    assert unknown is not None and unknown[:, :, 0].all() and not unknown[:, :, 1:].any()
    (folder / "labels.json").write_text('{"3": "lung", "255": "liver"}')
    assert case_of(folder).unknown is None


def test_labels_on_another_grid_are_refused(folder: Path) -> None:
    labels = np.asarray(nibabel.load(folder / "labels.nii.gz").dataobj)
    affine = nibabel.load(folder / "labels.nii.gz").affine
    nibabel.save(nibabel.Nifti1Image(labels[:-1], affine), folder / "labels.nii.gz")
    with pytest.raises(CaseError, match=r"shape \(12, 40, 47\) \(z, y, x\), expected .* \(12, 40, 48\)"):
        case_of(folder)
    moved = affine.copy()
    moved[2, 3] += 8
    nibabel.save(nibabel.Nifti1Image(labels, moved), folder / "labels.nii.gz")
    with pytest.raises(CaseError, match=r"labels\.nii\.gz: lies up to 8\.0 mm off the grid of ct\.nii\.gz"):
        case_of(folder)


def names(*annotated: str, also: tuple[str, ...] = (), whole: bool = False) -> LabelNames:
    return LabelNames(dict(enumerate((*annotated, *also), 1)), frozenset(annotated), whole)


def targets(known: LabelNames, wanted: list[str] | None = None) -> dict[str, Target]:
    return {target.name: target for target in targets_of(known, LOCALIZED, wanted)}


def test_what_is_not_annotated_is_not_scored() -> None:
    assert targets(names("liver", also=("spleen", "heart"))) == {"liver": Target("liver", ("liver",), (1,))}


def test_parts_are_joined_where_all_of_them_are_known() -> None:
    lobes = ("lung_upper_lobe_left", "lung_lower_lobe_left")
    assert targets(names(*lobes)) == {"lung_left": Target("lung_left", ("lung_left",), (1, 2))}
    one_lobe = targets(names(lobes[0]))
    assert one_lobe == {lobes[0]: Target(lobes[0], (), (1,))}  # by itself, with clicks alone
    assert set(targets(names(lobes[0], whole=True))) == {"lung_left"}

    assert set(targets(names("vertebrae_T12"))) == {"vertebrae_T12"}
    spine = targets(names("vertebrae_T12", "vertebrae_L1", also=("vertebrae_L2",)))
    assert spine == {"vertebrae": Target("vertebrae", ("vertebrae",), (1, 2))}
    assert set(targets(names("rib_left_3", "rib_right_3"))) == {"ribs"}
    assert set(targets(names("rib_left_3"))) == {"rib_left_3"}
    assert set(targets(names("atrial_appendage_left"))) == {"atrial_appendage_left"}


def test_a_label_of_several_structures_is_compared_with_all_of_them() -> None:
    assert targets(names("lung")) == {"lung": Target("lung", ("lung_left", "lung_right"), (1,))}


def test_what_the_localizer_does_not_know_is_left_to_clicks() -> None:
    found = targets(names("lung_tumour", "brachiocephalic_trunk"))
    assert {target.classes for target in found.values()} == {()}
    assert targets_of(names("liver"), ["spleen"]) == (Target("liver", (), (1,)),)


def test_a_part_can_be_asked_for_by_its_own_name() -> None:
    known = names("vertebrae_L1", "vertebrae_L2", "liver")
    assert targets(known, ["vertebrae_L2"]) == {"vertebrae_L2": Target("vertebrae_L2", (), (2,))}
    assert set(targets(known, ["vertebrae", "spleen"])) == {"vertebrae"}


def test_a_name_that_nobody_knows_is_refused_with_those_that_are_near() -> None:
    check_wanted(["liver", "odd_gland"], LOCALIZED, [names("odd_gland")])
    with pytest.raises(ValueError, match="'livr': unknown structure; nearest known: liver"):
        check_wanted(["livr"], LOCALIZED, [])
    with pytest.raises(ValueError, match="'xyzzy': unknown structure; known: .*spleen"):
        check_wanted(["xyzzy"], LOCALIZED, [])
