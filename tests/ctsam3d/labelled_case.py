"""Write labelled case folders as evaluation reads them: arrays and names in, files out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging.geometry import Geometry


def write_case(
    folder: Path,
    hu: NDArray[Any],
    labels: NDArray[Any],
    geometry: Geometry,
    names: Mapping[int, str],
    annotated: Sequence[str] | None = None,
) -> Path:
    """The folder, with image and labels on one grid; all names are annotated unless it is said which are."""
    folder.mkdir(parents=True, exist_ok=True)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16).T, ras), folder / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8).T, ras), folder / "labels.nii.gz")
    document = {
        "labels": {str(label): name for label, name in names.items()},
        "annotated": sorted(names.values()) if annotated is None else list(annotated),
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return folder
