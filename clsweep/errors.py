"""The errors that are shown to the user as one sentence, and the exit code of each."""

from __future__ import annotations


class ClsweepError(Exception):
    """An error whose message is one complete sentence for the user; never shown with a traceback."""

    exit_code = 1


class InputError(ClsweepError):
    """What the user gave is wrong: a configuration value, a file, a data set."""

    exit_code = 2


class RunError(ClsweepError):
    """The run failed on its way: a regularizer raised, or training diverged."""
