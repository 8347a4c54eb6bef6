"""Mutate sound series until reading one does anything but give a volume or a refusal: minutes in, the cases out.

A case is a form of series and a number; the same case gives the same bytes. `python -m tests.faults.fuzz MINUTES
[FIRST]` prints what it finds, one case a line, and ends with 1 if there is any; each belongs into `FOUND` of
`test_d_mutation`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from ctsam3d.imaging.dicom import Limits
from ctsam3d.outcome import Rejected
from pipelines.sandbox import Sandbox, SandboxFailure, memory_for
from tests.builders import SYNTAXES, ct_series
from tests.faults.outcome import Objects

# Of each syntax one object per slice and one for all; with padding, a scout, and a stack that leans and is uneven.
FORMS = tuple(f"{syntax}{kind}" for syntax in SYNTAXES for kind in ("", "+frames", "+odd"))
SECONDS, MEMORY = 10.0, memory_for(1 << 20, 1 << 16)
_PLACES = (0.0, 4.0, 8.0, 12.0, 16.0, 22.0, 28.0, 34.0)
# Values that parsers trip over: lengths, counts, tags of delimiters and of pixels, VRs, a marker of JPEG.
_TROUBLE = (
    *(b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0", b"\xff\xff", b"\0\0"),
    *(b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0", b"\xe0\x7f\x10\0", b"\x02\0\x10\0"),
    *(
        b"SQ",
        b"UN",
        b"OB",
        b"DS",
        b"FD",
        b"nan",
        b"1e400",
        b"-1",
        b"\\",
        b"\xff\xd9",
        b"\xff\xc3",
        b"\xff\x51",
    ),
)


@cache
def sound(form: str) -> tuple[tuple[str, bytes], ...]:
    """The series of a form before it is mutated."""
    syntax, _, kind = form.partition("+")
    knobs: dict[str, object] = {"n": 8, "shape": (34, 36), "syntax": syntax}
    if kind == "frames":
        knobs |= {"multi_frame": True, "padding_value": 0}
    if kind == "odd":
        knobs |= {"localizer": True, "tilt_deg": 9.0, "along_mm": _PLACES, "slope": 0.5}
    return tuple(ct_series(**knobs))


def mutated(form: str, number: int) -> Objects:
    """The series with one to four changes to one or two of its objects."""
    rng = np.random.default_rng([number, *form.encode()])
    objects = list(sound(form))
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(len(objects)))
        name, data = objects[at]
        for _ in range(rng.integers(1, 5)):
            data = _changed(data, rng)
        objects[at] = (name, data)
    return objects


def _changed(data: bytes, rng: np.random.Generator) -> bytes:
    """One change, for the most part within the header, where it does most."""
    reach = min(len(data), 4096) if rng.random() < 0.7 else len(data)
    at = int(rng.integers(min(128, reach), reach + 1))
    length = int(rng.integers(1, 64)) if rng.random() < 0.8 else int(rng.integers(1, 4096))
    match rng.choice(
        7, p=(0.2, 0.2, 0.35, 0.05, 0.05, 0.1, 0.05)
    ):  # what shifts the rest ends most readers early
        case 0:
            return data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]
        case 1:
            return (
                data[:at]
                + bytes([data[at] ^ 1 << rng.integers(8)] if at < len(data) else [])
                + data[at + 1 :]
            )
        case 2:
            trouble = _TROUBLE[rng.integers(len(_TROUBLE))]
            return data[:at] + trouble + data[at + len(trouble) * int(rng.integers(2)) :]
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at] + data[at : at + length] * int(rng.integers(2, 5)) + data[at + length :]
        case 5:
            other = int(rng.integers(len(data) + 1))
            return data[:at] + data[other : other + length] + data[at + length :]
        case _:
            return data[:at] if rng.random() < 0.3 else data[:at] + rng.bytes(length) + data[at + length :]


def outcome(sandbox: Sandbox, objects: Objects) -> str:
    """ "volume" or the reason of a refusal. Raises SandboxFailure: a fault of ours, or of a decoder's."""
    try:
        sandbox.read_series(objects, Limits(), MEMORY)
    except Rejected as refusal:
        return str(refusal.reason)
    return "volume"


def cases(first: int) -> Iterator[tuple[str, int]]:
    """Every form in turn, with numbers from the first on, for ever."""
    while True:
        for form in FORMS:
            yield form, first
        first += 1


def main(minutes: float, first: int) -> int:
    """Fuzz for so long; 1 if a case was found."""
    sandbox, outcomes, ends_at = Sandbox(SECONDS), Counter[str](), time.monotonic() + 60 * minutes
    found = 0
    for form, number in cases(first):
        if time.monotonic() > ends_at:
            break
        try:
            outcomes[outcome(sandbox, mutated(form, number))] += 1
        except SandboxFailure as failure:
            print(f'("{form}", {number}),  # {failure}', flush=True)
            found += 1
    print(dict(outcomes.most_common()), file=sys.stderr)
    sandbox.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
