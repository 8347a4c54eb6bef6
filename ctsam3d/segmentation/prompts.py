"""Who says where structures are: a prompter, or none, and the localizer in; a prompt of each structure found out.

A prompter goes before the localizer, which is asked of the rest. Clicks come with the localizer's mask, to be corrected
by them, where one of them says that this is the structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctsam3d.anatomy.catalogue import named
from ctsam3d.imaging.volume import Volume
from ctsam3d.prompting.prompt import COARSE_FACTOR, Click, CoarseStructure, Prompt, Prompter, PromptKind
from ctsam3d.segmentation.decoder import VoxelClick
from ctsam3d.segmentation.owners import SureOwners

_ANYWHERE = {"tissue", "lesion"}  # groups of the catalogue


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What was said of a study.

    Attributes:
        who: can say where each structure is.
        prompts: of those that are there.
        owners: whose each part of the volume surely is, asked for or not, where clicks need to know; else None.
    """

    who: dict[str, PromptKind]
    prompts: dict[str, Prompt]
    owners: SureOwners | None = None


def gather(
    grid: Volume, structures: Sequence[str], prompter: Prompter | None, localizer: Prompter
) -> Gathered:
    """Who can say where each structure is, and what they say of those that are there.

    Args:
        grid: the image on the model grid.
        structures: names; of some nobody may know anything.
        prompter: says where those are that it knows.
        localizer: says where the others are.

    Raises:
        PromptError: the prompter's prompts cannot be of this volume.
    """
    given = prompter.structures if prompter is not None else ()
    theirs = [name for name in structures if name in given]
    ours = [name for name in structures if name in localizer.structures and name not in given]
    who = dict.fromkeys(ours, localizer.kind)
    said: dict[str, Prompt] = {}
    clicked: list[str] = []
    if prompter is not None:
        said = prompter.prompts(grid, theirs)
        who |= dict.fromkeys(theirs, prompter.kind)
        if prompter.kind is PromptKind.CLICKS:
            clicked = [name for name in said if is_apart(name)]
    located = localizer.prompts(grid, localizer.structures if clicked else ours) if ours or clicked else {}
    for name in clicked:
        coarse = located[name].coarse if name in located else None
        if coarse is not None and _points_at(coarse, on_grid(said[name].clicks, grid)):
            said[name] = replace(said[name], coarse=coarse)
    owners = owners_of(located) if clicked else None
    return Gathered(who, {name: located[name] for name in ours if name in located} | said, owners)


def owners_of(located: Mapping[str, Prompt]) -> SureOwners | None:
    """Whose each part of a volume surely is, by all that a localizer found there; None where it found nothing."""
    return SureOwners.of({name: p.coarse for name, p in located.items() if p.coarse is not None})


def is_apart(name: str) -> bool:
    """Whether a structure shares no voxel with organs: fat and tumours may be in any, and what is unknown too."""
    known = named(name)
    return known is not None and known.group not in _ANYWHERE


def on_grid(clicks: Sequence[Click], grid: Volume) -> tuple[VoxelClick, ...]:
    """Clicks as voxels of the model grid; those outside move to the nearest voxel inside."""
    if not clicks:
        return ()
    index = grid.geometry.to_index_zyx(np.array([click.xyz_mm for click in clicks]))
    inside = np.clip(np.floor(index + 0.5).astype(int), 0, np.array(grid.hu.shape) - 1)
    return tuple(
        VoxelClick((int(z), int(y), int(x)), click.positive)
        for (z, y, x), click in zip(inside, clicks, strict=True)
    )


def _points_at(coarse: CoarseStructure, clicks: Sequence[VoxelClick]) -> bool:
    """Whether a positive click lies in a coarse mask or in a block beside it."""
    blocks = [[i // COARSE_FACTOR for i in click.zyx] for click in clicks if click.positive]
    return any(coarse.mask[tuple(slice(max(0, b - 1), b + 2) for b in block)].any() for block in blocks)
