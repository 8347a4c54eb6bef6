"""HU of any shape -> (C, ...) float32 in [0, 1], one channel for each window."""

from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Windows = tuple[tuple[float, float], ...]


@overload
def apply(hu: NDArray[np.generic], windows_hu: Windows) -> NDArray[np.float32]: ...
@overload
def apply(hu: "Tensor", windows_hu: Windows) -> "Tensor": ...
def apply(hu: "NDArray[np.generic] | Tensor", windows_hu: Windows) -> "NDArray[np.float32] | Tensor":
    """Clip to each (lower, upper) window and scale it to [0, 1].

    Args:
        hu: an array or tensor of HU, integers or floats, any shape.
        windows_hu: as in `NetworkConfig.windows_hu`.

    Returns:
        float32 (C, ...), an array for an array and a tensor (on the same device) for a tensor.

    Raises:
        ValueError: no window, or one whose upper end is not above its lower.
    """
    if not windows_hu or any(not lower < upper for lower, upper in windows_hu):
        raise ValueError(f"expected windows (lower, upper) with lower < upper, found {windows_hu}")
    if isinstance(hu, np.ndarray):
        values = hu.astype(np.float32)
        channels = [((values - np.float32(low)) / np.float32(up - low)).clip(0, 1) for low, up in windows_hu]
        return np.stack(channels)
    import torch

    tensor = hu.to(torch.float32)
    return torch.stack([((tensor - low) / (up - low)).clamp(0, 1) for low, up in windows_hu])
