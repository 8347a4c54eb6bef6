"""A mask is a label where it was found right; elsewhere, and around it, nothing is known."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ctsam3d.anatomy.localized import UNKNOWN
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.training import __main__ as commands
from ctsam3d.training.review import BUNDLED, Right, read_reviews, reviewed, write_case

_GRID = Geometry((20, 30, 30), np.diag([2.0, 2.0, 4.0, 1.0]))


def _tube() -> np.ndarray:
    mask = np.zeros(_GRID.shape_zyx, dtype=bool)
    mask[:, 10:16, 10:16] = True
    return mask


def test_beyond_its_slices_neither_mask_nor_background_is_known() -> None:
    right = {"aorta": Right(first=4, last=12, around_mm=6)}
    labels, names = reviewed(np.zeros(_GRID.shape_zyx, dtype=np.uint8), {}, {"aorta": _tube()}, right, _GRID)
    assert names == {1: "aorta"}
    assert (labels[4:13] == np.where(_tube()[4:13], 1, 0)).all()
    beyond = labels[[0, 3, 13, 19]]
    assert (beyond[:, 7:19, 10:16] == UNKNOWN).all()  # 6 mm are three voxels
    assert (beyond[:, 10:16, 7:19] == UNKNOWN).all()
    assert not beyond[:, 7, 7].any()  # further than that from the mask, if beside it on both axes
    assert not labels[:, :7].any() and not labels[:, 19:].any()


def test_a_crumb_is_doubtful_and_what_was_drawn_stays() -> None:
    mask = _tube()
    mask[2:4, 25, 25] = True
    drawn = np.zeros(_GRID.shape_zyx, dtype=np.uint8)
    drawn[:, :12] = 5
    labels, names = reviewed(drawn, {5: "heart"}, {"aorta": mask}, {"aorta": Right()}, _GRID)
    assert names == {5: "heart", 6: "aorta"}
    assert (labels[:, :12] == 5).all()
    assert (labels[:, 12:16, 10:16] == 6).all()
    assert (labels[2:4, 25, 25] == UNKNOWN).all()
    assert np.count_nonzero(labels == UNKNOWN) == 2


def test_a_structure_that_was_drawn_is_not_replaced_by_its_mask() -> None:
    drawn = np.zeros(_GRID.shape_zyx, dtype=np.uint8)
    drawn[:, 10:14, 10:14] = 3
    labels, names = reviewed(drawn, {3: "aorta"}, {"aorta": _tube()}, {"aorta": Right()}, _GRID)
    assert names == {3: "aorta"}
    assert np.array_equal(labels, drawn)


def test_the_bundled_lists_are_read_and_another_key_refused(tmp_path: Path) -> None:
    assert read_reviews()["cort_liver"]["spleen"] == Right(last=119)
    second = read_reviews(BUNDLED.with_name("review_2.toml"))
    assert second["waw_tace_1211"]["sacrum"] == Right(first=33, last=62, dense=True)
    third = read_reviews(BUNDLED.with_name("review_3.toml"))
    assert third["waw_tace_1211"]["sacrum"] == Right(first=33, last=62, dense=True)
    assert third["cort_liver"]["vertebrae"] == Right(first=14, dense=True, soft_hu=120.0)
    file = tmp_path / "list.toml"
    for wrong in ("{ from = 3 }", '{ first = "3" }', "{ dense = 1 }", "3"):
        file.write_text(f"[case]\nliver = {wrong}\n")
        with pytest.raises(ValueError, match="list.toml: .case. liver: expected a table of"):
            read_reviews(file)


def test_the_command_writes_cases_on_the_images_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine = np.diag([-3.0, 3.0, -5.0, 1.0])  # the first slice is the one at the head
    for place in ("data/set/drawn", "segmented/drawn", "segmented/bare", "data/unlabeled"):
        (tmp_path / place).mkdir(parents=True)
    hu = np.zeros((12, 12, 10), dtype=np.int16)
    found = np.zeros(hu.shape, dtype=np.uint8)
    found[3:8, 3:8] = 7
    for name, array in (
        ("data/set/drawn/ct", hu), ("data/unlabeled/bare", hu),
        ("data/set/drawn/labels", (found[::-1] == 7).astype(np.uint8)),
        ("segmented/drawn/labels", found), ("segmented/bare/labels", found),
    ):  # fmt: skip
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    drawn = {"labels": {"1": "liver"}, "annotated": ["liver"], "source": "somebody"}
    (tmp_path / "data/set/drawn/labels.json").write_text(json.dumps(drawn))
    for case in ("drawn", "bare"):
        (tmp_path / "segmented" / case / "labels.json").write_text('{"7": "spleen"}')
    (tmp_path / "list.toml").write_text("[drawn]\nspleen = {}\n[bare]\nspleen = { first = 4 }\n")

    words = ("review", "data", "segmented", "out", "--list", "list.toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["training", *words])
    commands.main()

    both = np.asarray(nibabel.load(tmp_path / "out/drawn/labels.nii.gz").dataobj)
    assert np.array_equal(both == 1, found[::-1] == 7)
    assert np.array_equal(both == 2, (found == 7) & (found[::-1] == 0))
    assert json.loads((tmp_path / "out/drawn/labels.json").read_text()) == {
        "labels": {"1": "liver", "2": "spleen"}, "annotated": ["liver", "spleen"], "source": "somebody",
        "reviewed": ["spleen"],
    }  # fmt: skip
    bare = np.asarray(nibabel.load(tmp_path / "out/bare/labels.nii.gz").dataobj)
    assert (bare[..., 6:] == UNKNOWN)[3:8, 3:8].all()  # the four slices nearest the feet
    assert np.array_equal(bare[..., :6], (found[..., :6] == 7).astype(np.uint8))
    assert np.array_equal(nibabel.load(tmp_path / "out/bare/ct.nii.gz").affine, affine)

    # a later review replaces what an earlier one took, and not what was drawn
    smaller = np.where(np.arange(12)[:, None, None] < 5, found, 0)
    nibabel.save(nibabel.Nifti1Image(smaller, affine), tmp_path / "segmented/drawn/labels.nii.gz")
    (tmp_path / "list.toml").write_text("[drawn]\nspleen = {}\n")
    (tmp_path / "reviewed").mkdir()
    (tmp_path / "out").rename(tmp_path / "reviewed/set")
    monkeypatch.setattr("sys.argv", ["training", "review", "reviewed", *words[2:]])
    commands.main()
    both = np.asarray(nibabel.load(tmp_path / "out/drawn/labels.nii.gz").dataobj)
    assert np.array_equal(both == 1, found[::-1] == 7)
    assert np.array_equal(both == 2, (smaller == 7) & (found[::-1] == 0))


def test_what_a_bone_does_not_enclose_is_no_bone_where_it_is_soft_and_else_unknown(tmp_path: Path) -> None:
    hu = np.full((30, 30, 12), 40, dtype=np.int16)
    hu[5:25, 5:25] = 240
    hu[8:22, 8:22] = -20  # marrow
    hu[2:5] = -100  # fat on one side, and soft tissue on the other
    found = np.zeros(hu.shape, dtype=np.uint8)
    found[2:28, 5:25] = 3
    for folder in ("data/unlabeled", "found/case"):
        (tmp_path / folder).mkdir(parents=True)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])  # along LPS+
    for name, array in (("data/unlabeled/case", hu), ("found/case/labels", found)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "found/case/labels.json").write_text('{"3": "hip_left"}')

    def labels(right: Right, out: str) -> np.ndarray:
        write_case(tmp_path / "data", tmp_path / "found", "case", {"hip_left": right}, tmp_path / out)
        return np.asarray(nibabel.load(tmp_path / out / "labels.nii.gz").dataobj)

    known = labels(Right(dense=True), "out")
    assert (known[6:24, 6:24] == 1).all()
    assert not known[2, 5:25].any()
    assert (known[27, 6:24] == UNKNOWN).all()
    assert not labels(Right(dense=True, soft_hu=60.0), "softer")[27, 5:25].any()
