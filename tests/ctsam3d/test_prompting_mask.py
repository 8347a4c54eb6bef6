"""Prompts from label maps: the same however a file is stored, whatever names it has; what cannot be is refused."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from ctsam3d.imaging.dicom import read_series
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.resample import mask_to_box, to_model_grid
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status
from ctsam3d.prompting.mask import MaskPrompter, read_mask
from ctsam3d.prompting.prompt import COARSE_FACTOR, Prompt, PromptError, PromptKind
from ctsam3d.segmentation.segmenter import Segmenter
from tests.anatomy import ORGANS, anatomy_hu, anatomy_series, true_volume_ml
from tests.ctsam3d.constant_network import with_constant
from tests.ctsam3d.label_files import label_map, organ, write_nifti, write_seg

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
IDS = {name: 3 + 2 * i for i, name in enumerate(ORGANS)}  # 3, 5, 7, ...
NAMES = {label: name for name, label in IDS.items()}
GRID = Geometry.from_spacing((25, 34, 40), (4.0, 3.8, 5.0), (-78.0, -62.7, -60.0))
# the label map's own grid: finer and smaller than the image's
FINE = Geometry.from_spacing((60, 50, 62), (2.1, 2.3, 1.7), (-64.0, -56.0, -50.0))


@pytest.fixture(scope="module")
def volume() -> Volume:
    index = np.stack(np.meshgrid(*map(np.arange, GRID.shape_zyx), indexing="ij"), axis=-1)
    return Volume(anatomy_hu(GRID.to_world_xyz_mm(index)), GRID)


@pytest.fixture(scope="module")
def grid(volume: Volume) -> Volume:
    return to_model_grid(volume)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return label_map(IDS, FINE)


@pytest.fixture(scope="module")
def expected(grid: Volume, labels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prompt]:
    path = write_nifti(tmp_path_factory.mktemp("m") / "labels.nii.gz", labels, FINE, beside=NAMES)
    return read_mask(path).prompts(grid, tuple(ORGANS))


def same(found: dict[str, Prompt], expected: dict[str, Prompt]) -> None:
    assert set(found) == set(expected)
    for name, prompt in found.items():
        assert prompt.coarse and expected[name].coarse
        assert np.array_equal(prompt.coarse.mask, expected[name].coarse.mask), name
        assert np.array_equal(prompt.coarse.probability, expected[name].coarse.probability), name


def centre_xyz_mm(prompt: Prompt, grid: Volume) -> np.ndarray:
    assert prompt.coarse is not None
    blocks = np.argwhere(prompt.coarse.mask)
    middle = (blocks * COARSE_FACTOR + (COARSE_FACTOR - 1) / 2).mean(axis=0)
    return grid.geometry.to_world_xyz_mm(middle)


def test_masks_have_the_organs_volumes_and_places(expected: dict[str, Prompt], grid: Volume) -> None:
    assert set(expected) == set(ORGANS)
    for name, prompt in expected.items():
        assert prompt.coarse is not None and prompt.clicks == ()
        blocks_ml = prompt.coarse.mask.sum() * 0.216
        assert blocks_ml == pytest.approx(true_volume_ml(name), rel=0.1), name
        assert np.abs(centre_xyz_mm(prompt, grid) - ORGANS[name][1]).max() < 1.5, name
        assert (prompt.coarse.probability[prompt.coarse.mask] > 0.5).all()
        assert (prompt.coarse.probability[~prompt.coarse.mask] < 0.5).all()
        assert 0.5 < prompt.coarse.confidence <= 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_however_the_file_is_stored_the_prompt_is_the_same(
    order: tuple[int, ...], labels: np.ndarray, grid: Volume, expected: dict[str, Prompt], tmp_path: Path
) -> None:
    for flips in product((1, -1), repeat=3):
        path = write_nifti(tmp_path / "labels.nii.gz", labels, FINE, order=order, flips=flips, beside=NAMES)
        same(read_mask(path).prompts(grid, tuple(ORGANS)), expected)


def test_an_oblique_label_map_lies_where_its_affine_says(grid: Volume, tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique = Geometry.from_spacing((70, 90, 90), (2, 2, 1.6), (-50.0, -110.0, -56.0), turned)
    path = write_nifti(tmp_path / "labels.nii.gz", label_map(IDS, oblique), oblique, beside=NAMES)
    for name, prompt in read_mask(path).prompts(grid, tuple(ORGANS)).items():
        assert np.abs(centre_xyz_mm(prompt, grid) - ORGANS[name][1]).max() < 1.5, name


def test_names_come_from_the_header_a_json_or_the_files_of_a_folder(
    labels: np.ndarray, grid: Volume, expected: dict[str, Prompt], tmp_path: Path
) -> None:
    header = write_nifti(tmp_path / "header.nii.gz", labels, FINE, table=NAMES)
    (tmp_path / "dcm2niix.json").write_text('{"Modality": "CT"}')  # a JSON beside it of another kind
    other = write_nifti(tmp_path / "dcm2niix.nii.gz", labels, FINE, table=NAMES)
    nested = write_nifti(tmp_path / "nested.nii.gz", labels, FINE)
    table = {"labels": {"0": "background"} | {str(label): name for label, name in NAMES.items()}}
    (tmp_path / "nested.json").write_text(json.dumps(table))
    folder = tmp_path / "segmentations"
    folder.mkdir()
    for name, label in IDS.items():
        write_nifti(folder / f"{name}.nii.gz", (labels == label).astype(np.uint8), FINE)
    write_nifti(
        folder / "kidney_left.nii.gz", np.zeros_like(labels), FINE
    )  # written although it is not there
    write_nifti(folder / "ct.nii.gz", labels, FINE)  # of no structure
    for path in (header, other, nested, folder):
        prompter = read_mask(path)
        assert prompter.kind is PromptKind.MASK
        same(prompter.prompts(grid, prompter.labelled), expected)
    assert "kidney_left" in read_mask(folder).labelled and read_mask(folder).unknown == 1


def test_totalsegmentators_parts_make_wholes(grid: Volume, tmp_path: Path) -> None:
    lung = organ("lung_left", FINE)
    upper = lung & (np.arange(60)[:, None, None] >= 47)
    spine = organ("vertebrae", FINE)
    low = spine & (np.arange(60)[:, None, None] < 30)
    labels = (upper + 2 * (lung & ~upper) + 3 * low + 4 * (spine & ~low)).astype(np.uint8)
    names = {
        1: "lung_upper_lobe_left",
        2: "lung_lower_lobe_left",
        3: "vertebrae_T8",
        4: "vertebrae_T7",
        5: "nose",
    }
    prompter = read_mask(write_nifti(tmp_path / "a.nii.gz", labels, FINE, beside=names))
    assert prompter.labelled == (
        "lung_lower_lobe_left",
        "lung_upper_lobe_left",
        "vertebrae_T7",
        "vertebrae_T8",
    )
    assert set(prompter.structures) - set(prompter.labelled) == {"lung_left", "vertebrae"}
    assert prompter.unknown == 1
    whole = prompter.prompts(grid, ("lung_left", "vertebrae"))
    for name in ("lung_left", "vertebrae"):
        assert whole[name].coarse.mask.sum() * 0.216 == pytest.approx(true_volume_ml(name), rel=0.1)
    parts = prompter.prompts(grid, ("vertebrae_T7", "vertebrae", "lung_upper_lobe_left"))
    assert not (parts["vertebrae_T7"].coarse.mask & parts["vertebrae"].coarse.mask).sum() > 20
    with pytest.raises(PromptError, match="lung_left is made of lung_lower_lobe_left, lung_upper_lobe_left"):
        prompter.prompts(grid, ("lung_left", "lung_upper_lobe_left", "lung_lower_lobe_left"))


def test_a_whole_of_which_a_part_is_missing_is_not_offered(labels: np.ndarray, tmp_path: Path) -> None:
    path = write_nifti(
        tmp_path / "a.nii.gz", labels, FINE, beside={3: "lung_upper_lobe_left", 5: "heart_myocardium"}
    )
    assert set(read_mask(path).structures) == {"lung_upper_lobe_left", "heart_myocardium"}


def test_a_vessel_thinner_than_a_block_is_followed_through_the_blocks_it_runs_through(
    grid: Volume, tmp_path: Path
) -> None:
    thin = Geometry.from_spacing((60, 60, 60), (1.0, 1.0, 2.0), (-40.0, -10.0, -58.0))
    z, y, x = np.mgrid[:60, :60, :60]
    tube = ((y - 20) ** 2 + (x - 20) ** 2 < 1.5**2).astype(np.uint8)  # 3 mm wide
    prompter = read_mask(
        write_nifti(tmp_path / "a.nii.gz", tube, thin, beside={1: "common_carotid_artery_left"})
    )
    (prompt,) = prompter.prompts(grid, prompter.structures).values()
    assert prompt.coarse.mask.sum() * 0.216 >= 0.9 * tube.sum() * thin.voxel_volume_ml
    along = prompt.coarse.mask.any(axis=(1, 2))
    assert along.sum() >= 0.8 * along.size
    assert prompt.coarse.mask.any(axis=0).sum() <= 4  # and nowhere beside it


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_a_dicom_segmentation_is_read_by_its_codes(
    kind: str, grid: Volume, expected: dict[str, Prompt], tmp_path: Path
) -> None:
    objects = anatomy_series(n=40, shape=(50, 60), spacing_xyz_mm=(2.5, 2.4, 3.0))
    image = read_series(list(objects)).volume
    named = ("heart", "lung_left", "lung_right", "liver", "spleen")
    masks = {name: organ(name, image.geometry) for name in named}
    path = write_seg(tmp_path / "seg.dcm", objects, masks, kind)
    prompter = read_mask(path)
    assert set(prompter.labelled) == set(named) and prompter.unknown == 0
    for name, prompt in prompter.prompts(grid, named).items():
        assert np.abs(centre_xyz_mm(prompt, grid) - ORGANS[name][1]).max() < 1.5, name
        overlap = (prompt.coarse.mask & expected[name].coarse.mask).sum()
        assert 2 * overlap / (prompt.coarse.mask.sum() + expected[name].coarse.mask.sum()) > 0.85, name
    same(
        read_mask(path.parent).prompts(grid, named), prompter.prompts(grid, named)
    )  # as the only file of a folder


def test_a_segmentation_of_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    objects = anatomy_series()
    image = read_series(list(objects)).volume
    masks = {"liver": organ("liver", image.geometry)}
    path = write_seg(tmp_path / "seg.dcm", objects, masks, frame_of_reference_uid="1.2.3.4")
    prompter = read_mask(path)
    series = read_series(list(objects)).facts.series_instance_uid
    prompter.check_study(series, "1.2.3.4")
    prompter.check_study("1.2.3.4.5", "1.2.3.4")  # another reconstruction of the same scan
    prompter.check_study(None, None)
    with pytest.raises(PromptError, match="frame of reference"):
        prompter.check_study(series, "1.2.3.5")
    with pytest.raises(PromptError, match="another series"):
        prompter.check_study("1.2.3.4.5", None)


def test_labels_beside_the_image_or_in_the_air_are_refused(
    labels: np.ndarray, grid: Volume, tmp_path: Path
) -> None:
    for shift, words in (
        ((0, 0, 4000.0), "no label asked for lies in the image"),
        ((-75.0, -30.0, 0), "lies in the body"),
    ):
        affine = FINE.affine.copy()
        affine[:3, 3] += shift
        moved = Geometry(FINE.shape_zyx, affine)
        path = write_nifti(tmp_path / "a.nii.gz", labels, moved, beside=NAMES)
        with pytest.raises(PromptError, match=words):
            read_mask(path).prompts(grid, ("liver", "lung_right"))


def test_a_mirrored_label_map_is_refused(labels: np.ndarray, grid: Volume, tmp_path: Path) -> None:
    """An affine whose x axis is turned around without the voxels: the fault that swaps left and right."""
    affine = FINE.affine.copy()
    affine[0] *= -1
    path = write_nifti(tmp_path / "a.nii.gz", labels, Geometry(FINE.shape_zyx, affine), beside=NAMES)
    with pytest.raises(PromptError, match="mirrored"):
        read_mask(path).prompts(grid, tuple(ORGANS))


def test_a_structure_without_voxels_is_absent_not_invented(
    labels: np.ndarray, grid: Volume, tmp_path: Path
) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", labels, FINE, beside=NAMES | {200: "pancreas", 13: "brain"})
    prompter = read_mask(path)
    assert {"pancreas", "brain"} <= set(prompter.structures)
    found = prompter.prompts(grid, ("liver", "pancreas", "thymus"))
    assert set(found) == {"liver"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no names", "no names: expected a.json beside it"),
        ("wrong json", "a.json: expected names by label"),
        ("wrong xml", "label table in the header"),
        ("bomb", "label table in the header"),
        ("strangers", "none of the 2 labels"),
        ("values", "not whole numbers"),
        ("text", "expected a .nii"),
        ("not nifti", "names|cannot be read"),
        ("empty folder", "expected masks such as"),
        ("two masks", "found 6 labels, expected one"),
        ("no seg", "DICOM segmentation"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_reason(
    fault: str, words: str, labels: np.ndarray, grid: Volume, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii.gz"
    match fault:
        case "no names":
            write_nifti(path, labels, FINE)
        case "wrong json":
            write_nifti(path, labels, FINE)
            (tmp_path / "a.json").write_text('["liver"]')
        case "wrong xml":
            write_nifti(path, labels, FINE, table={1: "]]> <Label"})
        case "bomb":
            write_nifti(
                path, labels, FINE, table={1: "]]></Label><!DOCTYPE x [<!ENTITY a 'b'>]><Label>&a;<![CDATA["}
            )
        case "strangers":
            write_nifti(path, labels, FINE, beside={3: "nose", 5: "tail"})
        case "values":
            write_nifti(path, labels.astype(np.float32) + 0.5, FINE, beside=NAMES)
        case "text":
            path = tmp_path / "a.txt"
            path.write_text("x" * 200)
        case "not nifti":
            path.write_bytes(b"not an image at all")
            (tmp_path / "a.json").write_text('{"1": "liver"}')
        case "empty folder":
            path = tmp_path
        case "two masks":
            path = tmp_path
            write_nifti(tmp_path / "liver.nii.gz", labels, FINE)
        case "no seg":
            path = tmp_path / "a.dcm"
            path.write_bytes(anatomy_series()[0][1])
    with pytest.raises(PromptError, match=words) as error:
        read_mask(path).prompts(grid, ("liver",))
    assert "CANARY" not in str(error.value)


def test_a_mask_goes_where_it_lies_and_is_cut_at_the_end_of_the_grid() -> None:
    """A box of 12 x 9 x 6 mm over the far corner of a grid of 1.5 mm, of which two thirds along x are inside."""
    grid = Geometry.from_spacing((20, 21, 22), (1.5, 1.5, 1.5))
    source = Geometry.from_spacing((2, 3, 4), (3, 3, 3), (22 * 1.5 - 7.26, 7.51, 12.01))
    (z, y, x), there = mask_to_box(np.ones((2, 3, 4), bool), source, grid, 4)
    assert all(s.start % 4 == 0 and s.stop % 4 == 0 for s in (z, y, x))
    whole = np.zeros((24, 24, 24), bool)
    whole[z, y, x] = there
    assert not whole[20:].any() and not whole[:, 21:].any() and not whole[:, :, 22:].any()
    index = np.argwhere(whole)
    assert np.array_equal(index.min(axis=0), [8, 5, 17]) and np.array_equal(index.max(axis=0), [11, 10, 21])
    apart = Geometry.from_spacing((2, 3, 4), (3, 3, 3), (500.0, 0.0, 0.0))
    assert mask_to_box(np.ones((2, 3, 4), bool), apart, grid, 4)[1].size == 0


def test_mask_prompts_go_through_the_network_to_labels_on_the_source_grid(
    volume: Volume, labels: np.ndarray, tmp_path: Path
) -> None:
    """With the bundled weights, for a structure that no localizer knows, stored the other way round."""
    names = {IDS["liver"]: "thymus", IDS["spleen"]: "spleen", IDS["heart"]: "brain"}
    there = np.where(np.isin(labels, [IDS["liver"], IDS["spleen"]]), labels, 0).astype(np.uint8)
    path = write_nifti(tmp_path / "a.nii.gz", there, FINE, order=(2, 0, 1), flips=(-1, 1, -1), beside=names)
    segmenter = Segmenter.load()
    assert "thymus" not in segmenter.structures
    found = segmenter.segment(volume, ("thymus", "spleen", "brain"), read_mask(path))
    assert found.findings["brain"].status is Status.ABSENT
    assert {f.prompter for f in found.findings.values()} == {PromptKind.MASK}
    for asked, real in (("thymus", "liver"), ("spleen", "spleen")):
        assert found.findings[asked].status in (Status.OK, Status.COARSE) and found.findings[asked].clicks > 0
        mask, true = found.labels == found.label_ids[asked], organ(real, volume.geometry)
        assert 2 * (mask & true).sum() / (mask.sum() + true.sum()) > 0.5


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_refinement_of_a_thin_structure_that_strays_is_not_believed(
    value: float, volume: Volume, tmp_path: Path
) -> None:
    """A 3 mm tube that interpolation between blocks would lose: neither a leak nor nothing is taken for it."""
    thin = Geometry.from_spacing((60, 60, 60), (1.0, 1.0, 1.0), (-40.0, -10.0, -30.0))
    _, y, x = np.mgrid[:60, :60, :60]
    tube = ((y - 20) ** 2 + (x - 20) ** 2 < 1.5**2).astype(np.uint8)
    path = write_nifti(tmp_path / "a.nii.gz", tube, thin, beside={1: "common_carotid_artery_left"})
    found = with_constant(Segmenter.load(), value).segment(
        volume, ("common_carotid_artery_left",), read_mask(path)
    )
    (finding,) = found.findings.values()
    assert (finding.status, finding.reason) == (Status.COARSE, "REFINEMENT_REJECTED")
    mask_ml = (found.labels == 1).sum() * volume.geometry.voxel_volume_ml
    assert 0 < mask_ml < 5 * tube.sum() / 1000


@pytest.mark.skipif(
    not (SHARED / "dicom" / "totalseg_example.labels.nii.gz").is_file(), reason="needs ../shared/data"
)
def test_a_real_label_map_of_totalsegmentator_lies_on_its_study() -> None:
    """Every pair of sides on its side, volumes those of the file, nothing unknown but what the catalogue lacks."""
    from ctsam3d.imaging.dicom import read_folder

    grid = to_model_grid(read_folder(SHARED / "dicom" / "totalseg_example").volume)
    prompter = read_mask(SHARED / "dicom" / "totalseg_example.labels.nii.gz")
    assert isinstance(prompter, MaskPrompter) and prompter.unknown == 0
    found = prompter.prompts(grid, prompter.labelled)
    assert len(found) > 25
    assert centre_xyz_mm(found["spleen"], grid)[0] > centre_xyz_mm(found["liver"], grid)[0] + 50
