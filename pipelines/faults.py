"""Errors that end a command, and the exit code each gives; the message is for people, one line per fault."""

from __future__ import annotations

from enum import IntEnum

CONTINUES = "the same command continues where this one stopped"


class ExitCode(IntEnum):
    """What a command tells its caller."""

    DONE = 0
    USAGE = 1  # usage or configuration: nothing was started
    UNFINISHED_SERIES = 2  # finished, with rejected or failed series
    ABORTED = 3  # stopped before its end; the same command continues


class UsageError(Exception):
    """What was asked for cannot be done: a wrong argument, setting, address or file. Nothing was started."""


class Aborted(Exception):
    """A command that had begun and could not go on."""
