"""A case folder becomes arrays along LPS+, whichever way its files are stored."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ctsam3d.anatomy.localized import CLASSES
from ctsam3d.training.cases import Case, decided, read_case
from ctsam3d.training.synthesize import paint


def _write(folder: Path, flip: bool) -> None:
    """A block on the patient's left (LPS x above the middle), stored either way."""
    folder.mkdir()
    labels = np.zeros((40, 30, 20), dtype=np.uint8)  # nibabel order: x, y, z
    labels[28:36, 10:20, 5:15] = 1
    hu = np.where(labels > 0, 100, -1000).astype(np.int16)
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])  # RAS+: x grows to the left, y to the back
    if flip:
        labels, hu = labels[::-1], hu[::-1]
        affine = affine @ np.array([[-1, 0, 0, 39], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(hu, affine), folder / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    (folder / "labels.json").write_text(json.dumps({"labels": {"1": "spleen"}, "annotated": ["spleen"]}))


@pytest.mark.parametrize("spacing_mm", [3.0, 1.5, 6.0])
def test_storage_order_does_not_matter_and_left_stays_left(tmp_path: Path, spacing_mm: float) -> None:
    _write(tmp_path / "one", flip=False)
    _write(tmp_path / "other", flip=True)
    one, other = (read_case(tmp_path / name, spacing_mm) for name in ("one", "other"))
    assert one.hu is not None and other.hu is not None
    assert np.array_equal(one.labels, other.labels)
    assert np.abs(one.hu.astype(int) - other.hu.astype(int)).max() <= 1
    assert one.labels.shape == tuple(int(np.ceil(n * 3 / spacing_mm)) for n in (20, 30, 40))
    x_mm = (np.argwhere(one.labels == 1)[:, 2].mean() + 0.5) * spacing_mm
    assert x_mm == pytest.approx(32 * 3, abs=spacing_mm)
    # image and labels have one centre: resampling shifted neither
    weight = one.hu.astype(float) + 1000
    for axis, centre in enumerate((10, 15, 32)):
        along = weight.sum(axis=tuple(i for i in range(3) if i != axis))
        centroid = ((np.arange(len(along)) + 0.5) * along).sum() / along.sum() * spacing_mm
        assert centroid == pytest.approx(centre * 3, abs=0.05)


def test_the_largest_piece_of_a_sides_salivary_glands_is_its_parotid(tmp_path: Path) -> None:
    _write(tmp_path / "case", flip=False)
    labels = np.zeros((40, 30, 20), dtype=np.uint8)
    labels[28:36, 10:20, 5:15] = labels[30:33, 24:27, 5:9] = 4
    labels[5:9, 5:9, 5:9] = 6
    nibabel.save(
        nibabel.Nifti1Image(labels, np.diag([-3.0, -3.0, 3.0, 1.0])), tmp_path / "case/labels.nii.gz"
    )
    names = {"4": "salivary_glands_left", "5": "salivary_glands_right", "6": "spleen"}
    document = {"labels": names, "annotated": list(names.values()), "source": "ICRP publication 110"}
    (tmp_path / "case/labels.json").write_text(json.dumps(document))
    case = read_case(tmp_path / "case", 3.0)
    voxels = {case.names[label]: int((case.labels == label).sum()) for label in case.names}
    assert voxels == {
        "other_salivary_glands_left": 36, "salivary_glands_right": 0, "spleen": 64, "parotid_gland_left": 800,
    }  # fmt: skip
    is_it, known = decided(case.allowed(), "parotid_gland_left")
    assert is_it[case.labels].sum() == 800 and known[case.labels].all()


def test_a_phantoms_brain_is_no_stem_where_none_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    labels = np.zeros((40, 30, 60), dtype=np.uint8)
    labels[5:35, 5:25, 10:50] = 1  # 90 mm wide, 120 high
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-3.0, -3.0, 3.0, 1.0])), folder / "labels.nii.gz")
    document = {"labels": {"1": "brain"}, "annotated": ["brain"], "source": "ICRP publication 110"}
    (folder / "labels.json").write_text(json.dumps(document))
    case = read_case(folder, 3.0)
    allowed = case.allowed()[case.labels]
    brain, stem = (allowed[..., CLASSES.index(name)] for name in ("brain", "brainstem"))
    inside = labels.T > 0
    assert np.array_equal(brain & inside, inside)
    assert not stem[36:50].any() and not stem[10:50, 5:25, 5:9].any() and stem[10:35, 5:25, 11:29].all()


def test_a_name_of_several_structures_leaves_out_what_has_a_label_of_its_own() -> None:
    names = {1: "skull", 2: "mandible", 3: "brain", 4: "pulmonary_vein", 5: "heart"}
    labels = np.zeros((2, 2, 2), dtype=np.uint8)

    def classes(label: int, known: set[str]) -> set[str]:
        return set(Case("case", None, labels, None, names, {}, frozenset(known), 3.0).classes(label))

    assert classes(1, {"skull", "mandible"}) == {"skull"}
    # of some of the image alone, as far as anybody knows
    assert classes(1, {"skull"}) == {"skull", "mandible"}
    assert classes(3, {"brain"}) == {"brain", "brainstem"}
    # where one ends and the other begins is drawn differently everywhere
    assert "heart" in classes(4, {"heart"})


def test_painted_tissues_are_where_their_labels_are() -> None:
    ids = np.zeros((32, 32, 32), dtype=np.uint8)
    ids[4:28, 4:28, 4:16] = 1
    ids[4:28, 4:28, 16:28] = 2
    hu = paint(np.random.default_rng(0), ids, {1: "lung_left", 2: "liver"}, 3.0)
    assert hu[8:24, 8:24, 7:13].mean() < -500 < -50 < hu[8:24, 8:24, 19:25].mean() < 250
    assert hu[0, 0, 0] < -800
    again = paint(np.random.default_rng(0), ids, {1: "lung_left", 2: "liver"}, 3.0)
    assert np.array_equal(hu, again)
