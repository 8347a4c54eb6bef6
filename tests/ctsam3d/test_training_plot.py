"""The plot of a run is drawn from its logs, resumed runs and missing figures included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctsam3d.training.plot import _smooth, plot_run


def test_a_run_is_drawn(tmp_path: Path) -> None:
    rows = [f"{i},{i % 60},{1 / i},0.5,{'nan' if i % 3 else 0.4}" for i in range(1, 121)]
    (tmp_path / "log.csv").write_text("\n".join(["step,seconds,loss,norm,near", *rows]))
    (tmp_path / "validation.csv").write_text("step,loss,dice\n50,1.0,0.2\n100,0.9,0.3\n")
    plot_run(tmp_path, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plot_run(tmp_path, tmp_path / "run.png")


def test_running_means_leave_out_what_is_no_number() -> None:
    values = np.array([1.0, np.nan, 3.0])
    assert _smooth(values).tolist() == [1.0, 1.0, 2.0]
    long = np.arange(200.0)
    assert _smooth(long)[-1] == np.mean(long[-50:])
