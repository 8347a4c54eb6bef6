"""The version of this code, as records carry it."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def code_version() -> str:
    """The installed distribution's version; "unknown" where the packages are used without being installed."""
    try:
        return version("ct-sam3d")
    except PackageNotFoundError:
        return "unknown"
