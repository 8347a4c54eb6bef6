"""A sandbox's child whose decoder misbehaves on one frame: the fault's name stands in that frame's first pixels.

Everything but the decoder is the real child: `marked(fault)` makes a slice on which it does what the fault says.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsam3d.imaging import dicom
from ctsam3d.imaging.dicom_header import Header
from pipelines import sandbox_child
from tests.builders import phantom_hu

_decode = dicom.stored_frames
FAULTS = ("crash", "abort", "exit", "sleep", "spin", "stuck", "eat", "killed", "chatter", "leak")


def marked(fault: str, shape_zyx: tuple[int, int, int] = (12, 16, 18)) -> NDArray[np.int16]:
    """HU of a phantom whose middle slice carries the mark."""
    hu = phantom_hu(shape_zyx)
    hu[shape_zyx[0] // 2, 0, : len(fault)] = [ord(c) for c in fault]
    return hu


def _misbehaving(header: Header, data: bytes) -> Iterator[NDArray[Any]]:
    for stored in _decode(header, data):
        letters = "".join(chr(max(0, int(v) - 1024) & 0x7F) for v in stored[0, :8])
        for fault in FAULTS:
            if letters.startswith(fault):
                _do(fault)
        yield stored


def _do(fault: str) -> None:
    Path("/proc/self/comm").write_text(fault)  # for a test to see that it has happened
    if fault == "crash":
        ctypes.string_at(0)
    elif fault == "abort":
        os.abort()
    elif fault == "exit":
        os._exit(0)
    elif fault == "sleep":
        time.sleep(3600)
    elif fault == "spin":
        while True:
            pass
    elif fault == "stuck":  # in native code, and no other thread of Python may run
        ctypes.PyDLL(None).sleep(3600)
    elif fault == "eat":
        np.ones(1 << 34, np.uint8)
    elif fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "chatter":  # as a decoder taken over might: bytes of its own on the socket
        os.write(int(sys.argv[1]), b"\x80\x04cposix\nsystem\n" * 100)
        time.sleep(3600)
    elif fault == "leak":
        raise ValueError(",".join(sorted(os.environ)) + " CANARY")


if __name__ == "__main__":
    dicom.stored_frames = _misbehaving
    sandbox_child.main()
