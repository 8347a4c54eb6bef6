"""Silence around the DICOM libraries: what they warn about and log repeats what a header says of a person."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydicom import config

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "rle")
_lock = threading.Lock()
_depth = 0
_restore = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """No value checks, warnings or logs of the DICOM libraries, in all threads while one is inside."""
    global _depth, _restore
    with _lock:
        if _depth == 0:
            _restore = _silenced()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore.close()


def _silenced() -> ExitStack:
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    stack.enter_context(config.disable_value_validation())
    for logger in map(logging.getLogger, _LOGGERS):
        # The level, unlike a filter, holds for the loggers below this one too.
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)
    return stack
