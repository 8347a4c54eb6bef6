"""Where a growing structure may go on: its mask and the cubes that were looked at in, the next place to click out.

All is told in blocks of 4^3 voxels. A block is open where the mask reaches it, no cube has seen it well and nobody has
looked there in vain; the open blocks are the frontier.
"""

from __future__ import annotations

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctsam3d.prompting.prompt import COARSE_FACTOR
from ctsam3d.prompting.seeds import box_sums
from ctsam3d.segmentation.patches import Box, peak, shifted, squared_distance
from ctsam3d.segmentation.stitch import Canvas

Block = tuple[int, int, int]
Voxel = tuple[int, int, int]

_CLEAR_BLOCK = 0.1  # of a block's voxels in the mask, for it to be worth a click
_CLOSED_BLOCKS = 2  # around one at which nothing more is found: half as many cubes as with 1, and no worse
_REOPENED_BLOCKS = 3  # beyond what a cube has seen well: as far as it reaches, and one
_DEEP_VOXELS = 20  # around those that are looked at, in which their depth is measured
_ASIDE = 1e-3  # of a voxel's depth, that a square voxel off the block is worth


class Frontier:
    """Which blocks of the model grid (z, y, x) a structure fills, and which are done with."""

    def __init__(self, shape: tuple[int, int, int], reach_blocks: int) -> None:
        """Nothing is filled, and all is open.

        Args:
            shape: of the model grid.
            reach_blocks: within so many blocks of its centre a cube sees well.
        """
        self._shape, self._reach = shape, reach_blocks
        blocks = tuple(-(-n // COARSE_FACTOR) for n in shape)
        self._filled = np.zeros(blocks, dtype=np.float32)  # share of each block's voxels in the mask
        self._covered = np.zeros(blocks, dtype=bool)  # seen well by a cube
        self._closed = np.zeros(blocks, dtype=bool)  # looked at in vain

    def update(self, canvas: Canvas, touched: Box) -> None:
        """Take in how full blocks are, where the mask has changed."""
        low = [s.start // COARSE_FACTOR for s in touched]
        high = [-(-s.stop // COARSE_FACTOR) for s in touched]
        f = COARSE_FACTOR
        z, y, x = (slice(a * f, b * f) for a, b in zip(low, high, strict=True))
        mask = canvas.mask((z, y, x))
        padded = np.pad(mask, [(0, (-n) % f) for n in mask.shape])
        blocks = padded.reshape(*(side for n in padded.shape for side in (n // f, f)))
        share = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
        self._filled[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = share

    def cover(self, centre: Voxel) -> None:
        """A cube around a voxel has been seen."""
        self._covered[_box(_block_of(centre), self._reach)] = True

    def is_covered(self, voxel: Voxel) -> bool:
        """Whether a cube has seen a voxel well."""
        return bool(self._covered[_block_of(voxel)])

    def close(self, block: Block) -> None:
        """Look no further at a block and those around it."""
        self._closed[_box(block, _CLOSED_BLOCKS)] = True

    def close_voxels(self, voxels: NDArray[np.int64]) -> None:
        """Never look at the blocks of some voxels (n, 3) again."""
        self._closed[tuple((voxels // COARSE_FACTOR).T)] = True

    def reopen(self, centre: Voxel) -> None:
        """What was closed as far as a cube around a voxel reaches, and a little farther, may be looked at again."""
        self._closed[_box(_block_of(centre), self._reach + _REOPENED_BLOCKS)] = False

    def unseen(self, box: Box) -> NDArray[np.bool_]:
        """The voxels of a box that no cube has seen well and nobody has looked at in vain."""
        blocks = _blocks_of(box)
        return ~(self._covered[blocks] | self._closed[blocks])

    def next_block(self) -> Block | None:
        """The open block around which most blocks are open; of several the fullest, then the first."""
        open_blocks = self._open()
        found = ndimage.find_objects(open_blocks.view(np.uint8))
        if not found:
            return None
        box = found[0]
        score = box_sums(open_blocks[box], self._reach) + 0.5 * self._filled[box]
        score[~open_blocks[box]] = -1
        return peak(box, score)

    def deepest(self, block: Block, canvas: Canvas) -> Voxel:
        """The voxel of the open blocks around an open one that lies deepest in the mask.

        Where no cube has looked the structure may go on, so that nothing ends it there.
        """
        near = _voxels_around(block, _CLOSED_BLOCKS * COARSE_FACTOR, self._shape)
        wide = _voxels_around(block, _CLOSED_BLOCKS * COARSE_FACTOR + _DEEP_VOXELS, self._shape)
        z, y, x = (part.start for part in wide)
        here = shifted(near, (z, y, x))
        mask = canvas.mask(wide)
        depth = np.minimum(edt.edt(mask | (canvas.weights[wide] == 0))[here], _DEEP_VOXELS)
        # of voxels as deep, the one that is nearest to the block
        aside = squared_distance(near, tuple((b + 0.5) * COARSE_FACTOR for b in block))
        clickable = mask[here] & self._open()[_blocks_of(near)]
        return peak(near, np.where(clickable, depth - _ASIDE * aside, -np.inf))

    def _open(self) -> NDArray[np.bool_]:
        return (self._filled >= _CLEAR_BLOCK) & ~self._covered & ~self._closed


def _block_of(voxel: Voxel) -> Block:
    z, y, x = (i // COARSE_FACTOR for i in voxel)
    return z, y, x


def _voxels_around(block: tuple[int, int, int], reach: int, shape: tuple[int, int, int]) -> Box:
    """A block and so many voxels on each side of it, as far as the grid goes."""
    z, y, x = (
        slice(max(0, b * COARSE_FACTOR - reach), min(n, (b + 1) * COARSE_FACTOR + reach))
        for b, n in zip(block, shape, strict=True)
    )
    return z, y, x


def _blocks_of(box: Box) -> tuple[NDArray[np.intp], ...]:
    """Index that spreads an array of blocks over the voxels of a box."""
    return np.ix_(*(np.arange(s.start, s.stop) // COARSE_FACTOR for s in box))


def _box(block: tuple[int, ...], reach: int) -> tuple[slice, ...]:
    return tuple(slice(max(0, b - reach), b + reach + 1) for b in block)
