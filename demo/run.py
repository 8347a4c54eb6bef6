"""The demo: bundled CT studies through the one command, then what an analyst sees of them.

1. Lays out a source of three series under demo/input: a chest, an upper abdomen (its blanked identifiers filled in),
   and a damaged copy of the chest that lacks a slice.
2. Runs `ctsam3d run` and `ctsam3d verify` on it. The damaged copy must be refused, so the run ends with exit code 2.
3. Prints the volumes with DuckDB from the published tables, and draws an overlay picture of each study.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
INPUT, OUTPUT = HERE / "input", HERE / "output"
STUDIES = HERE / "studies"
MISSING_SLICE = 40
REFUSED_SERIES = 2  # the exit code of a run that finished with rejected series


def main() -> int:
    """Run everything; 0 when the demo ended as it should."""
    lay_out()
    started = time.monotonic()
    code = ctsam3d("run", str(INPUT), str(OUTPUT))
    if code != REFUSED_SERIES:
        print(f"expected exit code {REFUSED_SERIES} (one series is refused), found {code}", file=sys.stderr)
        return 1
    if ctsam3d("verify", str(OUTPUT)) != 0:
        return 1
    show_tables()
    pictures = draw_pictures()
    tables = [str(path.relative_to(Path.cwd())) for path in sorted((OUTPUT / "tables").iterdir())]
    print("\nTables    " + "\n          ".join(tables))
    print("Pictures  " + "\n          ".join(str(path.relative_to(Path.cwd())) for path in pictures))
    print(f"\nThree series in {time.monotonic() - started:.0f} s.")
    return 0


def ctsam3d(*arguments: str) -> int:
    """Run the command line as a user would, showing what it prints; gives its exit code."""
    print(f"\n$ ctsam3d {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=False).returncode


def lay_out() -> None:
    """Make demo/input anew unless it is there: the same input again is not computed again."""
    if INPUT.exists():
        return
    import pydicom
    from pydicom.uid import generate_uid

    partial = INPUT.with_name("input.partial")
    shutil.rmtree(partial, ignore_errors=True)
    chest = sorted((STUDIES / "cptac_pda_chest").glob("*.dcm"))
    (partial / "chest").mkdir(parents=True)
    for path in chest:
        shutil.copy(path, partial / "chest")
    rewritten = {
        "abdomen": sorted((STUDIES / "totalseg_abdomen").glob("CT.*")),
        "chest_lacking_a_slice": chest[:MISSING_SLICE] + chest[MISSING_SLICE + 1 : 2 * MISSING_SLICE],
    }
    for name, paths in rewritten.items():
        (partial / name).mkdir()
        for number, path in enumerate(paths):
            slice_ = pydicom.dcmread(path)
            slice_.StudyInstanceUID = generate_uid(entropy_srcs=["demo study", name])
            slice_.SeriesInstanceUID = generate_uid(entropy_srcs=["demo series", name])
            slice_.SOPInstanceUID = generate_uid(entropy_srcs=["demo slice", name, str(number)])
            slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
            slice_.save_as(partial / name / f"{number:04d}.dcm")
    partial.rename(INPUT)


def show_tables() -> None:
    """The volumes, one column a series, and the fate of every series."""
    import duckdb

    database = duckdb.connect()
    for table in ("structures", "series"):
        database.execute(f"create view {table} as from '{OUTPUT}/tables/{table}/*.parquet'")
    print("\nEvery series, kept or not:\n")
    database.sql(
        "select right(series_instance_uid, 8) as series, status, reason, slices, manufacturer from series order by all"
    ).show(max_width=120)
    print("Volumes in ml, status where it is not ok:\n")
    database.sql(
        """
        pivot (
            select structure, right(series_instance_uid, 8) as series,
                   coalesce(round(volume_ml, 1)::varchar, '-') || if(status = 'ok', '', ' ' || status) as volume
            from structures where series_instance_uid in (from series where status != 'rejected' select series_instance_uid)
        ) on series using first(volume) order by structure
        """
    ).show(max_rows=60, max_width=120)


def draw_pictures() -> list[Path]:
    """An overlay of each study that has masks."""
    import duckdb
    import numpy as np

    from ctsam3d.anatomy.overlay import draw_overlay
    from ctsam3d.imaging.dicom import read_folder
    from pipelines.masks import decode_mask

    pictures = []
    for folder in sorted(path for path in INPUT.iterdir() if path.name != "chest_lacking_a_slice"):
        series = read_folder(folder)
        rows = (
            duckdb.sql(f"select * from '{OUTPUT}/tables/masks/*.parquet' order by structure")
            .filter(f"series_instance_uid = '{series.facts.series_instance_uid}'")
            .to_arrow_table()
            .to_pylist()
        )
        labels = np.zeros(series.volume.hu.shape, dtype=np.uint8)
        legend = {}
        for label, row in enumerate(rows, 1):
            mask = decode_mask(row)
            labels[mask] = label
            legend[row["structure"]] = (label, f"{mask.sum() * series.volume.geometry.voxel_volume_ml:.0f} ml")
        pictures.append(OUTPUT / f"{folder.name}.png")
        draw_overlay(series.volume, labels, legend, pictures[-1])
    return pictures


if __name__ == "__main__":
    sys.exit(main())
