"""Workers of a sweep that are processes of this machine: the sweep's own, and more of the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clsweep import paths, process
from clsweep.errors import ClsweepError, InputError, RunError, named
from clsweep.paths import short

_PROGRAM = "clsweep"
_PREFIX = f"{_PROGRAM}: "  # of what a command says on standard error
_INTERRUPTED = f"{_PREFIX}interrupted."
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 30.0


@dataclass(frozen=True)
class _Helper:
    """A worker in a process of its own, and where its output goes."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path


class Helpers:
    """Processes that work beside this one, from entering the context until they end or the context is left.

    What goes wrong in one of them is told at once, and doesn't end the others. Where the context is left by an
    exception, they are interrupted, as by Ctrl-C, so that what they have finished is kept.

    Args:
        commands: the arguments of each one's command line.
        threads: how many each uses; None: as many as it finds best.
        logs: the folder for their output; `<number>.log` is removed where nothing was said.
        tell: takes a line for the user; called from another thread.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], threads: int | None, logs: Path, tell: Callable[[str], None]
    ) -> None:
        self._commands = commands
        self._environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        self._logs = logs
        self._tell = tell
        self._helpers: list[_Helper] = []
        self._problems: list[ClsweepError] = []
        self._is_ending = False
        self._watch = threading.Thread(target=self._keep_watching, daemon=True)

    def __enter__(self) -> Self:
        if self._commands:
            self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for number, command in enumerate(self._commands, start=1):
                with process.interrupts_held():  # one that has begun is known, and ended
                    self._helpers.append(self._started(number, command))
        except BaseException:
            self._end()
            raise
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Interrupt those that still work where the context is left by an exception, and wait for all."""
        if kind is not None:
            self._end()
        self._watch.join()

    def wait(self) -> None:
        """Wait until all have ended.

        Raises:
            ClsweepError: what the first one says that ended with an error.
        """
        while self._watch.is_alive():  # a join without a limit isn't interrupted everywhere
            self._watch.join(_SECONDS_BETWEEN_LOOKS)
        if self._problems:
            raise self._problems[0]

    def _started(self, number: int, command: Sequence[str]) -> _Helper:
        log = self._logs / f"{number}.log"
        with log.open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, *command],
                cwd=paths.here(),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return _Helper(number, started, log)

    def _keep_watching(self) -> None:
        running = list(self._helpers)
        while running:
            for helper in [one for one in running if one.process.poll() is not None]:
                running.remove(helper)
                try:
                    self._ended(helper)
                except Exception as error:  # the others are watched on
                    sentence = f"worker {helper.number} ended, which couldn't be told ({named(error)})."
                    self._problems.append(RunError(sentence))
            threading.Event().wait(_SECONDS_BETWEEN_LOOKS)

    def _ended(self, helper: _Helper) -> None:
        code, lines = helper.process.returncode, _lines(helper.log)
        if code in (process.DONE, process.INTERRUPTED) and set(lines) <= {_INTERRUPTED}:
            with suppress(OSError):  # an empty log does no harm
                helper.log.unlink()
        if code == process.DONE or self._is_ending:
            return
        worker = f"worker {helper.number}"
        if code == process.INTERRUPTED:
            self._tell(f"{worker} was interrupted; the others go on")
        elif code < 0:
            self._tell(
                f"{worker} ended before it was done ({_signal(-code)}: killed, or out of memory perhaps); "
                "the others go on, and its trial is tried again"
            )
        else:
            said = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
            sentence = said[-1] if said else f"{worker} ended with an error, which {short(helper.log)} has."
            self._tell(f"{worker} ended: {sentence}")
            self._problems.append((InputError if code == process.WRONG_INPUT else RunError)(sentence))

    def _end(self) -> None:
        """Interrupt those that still work, and kill those that don't end then."""
        self._is_ending = True
        for helper in self._helpers:
            helper.process.terminate()
        for helper in self._helpers:
            try:
                helper.process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                helper.process.kill()


def _signal(number: int) -> str:
    """A signal's name, where it has one: of the real-time ones only the first and the last do."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _lines(log: Path) -> list[str]:
    """What a helper has said; nothing where its log can't be read."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
