"""The errors that are shown to the user as one sentence, and the exit code of each."""

from __future__ import annotations

import traceback


class ClsweepError(Exception):
    """An error whose message is one complete sentence for the user; never shown with a traceback."""

    exit_code = 1


class InputError(ClsweepError):
    """What the user gave is wrong: a configuration value, a file, a data set."""

    exit_code = 2


class RunError(ClsweepError):
    """The run failed on its way: a regularizer raised, or training diverged."""


class MethodError(RunError):
    """A method's function raised, returned what it shouldn't, or left behind what can't be put back."""


class NotFiniteError(MethodError):
    """A method gave NaN or infinity, which depends on the data and on how far training has come."""


def named(error: BaseException) -> str:
    """The exception's type and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def place(error: BaseException, file: str | None) -> str:
    """`, line N`: where in `file` the exception passed last; empty where it didn't."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""
