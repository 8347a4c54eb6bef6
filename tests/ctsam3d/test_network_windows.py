"""Windows: HU to [0, 1], the same for arrays and tensors."""

import numpy as np
import pytest
import torch

from ctsam3d.network import windows
from ctsam3d.network.config import SIZES

SOFT_AND_LUNG = ((-125.0, 225.0), (-1000.0, 600.0))


def test_each_window_is_a_channel_clipped_and_scaled():
    found = windows.apply(np.array([[-1024, -125, 50, 225, 3071]], np.int16), SOFT_AND_LUNG)
    assert found.dtype == np.float32
    assert found.shape == (2, 1, 5)
    np.testing.assert_allclose(found[0, 0], [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(found[1, 0], [0, 875 / 1600, 1050 / 1600, 1225 / 1600, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_arrays_and_tensors_give_the_same_bits(dtype):
    hu = np.random.default_rng(0).uniform(-2000, 3000, (3, 4, 5)).astype(dtype)
    found = windows.apply(torch.from_numpy(hu), SOFT_AND_LUNG)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), windows.apply(hu, SOFT_AND_LUNG))


def test_sizes_have_the_windows_they_were_designed_for():
    assert SIZES["nano"].windows_hu == SOFT_AND_LUNG
    assert SIZES["restv2_tiny"].windows_hu == ((-125.0, 225.0),)


@pytest.mark.parametrize("bad", [(), ((5.0, 5.0),), ((1.0, -1.0),), ((float("nan"), 3.0),)])
def test_a_window_without_width_is_refused(bad):
    with pytest.raises(ValueError, match="lower < upper"):
        windows.apply(np.zeros(3, np.float32), bad)
