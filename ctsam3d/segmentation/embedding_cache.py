"""Cubes of a volume -> their embeddings, each computed once while it is among the last that were asked for."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ctsam3d.network.model import Embeddings
from ctsam3d.segmentation.patches import Patch


class EmbeddingCache:
    """Bounded, and emptied when another volume comes; whose structure a cube belongs to does not matter.

    Args:
        most: cubes kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._volume: weakref.ref[NDArray[np.generic]] | None = None
        self._kept: OrderedDict[tuple[int, int, int], Embeddings] = OrderedDict()

    def of(
        self,
        hu: NDArray[np.generic],
        patches: Sequence[Patch],
        embed: Callable[[Sequence[Patch]], Embeddings],
    ) -> Embeddings:
        """Of each patch of a volume, in this order.

        Args:
            hu: (z, y, x) on the model grid; not to be changed between calls.
            patches: of the volume.
            embed: computes those that are missing.
        """
        if self._volume is None or self._volume() is not hu:
            self._volume = weakref.ref(hu)
            self._kept.clear()
        missing = {patch.origin_zyx: patch for patch in patches if patch.origin_zyx not in self._kept}
        if missing:
            together = embed(list(missing.values()))
            for i, origin in enumerate(missing):  # copies, so that no cube keeps its whole batch
                self._kept[origin] = Embeddings(*(stage[i : i + 1].clone() for stage in together))
        wanted = [patch.origin_zyx for patch in patches]
        for origin in wanted:
            self._kept.move_to_end(origin)
        of_each = [self._kept[origin] for origin in wanted]
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return Embeddings(*(torch.cat(stage) for stage in zip(*of_each, strict=True)))
