"""The errors that are shown to the user as one sentence, and the exit code of each."""

from __future__ import annotations

import errno
import traceback


class ClsweepError(Exception):
    """An error whose message is one complete sentence for the user; never shown with a traceback.

    Args:
        sentence: may quote what others have written, such as a method's error or a file's name.
    """

    exit_code = 1

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class InputError(ClsweepError):
    """What the user gave is wrong: a configuration value, a file, a data set."""

    exit_code = 2


class RunError(ClsweepError):
    """The run failed after it had started: a method raised, or training diverged."""


class MethodError(RunError):
    """A method's function raised, returned what it shouldn't, or left behind what can't be put back."""


class NotFiniteError(MethodError):
    """A method gave NaN or infinity, which depends on the data and on how far training has come."""


class MachineError(RunError):
    """The machine failed: a full disk, a file system that is gone. Neither the setting nor the method is at fault."""


# What the operating system refuses to any program, whatever it does: no fault of the code that happened to ask.
_MACHINE = {
    number for number, name in errno.errorcode.items() if name in {
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ENOLCK", "ENOTCONN", "ENODEV",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN",
    }
}  # fmt: skip


def is_machine_error(error: BaseException) -> bool:
    """Whether the machine is at fault, whoever asked it: a full disk, say, but not a file that isn't there."""
    return isinstance(error, OSError) and error.errno in _MACHINE


def machine_error(error: OSError, where: str = "") -> MachineError:
    """One sentence for what the operating system refused.

    Args:
        error: names the file, where it was one.
        where: who asked, where that helps.
    """
    parts = [where, str(error.filename2 or error.filename or ""), error.strerror or f"{type(error).__name__}: {error}"]
    what = ": ".join(part for part in parts if part)
    return MachineError(machine_sentence(what))


def machine_sentence(what: str) -> str:
    """What to say of a machine that refuses something."""
    return f"{what}; what is finished is kept: when that is mended, run the same command again."


def named(error: BaseException) -> str:
    """The exception's type and the first line of its message."""
    lines = str(error).splitlines()
    return printable(f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__)


def printable(text: str) -> str:
    """A text in one line that every file and terminal takes: lone surrogates and control characters are escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def place(error: BaseException, file: str | None) -> str:
    """`, line N`: where in `file` the exception passed last; empty where it didn't."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def with_article(name: str) -> str:
    """`a list`, `an int`."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def kind_of(value: object) -> str:
    """What a value is, for a sentence: `a list`, `an int`, `None`."""
    return "None" if value is None else with_article(type(value).__name__)
