"""What is scored in a case: the names of its labels in, structures with their label ids out.

Labelled cases and the localizer cut the body up differently. A target is the finest thing that both can be asked for:

1. Labels of one localized structure are joined (two lobes are a left lung, T11 to L5 the vertebrae), but only where no
   part of it can be in view without being annotated: the whole name is annotated, or everything in view was, or all
   lobes of a lung, or for ribs both sides, or for vertebrae lumbar ones as well (one vertebra of a crop is no spine).
2. A label that covers several localized structures (both lungs as one) is compared with all of them joined.
3. What the localizer does not tell apart is scored by its own name, with clicks alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.anatomy.localized import BACKGROUND, classes_of
from ctsam3d.evaluation.cases import LabelNames

_LOBES = {
    "lung_left": {"lung_upper_lobe_left", "lung_lower_lobe_left"},
    "lung_right": {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """One structure to be scored.

    Attributes:
        name: what it is called in the tables.
        classes: the localized structures that make it up; none if only clicks can ask for it.
        label_ids: the labels that make it up in the case.
    """

    name: str
    classes: tuple[str, ...]
    label_ids: tuple[int, ...]

    def truth(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Its voxels in a label map, bool of the same shape."""
        return np.isin(labels, self.label_ids)


def targets_of(
    names: LabelNames, localized: Collection[str], wanted: Sequence[str] | None = None
) -> tuple[Target, ...]:
    """What can be scored in a case, or of that what is wanted, in alphabetical order.

    Args:
        names: of the case's labels.
        localized: structures that the weights find by themselves.
        wanted: names of targets or of labels; a label named here is scored by itself, with clicks alone.
    """
    found: dict[str, Target] = {}
    for name in sorted(names.annotated):
        classes = _classes(name)
        if classes and _complete(classes, name, names):
            target_name = classes[0] if len(classes) == 1 else name
            ids = [
                label
                for label, other in names.names.items()
                if other in names.annotated and (mine := set(_classes(other))) and mine <= set(classes)
            ]
            known = classes if set(classes) <= set(localized) else ()
            found[target_name] = Target(target_name, known, tuple(ids))
        else:
            found[name] = Target(name, (), names.ids_of(name))
    if wanted is not None:
        single = {name: Target(name, (), names.ids_of(name)) for name in names.annotated if name not in found}
        found = {name: target for name, target in (single | found).items() if name in wanted}
    return tuple(found[name] for name in sorted(found))


def check_wanted(wanted: Iterable[str], localized: Iterable[str], cases: Iterable[LabelNames]) -> None:
    """Refuse names that neither the weights nor any of the cases know.

    Raises:
        ValueError: with the nearest names that are known.
    """
    known = sorted({*localized, *(name for names in cases for name in names.names.values())})
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{name!r}: unknown structure; {hint}")


def _classes(name: str) -> tuple[str, ...]:
    """Localized structures that a label is made of; none where it may also hold something else."""
    classes = classes_of(name)
    return () if BACKGROUND in classes else classes


def _complete(classes: tuple[str, ...], name: str, names: LabelNames) -> bool:
    """Whether no part of what a label belongs to can be in view without being annotated."""
    if names.whole or len(classes) > 1 or name == classes[0] or classes[0] in names.annotated:
        return True
    if classes[0] in _LOBES:
        return names.annotated >= _LOBES[classes[0]]
    needed = {"vertebrae": ("vertebrae_L",), "ribs": ("rib_left_", "rib_right_")}.get(classes[0])
    return needed is not None and all(
        any(other.startswith(prefix) for other in names.annotated) for prefix in needed
    )
