"""Whole structures from a volume: storage order does not matter, every request is answered, nothing is invented."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.imaging.dicom import read_folder
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.nifti import read_volume
from ctsam3d.imaging.resample import to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.network.checkpoint import CheckpointError, load
from ctsam3d.network.config import CUBE_VOXELS, SPACING_MM
from ctsam3d.outcome import Status
from ctsam3d.prompting.clicks import ClickPrompter, ClickRow
from ctsam3d.prompting.prompt import Click, PromptKind
from ctsam3d.segmentation.decoder import ModelOutputInvalid
from ctsam3d.segmentation.result import StudySegmentation
from ctsam3d.segmentation.segmenter import LOCALIZER_FILE, Segmenter, weights_path
from tests.ctsam3d.constant_network import with_constant

ABDOMEN = Path(__file__).parents[2] / "demo" / "studies" / "totalseg_abdomen"
STRUCTURES = ("liver", "spleen", "brain")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load()


@pytest.fixture(scope="module")
def abdomen() -> Volume:
    """The bundled abdomen at half its in-plane resolution, so that tests are quick."""
    volume = read_folder(ABDOMEN).volume
    affine = volume.geometry.affine.copy()
    affine[:3, :2] *= 2
    hu = np.ascontiguousarray(volume.hu[:, ::2, ::2])
    return Volume(hu, Geometry(hu.shape, affine))


@pytest.fixture(scope="module")
def answer(segmenter: Segmenter, abdomen: Volume):  # noqa: ANN201
    return segmenter.segment(abdomen, STRUCTURES)


def test_every_request_is_answered_and_labels_are_on_the_source_grid(answer, abdomen: Volume) -> None:
    assert tuple(answer.findings) == STRUCTURES
    assert answer.labels.shape == abdomen.hu.shape and answer.labels.dtype == np.uint8
    assert set(np.unique(answer.labels)) == {0, *answer.label_ids.values()}
    assert answer.findings["liver"].status in (Status.OK, Status.COARSE)
    assert answer.findings["liver"].clicks > 0 and 0.5 < answer.findings["liver"].confidence <= 1


def test_what_is_out_of_the_field_of_view_is_absent_not_invented(answer) -> None:
    assert answer.findings["brain"].status is Status.ABSENT
    assert answer.findings["brain"].volume_soft_ml is None and "brain" not in answer.label_ids


def test_the_liver_lies_on_the_right_and_is_made_of_liver(answer, abdomen: Volume) -> None:
    mask = answer.labels == answer.label_ids["liver"]
    assert 100 < mask.sum() * abdomen.geometry.voxel_volume_ml < 1500  # of a liver, what 40 mm hold
    centre = abdomen.geometry.to_world_xyz_mm(np.argwhere(mask).mean(axis=0))
    body = abdomen.geometry.to_world_xyz_mm(np.argwhere(abdomen.hu > -300).mean(axis=0))
    assert centre[0] < body[0] - 20  # LPS+: x grows to the left
    assert 20 < np.median(abdomen.hu[mask]) < 250


def test_clicks_correct_what_is_found_without_them_and_leave_alone_what_is_far(
    segmenter: Segmenter, abdomen: Volume
) -> None:
    def mask_of(found: StudySegmentation) -> NDArray[np.bool_]:
        return found.labels == found.label_ids["liver"]

    automatic = mask_of(segmenter.segment(abdomen, ["liver"]))
    # the liver voxel farthest to the left: "not the liver"; the one in its middle: "the liver"
    inside = np.argwhere(ndimage.binary_erosion(automatic, iterations=2))
    left, middle = inside[inside[:, 2].argmax()], inside[len(inside) // 2]
    clicks = [
        ClickRow(row, "liver", Click(tuple(abdomen.geometry.to_world_xyz_mm(voxel)), positive))
        for row, (voxel, positive) in enumerate([(middle, True), (left, False)], 1)
    ]
    corrected = segmenter.segment(abdomen, ["liver"], ClickPrompter(clicks))
    assert corrected.findings["liver"].prompter is PromptKind.CLICKS
    changed = np.argwhere(mask_of(corrected) != automatic)
    assert len(changed)
    distance_mm = np.abs(changed[:, None] - [middle, left])[..., 2] * abdomen.geometry.spacing_xyz_mm[0]
    # of the two cubes the second may be around the first click: nothing changes beyond either
    assert (distance_mm.min(axis=1) <= CUBE_VOXELS * SPACING_MM + 3).all()


@pytest.mark.parametrize("axis", [0, 2])
def test_a_flipped_copy_gives_the_flipped_masks(
    segmenter: Segmenter, abdomen: Volume, answer, axis: int
) -> None:
    affine = abdomen.geometry.affine.copy()
    column = 2 - axis
    affine[:3, 3] += affine[:3, column] * (abdomen.hu.shape[axis] - 1)
    affine[:3, column] *= -1
    flipped = Volume(np.ascontiguousarray(np.flip(abdomen.hu, axis)), Geometry(abdomen.hu.shape, affine))
    found = segmenter.segment(flipped, STRUCTURES)
    assert np.array_equal(np.flip(found.labels, axis), answer.labels)


def test_a_nifti_copy_gives_the_same_masks(
    segmenter: Segmenter, abdomen: Volume, answer, tmp_path: Path
) -> None:
    import nibabel

    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ abdomen.geometry.affine
    nibabel.save(nibabel.Nifti1Image(abdomen.hu.transpose(2, 1, 0), ras), tmp_path / "ct.nii.gz")
    found = segmenter.segment(read_volume(tmp_path / "ct.nii.gz"), STRUCTURES)
    assert np.array_equal(found.labels, answer.labels)
    assert found.findings == answer.findings


def test_what_is_there_does_not_depend_on_what_is_asked_for(segmenter: Segmenter, abdomen: Volume) -> None:
    grid = to_model_grid(abdomen)
    together = segmenter.localizer.locate(grid, segmenter.structures)
    for name in ("liver", "femur_left", "brainstem"):
        assert set(segmenter.localizer.locate(grid, [name])) == {name} & set(together)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_refinement_that_strays_is_not_believed(
    segmenter: Segmenter, abdomen: Volume, value: float
) -> None:
    found = with_constant(segmenter, value).segment(abdomen, ("spleen", "liver"))
    for name in found.label_ids:
        assert found.findings[name].status is Status.COARSE
        assert found.findings[name].reason == "REFINEMENT_REJECTED"


def test_weights_say_of_which_structures_refinement_is_not_believed(
    segmenter: Segmenter, abdomen: Volume, answer: StudySegmentation
) -> None:
    facts = {"coarse_prompt": True, "acceptance": {"liver": 1.0}}
    careful = Segmenter(segmenter.model, segmenter.localizer, segmenter.device, "", facts, segmenter.settings)
    found = careful.segment(abdomen, STRUCTURES).findings
    assert (found["liver"].status, found["liver"].reason) == (Status.COARSE, "REFINEMENT_REJECTED")
    assert found["spleen"].status is answer.findings["spleen"].status is Status.OK


def test_weights_say_how_sure_the_network_must_be_of_a_voxel(segmenter: Segmenter, abdomen: Volume) -> None:
    def spleen(**thresholds: float) -> NDArray[np.bool_]:
        facts = {"coarse_prompt": True, "thresholds": thresholds}
        network = (segmenter.model, segmenter.localizer, segmenter.device, "")
        found = Segmenter(*network, facts, segmenter.settings).segment(abdomen, ("spleen",))
        assert found.findings["spleen"].status is Status.OK
        return found.labels > 0

    one_half, sure = spleen(liver=0.99), spleen(spleen=0.99, default=0.5)
    assert 0.7 < sure.sum() / one_half.sum() < 0.99
    assert not (sure & ~one_half).any()
    assert np.array_equal(spleen(default=0.99), sure)


def test_numbers_that_are_none_are_never_thresholded(segmenter: Segmenter, abdomen: Volume) -> None:
    with pytest.raises(ModelOutputInvalid):
        with_constant(segmenter, float("nan")).segment(abdomen, ("liver",))


def test_an_image_of_air_has_no_structures(segmenter: Segmenter) -> None:
    air = Volume(np.full((20, 40, 40), -1000, dtype=np.int16), Geometry.from_spacing((20, 40, 40), (4, 4, 4)))
    found = segmenter.segment(air, segmenter.structures)
    assert not found.labels.any() and {f.status for f in found.findings.values()} == {Status.ABSENT}


def test_bundled_weights_say_what_they_are() -> None:
    _, info = load(weights_path("nano"))
    assert info.facts.network == "nano" and info.facts.licence == "CC-BY-NC-SA-4.0"
    assert info.facts.training["steps"] > 0
    with pytest.raises(CheckpointError, match="nano"):
        weights_path("no_such_weights")
    with pytest.raises(CheckpointError, match="localizer"):
        from ctsam3d.prompting.localizer import Localizer

        Localizer.load(weights_path("nano"), torch.device("cpu"))
    assert LOCALIZER_FILE.stat().st_size < 16 * 2**20
