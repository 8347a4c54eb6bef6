"""The network: image encoder, click maps, mask decoder, cross-patch predictor, checkpoints.

Importing this package imports no torch, so that headers of weights can be read quickly; `build` does.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctsam3d.network.model import CtSam3d


def build(size: str) -> "CtSam3d":
    """Make an untrained network of one of the sizes in `ctsam3d.network.config.SIZES`.

    Raises:
        ValueError: no such size.
    """
    from ctsam3d.network.config import config_of
    from ctsam3d.network.model import CtSam3d

    return CtSam3d(config_of(size))
