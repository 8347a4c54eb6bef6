"""A refined mask is believed or the coarse one kept; how sure of a voxel one must be goes for the refined one alone."""

import numpy as np

from ctsam3d.outcome import Status
from ctsam3d.prompting.prompt import COARSE_FACTOR, CoarseStructure
from ctsam3d.segmentation.accept import Belief, Found, accepted
from ctsam3d.segmentation.patches import patch_around
from ctsam3d.segmentation.settings import Settings
from ctsam3d.segmentation.stitch import Canvas

_SHAPE = (96, 96, 96)


def _found(belief: Belief) -> Found:
    """A ball of blocks, and a cube around it in which the network is less sure the farther from the middle."""
    z, y, x = np.indices((24, 24, 24)) - 11.5
    probability = np.where(z**2 + y**2 + x**2 < 25, np.float32(0.8), np.float32(0))
    coarse = CoarseStructure(probability > 0.5, probability, 0.8)
    patch = patch_around("liver", (48, 48, 48))
    canvas = Canvas.around(probability, [patch], _SHAPE, COARSE_FACTOR)
    z, y, x = np.indices((64, 64, 64)) - 31.5
    canvas.add(patch, (1 / (1 + np.exp(np.sqrt(z**2 + y**2 + x**2) - 22))).astype(np.float32))
    return accepted(coarse, canvas, 1, Settings(), belief)


def test_a_refined_mask_holds_the_voxels_that_the_network_is_sure_enough_of() -> None:
    one_half, sure = _found(Belief(0.6)), _found(Belief(0.6, 0.95))
    assert one_half.status is sure.status is Status.OK
    assert np.array_equal(sure.probability > 0.5, one_half.probability > 0.95)
    assert sure.agreement == one_half.agreement  # what says how good a mask is knows nothing of it


def test_a_coarse_mask_stays_as_it_is() -> None:
    kept, kept_too = _found(Belief(1.0)), _found(Belief(1.0, 0.95))
    assert kept.status is kept_too.status is Status.COARSE
    assert np.array_equal(kept.probability, kept_too.probability) and (kept.probability > 0.5).any()
