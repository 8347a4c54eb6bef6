"""What is installed here and on what machine: nothing in, plain facts for `info` out; imports none of it."""

from __future__ import annotations

import os
import platform
from importlib import resources
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pipelines.faults import UsageError
from pipelines.version import code_version

_PACKAGE = "ct-sam3d"
_PARTS = ("torch", "ray", "monai", "pydicom", "pyarrow", "obstore", "numpy")


def describe() -> dict[str, Any]:
    """Versions, cores, memory, GPUs and bundled weights, ready for JSON."""
    return {
        "version": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpus": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "weights": bundled_weights(),
        "packages": {name: _version(name) for name in _PARTS},
    }


def check_versions() -> None:
    """Raise UsageError where a library is older than this package says it needs: the floors close known holes."""
    try:
        needed = [Requirement(text) for text in requires(_PACKAGE) or ()]
    except PackageNotFoundError:
        return  # used without being installed: nothing says what is needed
    too_old = []
    for need in needed:
        found = _version(need.name)
        if need.marker is None and (found is None or not need.specifier.contains(found, prereleases=True)):
            too_old.append(f"{need.name} {found or 'missing'}, expected {need.specifier}")
    if too_old:
        raise UsageError("\n".join(too_old))


def bundled_weights() -> list[str]:
    """Names of the cube networks' weights that come with the package; the localizer's come with each of them."""
    folder = resources.files("ctsam3d") / "weights"
    if not folder.is_dir():
        return []
    return sorted(
        file.name.removesuffix(".safetensors")
        for file in folder.iterdir()
        if file.name.endswith(".safetensors") and file.name != "localizer.safetensors"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpus() -> int:
    """NVIDIA devices the driver shows; torch is not asked, importing it takes seconds."""
    devices = Path("/proc/driver/nvidia/gpus")
    return len(list(devices.iterdir())) if devices.is_dir() else 0
