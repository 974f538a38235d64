"""How a command ends, and what it does where its terminal goes away: exit codes, signals, standard output.

Nothing is imported here but the standard library, so that all of it holds while the rest is still being imported.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TextIO

from clsweep.errors import ClsweepError, is_machine_error, machine_error

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
# Ctrl-C, a cluster's time limit, a closed terminal, a cluster's warning before preemption.
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # what a launcher may have asked for before its jobs' time limit
_SECONDS_TO_WIND_UP = 10.0


def run(name: str, command: Callable[[], int]) -> int:
    """Run a command to its end, whatever that is.

    Args:
        name: the program's, before what is said on standard error.
        command: returns the exit code; its errors are said in one sentence.

    Returns:
        0 done, 1 failed, 2 wrong input, 130 interrupted.
    """
    before = _handlers()
    try:
        return _run(name, command)
    finally:
        _set(before)
        _interrupts.came = False  # it was this command's


def run_last(name: str, command: Callable[[], int]) -> int:
    """As `run`, for the last thing that a process does: nothing interrupts its exit."""
    try:
        return _run(name, command)
    finally:
        _set(dict.fromkeys(_INTERRUPTS, signal.SIG_IGN))  # Python takes handlers away before the process is gone


def _run(name: str, command: Callable[[], int]) -> int:
    with lasting_output(name):
        catch_interrupts()
        try:
            return command()
        except KeyboardInterrupt:
            return _interrupted(name)
        except ClsweepError as error:
            return report(name, error)
        except OSError as error:
            if not is_machine_error(error):
                raise
            return report(name, machine_error(error))
        except ModuleNotFoundError as error:
            if wants_traceback() or not _is_needed(error):
                raise
            print(
                f"{name}: the package {error.name} is not installed in {sys.prefix}; expected an environment that has "
                "it: source .venv/bin/activate after make setup, or pip install . in the checkout.",
                file=sys.stderr,
            )
            return WRONG_INPUT
        except Exception:
            if not _interrupts.are_winding_up:  # an import that is interrupted raises whatever it likes
                raise
            return _interrupted(name)


def _is_needed(error: ModuleNotFoundError) -> bool:
    """Whether it is clsweep itself, and not the user's code, that imports a package that isn't there."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return error.name is not None and frame.f_globals.get("__name__", "").startswith("clsweep.")


def report(name: str, error: ClsweepError) -> int:
    """Say an error's sentence.

    Args:
        name: the program's.
        error: what went wrong.

    Returns:
        The exit code.
    """
    if wants_traceback():
        sys.excepthook(type(error), error, error.__traceback__)
    from clsweep.passwords import within  # here, since it imports Hydra

    say(name, within(str(error)))
    return error.exit_code


def wants_traceback() -> bool:
    """Whether the user asked for the traceback behind an error's sentence."""
    return os.environ.get("CLSWEEP_TRACEBACK") == "1"


def say(name: str, sentence: str) -> None:
    """A line on standard error, where there is one."""
    print(f"{name}: {sentence}", file=sys.stderr, flush=True)


def _interrupted(name: str) -> int:
    _interrupts.wind_up()
    say(name, "interrupted.")
    return INTERRUPTED


class _Interrupts:
    """A signal's handler: the first one interrupts, and those of the next seconds don't disturb the winding up."""

    def __init__(self) -> None:
        self._last = -math.inf
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.are_winding_up:
            self.came = True
            self.wind_up()
            raise KeyboardInterrupt

    @property
    def are_winding_up(self) -> bool:
        """Whether one came a moment ago."""
        return time.monotonic() - self._last < _SECONDS_TO_WIND_UP

    def wind_up(self) -> None:
        """Let nothing disturb the next seconds."""
        self._last = time.monotonic()


_interrupts = _Interrupts()


def catch_interrupts() -> None:
    """From now on SIGINT, SIGTERM, SIGHUP and SIGUSR1 raise KeyboardInterrupt, so that what was measured is kept.

    What this process was told to ignore, as by nohup, it goes on ignoring; another program's handlers stay.
    """
    _interrupts.came = False
    usual = (signal.SIG_DFL, signal.default_int_handler)
    _set({number: _interrupts for number, handler in _handlers().items() if handler in usual})


@contextlib.contextmanager
def interrupts_of_a_job() -> Iterator[None]:
    """Interrupt a launcher's job where the launcher, such as submitit, would pass over a signal or raise an error.

    submitit ignores SIGTERM. At the time limit its handler submits the job again and exits, or raises an error, which
    would look like one of the work's own.
    """
    before = _handlers()
    if before:  # else this isn't the main thread
        before |= {number: signal.getsignal(number) for number in _WARNINGS}
    warned = {
        number: _warned(handler) for number, handler in before.items() if number in _WARNINGS and callable(handler)
    }
    others = [number for number in before if number not in _WARNINGS and before[number] is not signal.SIG_IGN]
    _set(dict.fromkeys(others, _interrupts) | warned)
    try:
        yield
    finally:
        _set(before)


def _warned(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    """A launcher's handler, whose errors are interrupts."""

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except Exception as error:
            say("clsweep", str(error))
            _interrupts(number, frame)

    return handle


def raise_if_interrupted() -> None:
    """Raise a lost interrupt again: Python drops what is raised while it runs a finalizer, say.

    Raises:
        KeyboardInterrupt: one came since `catch_interrupts`.
    """
    if _interrupts.came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts_told_from_errors() -> Iterator[None]:
    """Raise an interrupt as one even where it came out as an error: an import that is interrupted raises what it likes.

    Raises:
        KeyboardInterrupt: the block raised an exception, and an interrupt came since `catch_interrupts`.
    """
    try:
        yield
    except Exception as error:
        if _interrupts.came:
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let an interrupt wait until the block is done."""
    came: list[int] = []
    before = {number: handler for number, handler in _handlers().items() if handler not in (signal.SIG_IGN, None)}
    _set(dict.fromkeys(before, lambda number, _: came.append(number)))
    try:
        yield
    finally:
        _set(before)
        if came:
            signal.raise_signal(came[0])


def _handlers() -> dict[int, Any]:
    """What the interrupts do now; empty in any thread but the main one, since they never arrive there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in _INTERRUPTS}


def _set(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # one that Python doesn't know, and couldn't put back
            signal.signal(number, handler)


class _Lasting(io.RawIOBase):
    """A standard stream that takes what is written to it whether or not it reaches anybody.

    Args:
        descriptor: the stream's.
        on_loss: is told, once, why it can't be written to any more.
    """

    def __init__(self, descriptor: int, on_loss: Callable[[OSError], None]) -> None:
        self._descriptor = descriptor
        self._on_loss = on_loss
        self._lost = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        left = memoryview(content)
        while left and not self._lost:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError as error:
                self._lost = True
                self._on_loss(error)
        return len(content)


@contextlib.contextmanager
def lasting_output(name: str | None = None) -> Iterator[None]:
    """Let neither a closed nor a full output end a process: results don't depend on who reads along.

    Args:
        name: the program's, before the sentence that says so; None where another process says it.
    """

    def complain(error: OSError) -> None:
        if name is not None:
            say(name, f"standard output can't be written to ({error.strerror}); going on without it.")

    before = sys.stdout, sys.stderr
    err = _lasting(before[1], sys.__stderr__, lambda _: None)
    out = _lasting(before[0], sys.__stdout__, complain)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        for stream in (out, err):
            with contextlib.suppress(ValueError):  # one that was closed
                stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None, real: TextIO | None, on_loss: Callable[[OSError], None]) -> TextIO:
    if stream is None:  # closed before the start
        return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if stream is not real or not isinstance(stream, io.TextIOWrapper):  # not the process's own: a notebook's, a test's
        return stream
    raw: Any = _Lasting(stream.fileno(), on_loss)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",  # a file's name, or a terminal without our characters
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
