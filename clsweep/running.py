"""A run's folder belongs to one process while it runs, a study's to the processes of this study.

Others would write the same files. The lock is the operating system's, on a file in the folder, and ends with the
process, however that ends. Where files can't be made or locked, it isn't known who else is there, and work goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from clsweep.errors import InputError

_FILE: Final = ".running"
_TAKEN: Final = (errno.EAGAIN, errno.EACCES)
_SHARED: Final = ".study"
_MOST_BYTES: Final = 300  # of who runs there
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_MOMENT: Final = 0.01  # seconds
_MOST_TRIES: Final = 500


@contextmanager
def alone(folder: Path, key: str = "hydra.run.dir") -> Iterator[None]:
    """While a run is in its folder, or several seeds are in theirs.

    Args:
        folder: made if it isn't there.
        key: what it was given by.

    Raises:
        InputError: another process runs there; nothing was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _locked(folder, key)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                (folder / _FILE).unlink()  # while it is still locked: it is nobody else's
            os.close(file)


def refuse(folder: Path, key: str = "hydra.run.dir") -> None:
    """Refuse a folder that another process runs in, without a trace; see `alone`.

    Raises:
        InputError: one does.
    """
    try:
        file = os.open(folder / _FILE, os.O_RDWR)
    except OSError:
        return
    try:
        _lock(file, fcntl.LOCK_SH, folder, key)
    finally:
        os.close(file)


@contextmanager
def together(folder: Path, study: str, storage: str) -> Iterator[None]:
    """While a process works on a study in the study's folder, beside others that work on the same one.

    Args:
        folder: made if it isn't there, and gone at the end if it is empty then.
        study: which; its name.
        storage: what it is kept in, as `clsweep.sweeps.storage.place` names it.

    Raises:
        InputError: a process works on another study there, or keeps it elsewhere.
    """
    made: list[Path] = []
    with suppress(OSError):  # a folder that can't be looked into is refused where it is used
        made = [one for one in (folder, *folder.parents) if not one.exists()]
    file = _joined(folder, study, storage)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the last one to leave
                (folder / _SHARED).unlink()
            os.close(file)
        with suppress(OSError):
            for one in made:
                one.rmdir()


def _joined(folder: Path, study: str, storage: str) -> int | None:
    """The file that all processes of a study have locked, which says what the study is; None where there are no locks.

    The first one writes it, locking it for itself. Changing this lock into a shared one lets it go for a moment, and
    another process may take it or remove the file: then all begins anew.
    """
    path, mine = folder / _SHARED, f"{study}\n{storage}"
    for _ in range(_MOST_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed just now by one that has left
            time.sleep(_MOMENT)
            continue
        except OSError:
            return None
        try:
            if _try(file, fcntl.LOCK_EX):
                os.ftruncate(file, 0)
                os.pwrite(file, os.fsencode(mine), 0)
            if _try(file, fcntl.LOCK_SH) and _is_there(file, path):
                there = os.fsdecode(os.pread(file, os.fstat(file).st_size, 0))
                if there == mine:
                    return file
                if there and not _try(file, fcntl.LOCK_EX):  # else its process has left meanwhile
                    other, _, elsewhere = there.partition("\n")
                    differs = f"with search.storage={elsewhere}" if other == study else f"and this one is of {study}"
                    raise InputError(
                        f"hydra.sweep.dir={folder}: a sweep of {other} is at work there, {differs}; expected another "
                        "folder, as each study has its own."
                    )
        except OSError as error:
            if error.errno not in _FULL:  # no locks here
                with suppress(OSError):
                    path.unlink()
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        time.sleep(_MOMENT)
    return None


def _try(file: int, kind: int) -> bool:
    """Lock a file unless another process has it.

    Raises:
        OSError: files can't be locked there.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _locked(folder: Path, key: str) -> int | None:
    """The locked file, which says who has it; None where there are no locks."""
    path = folder / _FILE
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            if not _lock(file, fcntl.LOCK_EX, folder, key):
                path.unlink(missing_ok=True)
                os.close(file)
                return None
            if _is_there(file, path):
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {platform.node()}".encode()[:_MOST_BYTES], 0)
                return file
        except OSError:  # a full disk: who it is stays unsaid
            return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # who had it has ended just now, and removed it


def _lock(file: int, kind: int, folder: Path, key: str) -> bool:
    """Lock a file; False where it can't be.

    Raises:
        InputError: another process has it.
    """
    try:
        if _try(file, kind):
            return True
    except OSError:
        return False
    who = os.pread(file, _MOST_BYTES, 0).decode(errors="replace") or "another process"
    raise InputError(
        f"{key}={folder}: {who} is running there; expected another folder, or the same command once that has ended."
    )


def _is_there(file: int, path: Path) -> bool:
    """Whether an open file still goes by its name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
