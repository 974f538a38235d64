"""Optuna's storages by URL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from clsweep import passwords
from clsweep.errors import InputError, MachineError, RunError, is_machine_error, machine_error, machine_sentence
from clsweep.paths import absolute, short
from clsweep.sweeps.database import (
    DAMAGED,
    SQLITE,
    Database,
    first_line,
    is_damaged,
    is_refused_by_the_machine,
    open_database,
)
from clsweep.sweeps.journal import DamagedJournalError, Journal

JOURNAL = "journal:"
ERRORS = (SQLAlchemyError, StorageInternalError)  # what a storage raises when it can't be read or written
_SQLITE_FILE = "studies.db"
_URI = "file:"  # of SQLite's own


def url(given: str | None, folder: Path) -> str:
    """The storage's URL: the one given, else a SQLite file in the sweep folder.

    Args:
        given: `search.storage`.
        folder: the sweep folder.

    Raises:
        InputError: the one given is no storage's, or one in memory, which processes can't share; the folder's name
            isn't UTF-8, as a URL is.
    """
    if given is None:
        try:
            return URL.create(SQLITE, database=str(folder / _SQLITE_FILE)).render_as_string()
        except UnicodeEncodeError as error:
            readable = os.fsencode(folder).decode(errors="replace")
            raise InputError(
                f"hydra.sweep.dir={readable}: isn't UTF-8, which the path of a sweep's database is; expected another "
                "folder, or search.storage=journal:FILE."
            ) from error
    whole = passwords.revealed(given)
    file = _file(whole)
    if _is_in_a_file(whole) and file is None:
        raise InputError(
            f"search.storage={shown(whole)}: names no file, which the processes of a sweep could share; expected one "
            "such as sqlite:///FILE or journal:FILE."
        )
    return whole if file is None else _with_file(whole, absolute(file))


def shown(storage: str) -> str:
    """The URL as it may be printed and written: without its password, a file from where the command was typed."""
    file = _file(storage)
    return passwords.masked(storage if file is None else _with_file(storage, short(file)))


def place(storage: str) -> str:
    """What tells it from others, without its password; of a file the name, as machines may reach it by other paths."""
    file = _file(storage)
    return passwords.masked(storage if file is None else _with_file(storage, Path(file.name)))


def is_sqlite(storage: str) -> bool:
    """Whether a URL is of SQLite, whose locks only the processes of one machine can trust."""
    return not storage.startswith(JOURNAL) and _parsed(storage).get_backend_name() == SQLITE


def connect(storage: str) -> BaseStorage:
    """Open a storage, made on first use; several processes may do so at the same time.

    Args:
        storage: a URL that Optuna's RDBStorage takes, or `journal:FILE` for its journal.

    Raises:
        InputError: it cannot be reached or read, is not Optuna's, or its driver is not installed.
        MachineError: the machine refuses it: its disk is full, say.
    """
    opened = _open(storage, make=True)
    assert opened is not None
    return opened


def _open(storage: str, make: bool) -> BaseStorage | None:
    """See `connect`; None where there is none yet and none is to be made."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its lines tear the display apart; what matters is raised
    file = _file(storage)
    if file is not None and not make and not (file.is_file() and file.stat().st_size):
        return None
    if file is not None:
        _make_folder(file.parent)
    if not storage.startswith(JOURNAL):
        return open_database(_parsed(storage), shown(storage), make)
    assert file is not None
    try:
        return Journal(file)
    except StorageInternalError as error:
        if isinstance(error.__cause__, OSError) and is_machine_error(error.__cause__):
            raise MachineError(machine_sentence(f"search.storage={JOURNAL}{error}")) from error
        raise InputError(f"search.storage={JOURNAL}{error}.") from error


@contextmanager
def translating_errors(storage: str) -> Iterator[None]:
    """Turn what goes wrong in a storage on the way into one sentence.

    Raises:
        RunError: it cannot be reached any more, or is damaged; what was finished is in it, or in its runs' folders.
    """
    try:
        yield
    except DamagedJournalError as error:
        raise RunError(f"search.storage={JOURNAL}{error}.") from error
    except ERRORS as error:
        journal = storage.startswith(JOURNAL)
        what = f"{JOURNAL}{error}" if journal else f"{shown(storage)}: {first_line(error)}"
        advice = "what is finished is kept: run the command again"
        if is_damaged(error):
            advice = DAMAGED
        elif is_refused_by_the_machine(error):
            advice = "what is finished is kept: when that is mended, run the same command again"
        raise RunError(f"search.storage={what}; {advice}.") from error


@contextmanager
def not_waited_for_when_interrupted(connection: BaseStorage) -> Iterator[None]:
    """Whoever interrupts a process does not want it to wait for a database that is away, in any of its threads."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if isinstance(connection, Database):
            connection.patience.end()
        raise


def close(connection: BaseStorage) -> None:
    """Close a storage's connections."""
    if isinstance(connection, RDBStorage):
        connection.remove_session()
        connection.engine.dispose()


def trials_of(storage: str, names: Sequence[str]) -> dict[str, list[FrozenTrial]]:
    """The trials of the studies that exist already; nothing is made, neither a file nor tables.

    Args:
        storage: its URL.
        names: the studies.

    Returns:
        Trials by study.

    Raises:
        InputError, MachineError: see `connect`.
        RunError: it is damaged, or stays away.
    """
    connection = _open(storage, make=False)
    if connection is None:
        return {}
    try:
        with translating_errors(storage):
            there = set(optuna.get_all_study_names(connection)) & set(names)
            return {name: optuna.load_study(study_name=name, storage=connection).get_trials() for name in there}
    finally:
        close(connection)


def _file(storage: str) -> Path | None:
    """The file of a storage that is one; None for a server's, and for SQLite's in memory."""
    if storage.startswith(JOURNAL):
        return Path(storage.removeprefix(JOURNAL)) if storage != JOURNAL else None
    parsed = _parsed(storage)
    name = (parsed.database or "").removeprefix(_URI)
    in_memory = name in ("", ":memory:") or parsed.query.get("mode") == "memory"
    return None if in_memory or not _is_in_a_file(storage) else Path(name)


def _is_in_a_file(storage: str) -> bool:
    return storage.startswith(JOURNAL) or is_sqlite(storage)


def _with_file(storage: str, file: Path) -> str:
    """The URL of a storage that is a file, with another path of it."""
    if storage.startswith(JOURNAL):
        return f"{JOURNAL}{file}"
    parsed = _parsed(storage)
    is_uri = str(parsed.database).startswith(_URI)
    return parsed.set(database=f"{_URI if is_uri else ''}{file}").render_as_string(hide_password=False)


def _parsed(storage: str) -> URL:
    try:
        return make_url(storage)
    except (ArgumentError, ValueError):  # not shown, and not behind it either: it may hold a password
        raise InputError(
            "search.storage: not the URL of a storage; expected one such as sqlite:///FILE, "
            "postgresql+psycopg://USER@HOST/DATABASE or journal:FILE."
        ) from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_machine_error(error):
            raise machine_error(error, "search.storage") from error
        raise InputError(f"search.storage: the folder {folder} can't be made ({error.strerror}).") from error
