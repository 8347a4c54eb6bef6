"""The pictures of an evaluation: which masks are kept for them, and that they can be drawn of what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ctsam3d.evaluation.metrics import compare
from ctsam3d.evaluation.pictures import Worst, draw_curve
from ctsam3d.evaluation.score import Method, Score, Scored
from ctsam3d.imaging.geometry import Geometry
from ctsam3d.imaging.volume import Volume
from ctsam3d.outcome import Status

GEOMETRY = Geometry.from_spacing((20, 30, 40), (1, 1, 3))
VOLUME = Volume(np.zeros((20, 30, 40), dtype=np.int16), GEOMETRY)


def scored(name: str, shift: int, method: Method = Method.AUTOMATIC, clicks: int | None = None) -> Scored:
    truth, found = (np.zeros(GEOMETRY.shape_zyx, dtype=bool) for _ in range(2))
    truth[5:15, 10:20, 5:15] = True
    found[5:15, 10:20, 5 + shift : 15 + shift] = True
    metrics = compare(found, truth, GEOMETRY, surfaces=False)
    score = Score("case", name, method, clicks, Status.OK, None, None, metrics, (), None)
    return Scored(score, truth, found)


def test_the_worst_are_kept_and_drawn(tmp_path: Path) -> None:
    worst = Worst(2)
    for name, shift in (("good", 1), ("worst", 9), ("better", 3), ("bad", 6)):
        worst.consider(VOLUME, scored(name, shift))
    assert worst.draw(tmp_path / "worst.png")
    assert {score.structure for _, _, score, _ in worst._kept} == {"worst", "bad"}
    image = imread(tmp_path / "worst.png")[..., :3]
    green = (image[..., 1] > image[..., 0] + 0.3) & (image[..., 1] > image[..., 2] + 0.3)
    red = (image[..., 0] > image[..., 1] + 0.3) & (image[..., 0] > image[..., 2] + 0.3)
    assert green.sum() > 100 and red.sum() > 100


@pytest.mark.parametrize("most", [0, 3])
def test_nothing_is_drawn_of_nothing(tmp_path: Path, most: int) -> None:
    worst = Worst(most)
    if most == 0:
        worst.consider(VOLUME, scored("bad", 9))
    assert not worst.draw(tmp_path / "worst.png")
    assert not (tmp_path / "worst.png").exists()


def test_the_curve_is_drawn_of_targets_with_few_and_many_clicks(tmp_path: Path) -> None:
    scores = [scored("liver", 5).score]
    scores += [scored("liver", 6 - n, Method.CLICKS, n).score for n in (1, 2, 3)]
    scores += [scored("aorta", 0, Method.CLICKS, 1).score]
    draw_curve(scores, tmp_path / "clicks.png")
    assert imread(tmp_path / "clicks.png").std() > 0
