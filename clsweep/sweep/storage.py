"""Optuna's storages by URL."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from clsweep.errors import InputError, RunError
from clsweep.paths import absolute, short

JOURNAL = "journal:"
_SQLITE_FILE = "studies.db"
_SECONDS_TO_WAIT_FOR_SQLITE = 120
_ATTEMPTS = 8


def url(given: str | None, folder: Path) -> str:
    """The storage's URL: the one given, else a SQLite file in the sweep folder.

    Args:
        given: `search.storage`.
        folder: the sweep folder.
    """
    if given is None:
        return f"sqlite:///{folder / _SQLITE_FILE}"
    file = _file(given)
    return given if file is None else _with_file(given, absolute(file))


def shown(storage: str) -> str:
    """The URL as it may be printed: without its password, a file from where the command was typed."""
    file = _file(storage)
    return _parsed(storage).render_as_string(hide_password=True) if file is None else _with_file(storage, short(file))


def connect(storage: str) -> BaseStorage:
    """Open a storage, made on first use; several processes may do so at the same time.

    Args:
        storage: a URL that Optuna's RDBStorage takes, or `journal:FILE` for its journal.

    Raises:
        InputError: it cannot be reached or read, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would tear the display apart
    file = _file(storage)
    if file is not None:
        _make_folder(file.parent)
    if storage.startswith(JOURNAL):
        return JournalStorage(JournalFileBackend(str(file)))
    if _parsed(storage).get_backend_name() != "sqlite":
        return _relational(storage, {"pool_pre_ping": True})  # a database may close a connection that waits for long
    made = _relational(storage, {"connect_args": {"timeout": _SECONDS_TO_WAIT_FOR_SQLITE}})
    _lock_before_reading(made.engine)
    return made


def _lock_before_reading(engine: Engine) -> None:
    """Let each of SQLite's transactions take the write lock at its start.

    Optuna takes a waiting trial by reading its state and then writing it. SQLite knows no lock on a row, and its Python
    driver begins a transaction only with the first write: two processes would take the same trial.
    """

    def leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", begin)
    engine.dispose()  # connections from before


@contextmanager
def told_in_a_sentence(storage: str) -> Iterator[None]:
    """Turn what goes wrong in a storage on the way into one sentence.

    Raises:
        RunError: it cannot be reached any more; what was finished is in it.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(
            f"search.storage={shown(storage)}: {_first_line(error)}; what is finished is kept: run the command again."
        ) from error


def close(connection: BaseStorage) -> None:
    """Close a storage's connections."""
    if isinstance(connection, RDBStorage):
        connection.remove_session()
        connection.engine.dispose()


def finished_trials(storage: str, names: Sequence[str]) -> dict[str, list[FrozenTrial]]:
    """The trials of the studies that exist already; a storage in a file that is not there is not made.

    Args:
        storage: its URL.
        names: the studies.

    Returns:
        Trials by study.
    """
    file = _file(storage)
    if file is not None and not file.is_file():
        return {}
    connection = connect(storage)
    try:
        there = set(optuna.get_all_study_names(connection)) & set(names)
        return {name: optuna.load_study(study_name=name, storage=connection).get_trials() for name in there}
    finally:
        close(connection)


def _file(storage: str) -> Path | None:
    """The file of a storage that is one."""
    if storage.startswith(JOURNAL):
        return Path(storage.removeprefix(JOURNAL))
    parsed = _parsed(storage)
    in_memory = parsed.database in (None, "", ":memory:")
    return None if parsed.get_backend_name() != "sqlite" or in_memory else Path(str(parsed.database))


def _with_file(storage: str, file: Path) -> str:
    """The URL of a storage that is a file, with another path of it."""
    if storage.startswith(JOURNAL):
        return f"{JOURNAL}{file}"
    return _parsed(storage).set(database=str(file)).render_as_string()


def _parsed(storage: str) -> URL:
    try:
        return make_url(storage)
    except (ArgumentError, ValueError) as error:  # not shown: it may hold a password
        raise InputError(
            "search.storage: not the URL of a storage; expected one such as sqlite:///FILE, "
            "postgresql+psycopg://USER@HOST/DATABASE or journal:FILE."
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"search.storage: the folder {folder} can't be made ({error.strerror}).") from error


def _relational(storage: str, engine_kwargs: dict[str, object]) -> RDBStorage:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return RDBStorage(storage, engine_kwargs=engine_kwargs)
        except (ImportError, NoSuchModuleError) as error:
            raise InputError(
                f"search.storage={shown(storage)}: its driver is not installed ({error}); for PostgreSQL install "
                "clsweep[postgres]."
            ) from error
        except SQLAlchemyError as error:
            # Two processes that make the tables at the same time get in each other's way once.
            if attempt == _ATTEMPTS or _refused(error):
                raise InputError(f"search.storage={shown(storage)}: {_first_line(error)}.") from error
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("unreachable")


def _refused(error: SQLAlchemyError) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("connection", "could not translate", "authentication", "unable to open"))


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    return str(cause).strip().splitlines()[0].rstrip(".")
