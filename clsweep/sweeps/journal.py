"""Optuna's journal, a storage in a file of lines, hardened against killed processes and full disks."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from clsweep.sweeps import owner

_BEGINNING = b'{"op_code":'  # of every line
_SECONDS_A_LOCK_IS_HELD = 30.0  # at the most: a line is written in a moment
_BLOCK = 65_536


class DamagedJournalError(StorageInternalError):
    """A journal holds what no journal should; the message is one sentence."""


class Journal(JournalStorage):
    """A journal whose claims say at once whose they are.

    Args:
        file: made if it isn't there.

    Raises:
        DamagedJournalError: the file is no journal, or it is damaged.
        StorageInternalError: it can't be read or made.
    """

    def __init__(self, file: Path) -> None:
        try:
            lines = _Lines(file)
        except OSError as error:
            raise _refused(file, error) from error
        try:
            super().__init__(lines)
        except StorageInternalError:
            raise
        except Exception as error:  # whatever Optuna runs into on a line that it has not written
            raise _damaged(file, lines.read, _what(error)) from error

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See Optuna's; a new claim is written together with its owner."""
        return super().create_new_trial(study_id, template_trial or owner.claimed_trial())

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See Optuna's; the claim of a waiting trial is followed by its owner."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state == TrialState.RUNNING:
            owner.sign(self, trial_id)
        return changed


class _Lines(JournalFileBackend):
    """The file behind a journal; see Optuna's.

    Attributes:
        read: the number of the line that was read last, from 1.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file), _WholeLines(file))
        self._file = file
        self.read = 0
        _check_ends(file)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See Optuna's.

        Raises:
            StorageInternalError: the file is damaged, or can't be read.
        """
        self.read = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                self.read += 1
                yield log
        except ValueError as error:  # no JSON, or no text
            raise _damaged(self._file, self.read + 1, _what(error)) from error
        except OSError as error:
            raise _refused(self._file, error) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See Optuna's.

        Raises:
            StorageInternalError: the file is damaged, or can't be written; what was in it is as it was.
        """
        try:
            super().append_logs(logs)
        except OSError as error:
            raise _refused(self._file, error) from error


class _WholeLines(JournalFileSymlinkLock):
    """Optuna's lock, under which the file ends in a whole line.

    A process that is killed while it writes, or whose disk is full, leaves half a line, which nobody counts as
    written. What is appended to it would be lost with it, and would make the file unreadable.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._file = file
        self._link = Path(self._lock_file)

    def acquire(self) -> bool:
        """Take the lock, and cut off half a line."""
        self._break_if_old()
        super().acquire()
        try:
            self._cut()
        except BaseException:
            super().release()
            raise
        return True

    def release(self) -> None:
        """Cut off what was written only in part, and give the lock back."""
        try:
            self._cut()
        finally:
            with suppress(RuntimeError):  # it took long, and another process has broken the lock
                super().release()

    def _break_if_old(self) -> None:
        """Remove the lock of a process that was killed.

        Optuna counts the time from when this process first saw it: one that is restarted often would wait forever.
        """
        try:
            since = self._link.lstat().st_mtime
            with tempfile.NamedTemporaryFile(dir=self._file.parent, prefix=f".{self._file.name}.") as now:
                old = os.fstat(now.fileno()).st_mtime - since > _SECONDS_A_LOCK_IS_HELD  # by the same clock
        except OSError:
            return  # nobody has it, or this can't be known
        if old:
            with suppress(RuntimeError):  # another process was faster
                super().release()

    def _cut(self) -> None:
        with self._file.open("r+b") as file:
            start, half = _half_line(file)
            if half:
                file.truncate(start)
                os.fsync(file.fileno())


def _half_line(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line without an end begins, and its first bytes; none where the file ends in a whole one."""
    end = file.seek(0, os.SEEK_END)
    start = _after_newline(file, end)
    file.seek(start)
    return start, file.read(len(_BEGINNING)) if start < end else b""


def _after_newline(file: BinaryIO, end: int) -> int:
    """Where what follows the last newline before a place begins."""
    start = end
    while start > 0:
        block = min(_BLOCK, start)
        file.seek(start - block)
        newline = file.read(block).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1 - block
        start -= block
    return start


def _last_whole_line(file: BinaryIO) -> bytes:
    """Without its end."""
    end = max(0, _after_newline(file, file.seek(0, os.SEEK_END)) - 1)
    start = _after_newline(file, end)
    file.seek(start)
    return file.read(end - start)


def _check_ends(file: Path) -> None:
    """Check the first and the last line: what isn't a journal must not be written to, let alone be cut.

    Optuna looks at a damaged last line only when another follows it.

    Raises:
        DamagedJournalError: they aren't as a journal's lines are.
    """
    with file.open("rb") as content:
        first = content.read(len(_BEGINNING))
        if not _BEGINNING.startswith(first):
            raise DamagedJournalError(
                f"{file}: not a journal of Optuna's; expected one, or a file that isn't there yet"
            )
        _, half = _half_line(content)
        if not _BEGINNING.startswith(half):
            content.seek(0)
            raise _damaged(file, sum(1 for _ in content), "half a line of something else")
        if first and not half:
            try:
                json.loads(_last_whole_line(content))
            except ValueError as error:
                content.seek(0)
                raise _damaged(file, sum(1 for _ in content), _what(error)) from error


def _what(error: Exception) -> str:
    """What is wrong with a line, in words that aren't a parser's."""
    if isinstance(error, UnicodeDecodeError):
        return "no text"
    return "no JSON" if isinstance(error, ValueError) else "not as Optuna writes one"


def _damaged(file: Path, line: int, reason: str) -> DamagedJournalError:
    """What to say of a line that can't be read."""
    return DamagedJournalError(
        f"{file}, line {line}: damaged ({reason}); expected a line as Optuna's journal has them: restore the file from "
        f"a copy, or keep what precedes the damage (head -n {line - 1} {shlex.quote(str(file))} > NEW) and go on with "
        "it in another hydra.sweep.dir"
    )


def _refused(file: Path, error: OSError) -> StorageInternalError:
    return StorageInternalError(f"{file}: {error.strerror or error}")
