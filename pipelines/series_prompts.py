"""What was said of one series of a cohort: clicks, or where its label map lies, in; a small text that travels out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from ctsam3d.prompting.clicks import ClickRow
from ctsam3d.prompting.prompt import PromptKind
from pipelines import identity
from pipelines.store import ObjectInfo


@dataclass(frozen=True, slots=True)
class SeriesPrompts:
    """Clicks of a series, or the objects that are its label map.

    Attributes:
        clicks: in the order in which they were made.
        maps: label maps named after the series; of more than one nobody can say which is meant.
        names: the JSON that names the labels of a NIfTI map; None where there is none.
    """

    clicks: tuple[ClickRow, ...] = ()
    maps: tuple[ObjectInfo, ...] = ()
    names: ObjectInfo | None = None

    @property
    def digest(self) -> str:
        """The name of the content, as far as it can change a result."""
        if self.clicks:
            rows = [[row.structure, *row.click.xyz_mm, row.click.positive] for row in self.clicks]
            return identity.prompts_digest(PromptKind.CLICKS, rows)
        objects = [[entry.size, entry.etag or ""] for entry in self.objects]
        return identity.prompts_digest(PromptKind.MASK, objects)

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """What has to be fetched: the label map, then the JSON that names its labels."""
        return (*self.maps, *([self.names] if self.names else []))

    def to_json(self) -> str:
        """A text for a column."""
        return _codec().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> SeriesPrompts:
        """The prompts that `to_json` was given."""
        return _codec().validate_json(text)


@cache
def _codec() -> TypeAdapter[SeriesPrompts]:
    return TypeAdapter(SeriesPrompts)
