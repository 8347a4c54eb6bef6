"""How a command ends: a call in; an exit code out, and for every fault one line on stderr."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from pipelines.faults import CONTINUES, Aborted, ExitCode, UsageError


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Call a command; every fault becomes one line on stderr and an exit code, SIGTERM an orderly end."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(command() or ExitCode.DONE)
    except TyperException as fault:
        return _fail(" ".join(fault.format_message().split()) or "expected a command", ExitCode.USAGE)
    except UsageError as fault:
        return _fail(str(fault), ExitCode.USAGE)
    except Aborted as fault:
        return _fail(f"{fault}; {CONTINUES}", ExitCode.ABORTED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(f"interrupted; {CONTINUES}", ExitCode.ABORTED)
    except BrokenPipeError:  # whoever read our results has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ABORTED
    except Exception as fault:
        if os.environ.get("CTSAM3D_DEBUG"):
            raise
        return _fail(f"unexpected {type(fault).__name__}; set CTSAM3D_DEBUG=1 to see where", ExitCode.ABORTED)


def leave(code: int) -> NoReturn:
    """End this process at once.

    Taking the interpreter down around the libraries' own threads has been seen to abort it after all work was done, and
    the exit code is what a scheduler goes by.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: ExitCode) -> int:
    for line in message.splitlines():
        print(f"ctsam3d: {line}", file=sys.stderr)
    return code
