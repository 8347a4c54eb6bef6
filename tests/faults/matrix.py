"""The fault matrix: names and docstrings of its tests in, the table of `docs/reliability.md` out.

`python -m tests.faults.matrix` writes the table anew; a test fails where it is stale.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- written by tests/faults/matrix.py -->", "<!-- end -->"
_TEST = re.compile(r"(?:test_|Test)([DGNCOS]\d\d)_?(\w+)")
_CHANGED = "Changed: "

FAMILIES = {
    "D": "DICOM bytes",
    "G": "Geometry and intensity",
    "N": "Storage and network",
    "C": "Compute and time",
    "O": "Outputs",
    "S": "Security and privacy",
}
_FAULTS = """
D01 an object of no bytes
D02 what is not DICOM
D03 cut short in its pixels
D04 cut short in its header
D05 no pixels
D06 more pixels than the image has
D07 an element longer than what is left
D08 a size out of bounds
D09 a deflated bomb
D10 a stream that decodes to more than the header says
D11 an object of 50 GB
D12 sequences nested without end
D13 a codec that is not installed
D14 a stream that is damaged
D15 a decoder that crashes
D16 a decoder that never ends
D17 pixels compressed with loss
D18 another modality or class
D19 captures, reports and derived planes in the series
D20 copies
D21 one instance UID, two objects
D22 one series UID, two studies
D23 character sets, wrong VRs, private elements
D24 byte order, implicit VR, no transfer syntax
D25 a DICOMDIR
D26 archives
D27 UIDs that are none
D28 mutations of sound series
G01 slices missing
G02 slices missing at an end
G03 two slices at one place
G04 uneven spacing
G05 a tilted gantry
G06 a localizer in the series
G07 orientations without a majority
G08 an orientation that differs in a late decimal
G09 axes that are not unit or not perpendicular
G10 pixel spacing that cannot be
G11 rows and columns spaced differently
G12 order of files and InstanceNumber
G13 thickness that is not the spacing
G14 ways to lie, and to store
G15 too few slices
G16 slices of several sizes
G17 enhanced multi-frame objects
G18 no rescaling
G19 rescaling that cannot be
G20 signs and unused bits
G21 padding
G22 other photometric interpretations
G23 values that are no Hounsfield units
G24 metal
G25 structures absent, cut or whole
G26 a network that answers NaN
G27 the grid of what comes out
N01 a burst of 503
N02 503 without end
N03 500, 502, 504, resets
N04 a body that stalls
N05 a short body
N06 a bit that flips on the way
N07 credentials that expire
N08 an object deleted after it was listed
N09 an object replaced after it was listed
N10 an incomplete listing
N11 long listings, odd names
N12 racing writers
N13 a write whose answer is lost
N14 a store without conditional writes
N15 an upload left unfinished
N16 a store that is set up wrongly
C01 a worker killed once
C02 a series that always kills its worker
C03 a worker that exits without an error
C04 an exception
C05 a full device
C06 a worker killed for memory
C07 a lost device
C08 a machine lost and replaced
C09 a machine lost for good
C10 a driver killed
C11 a cluster's head lost
C12 two runs at once
C13 two settings
C14 a death after any step
C15 a full disk
C16 volumes larger than the object store
C17 every CPU taken
C18 a clock that jumps
C19 told to stop
C20 the same input twice
C21 other weights or settings in between
C22 other people's Ray on the machine
O01 a torn record
O02 a flipped bit in a record
O03 Parquet with types that name code
O04 another version of the schema
O05 writing past the store
O06 a mask gone or replaced
O07 a record of nobody's run
O08 reading while publishing
S01 a pickle as weights
S02 Python beside weights
S03 weights that claim absurd shapes
S04 calls that run what they read
S05 Ray within reach of others
S06 credentials in settings
S07 credentials in logs
S08 patients in logs and messages
S09 patients in outputs
S10 UIDs as identities
S11 paths out of the store
S12 addresses of other places
S13 cores and leftovers
S14 dependencies
S15 formulas in exported text
S16 rights of containers and nodes
S17 a hostile listing
"""
FAULTS = dict(line.split(" ", 1) for line in _FAULTS.strip().splitlines())

# What the tests of a row leave open; a row that has no test must be in here.
OPEN = {
    "C05": "the exception is torch's by name, raised without a device",
    "C07": "the exception is torch's by name, raised without a device",
    "C20": "on a CPU; on a GPU results may differ in their last bits",
    "D15": "the crash is made in the child, not by a file that crashes a decoder: none is known",
    "N16": "against a server on loopback; AWS's own answers to a wrong region or key are not tried",
}


@dataclass(frozen=True)
class Row:
    """One test of the matrix.

    Attributes:
        id: of its row.
        file: where it is.
        says: what must happen, in the words of its name.
        changed: why it expects something else than was planned; empty where it does not.
    """

    id: str
    file: str
    says: str
    changed: str


def tests() -> list[Row]:
    """The tests of the matrix, by row and then in the order they are written in."""
    found = []
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (name := _TEST.fullmatch(node.name)):
                words = " ".join((ast.get_docstring(node) or "").split())
                changed = words.removeprefix(_CHANGED) if words.startswith(_CHANGED) else ""
                found.append(Row(name[1], file.name, name[2].replace("_", " "), changed))
    return sorted(found, key=lambda row: row.id)


def table() -> str:
    """The part of the page between its two marks, as Markdown."""
    by_row: dict[str, list[Row]] = defaultdict(list)
    for row in tests():
        by_row[row.id].append(row)
    parts = []
    for letter, family in FAMILIES.items():
        parts += [f"### {family}", "", "| row | fault | what must happen | test |", "|---|---|---|---|"]
        for row_id, fault in FAULTS.items():
            if row_id.startswith(letter):
                says = "<br>".join(row.says for row in by_row[row_id]) or "**no test**"
                files = "<br>".join(f"`{name}`" for name in sorted({row.file for row in by_row[row_id]}))
                parts.append(f"| {row_id} | {fault} | {says} | {files} |")
        parts.append("")
    parts += ["### Expectations that were changed, and why", ""]
    parts += [f"* **{row.id}** ({row.says}): {row.changed}" for row in tests() if row.changed]
    parts += ["", "### What is left open", ""]
    parts += [f"* **{row_id}**: {what}." for row_id, what in sorted(OPEN.items())]
    return "\n".join(parts)


def written(page: str) -> str:
    """The page with its table as it has to be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
