"""The bundled studies as the benchmarks need them: whole, or as copies that count as other series."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

_FOLDER = Path(__file__).parent.parent / "demo" / "studies"
CHEST = _FOLDER / "cptac_pda_chest"
ABDOMEN = _FOLDER / "totalseg_abdomen"


def copies(study: Path, into: Path, count: int, first: int = 0) -> None:
    """Write `count` copies of a study, a folder each, under UIDs of their own; the pixels are the same."""
    datasets = [dcmread(path) for path in sorted(study.iterdir()) if path.suffix != ".txt"]
    for n in range(first, first + count):
        folder = into / f"study-{n:05}"
        folder.mkdir(parents=True)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            uid = generate_uid(entropy_srcs=[keyword, str(n)])
            for dataset in datasets:
                setattr(dataset, keyword, uid)
        for i, dataset in enumerate(datasets):
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(n), str(i)])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(folder / f"{i:04}.dcm", enforce_file_format=True)
