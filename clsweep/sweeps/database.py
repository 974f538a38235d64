"""Optuna's storage in a database, as several processes share it and servers come and go."""

from __future__ import annotations

import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, Final, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError

from clsweep import passwords
from clsweep.errors import InputError, MachineError, machine_sentence
from clsweep.sweeps import owner

SQLITE = "sqlite"
_SECONDS_TO_WAIT_FOR_SQLITE = 120
_ATTEMPTS = 8
_SECONDS_TO_WAIT = 240.0  # for a database that is away: less than other machines wait for a beat
_SECONDS_BETWEEN_TRIES = 2.0
# SQLite's errors that are the machine's: no room, no access to the disk.
_MACHINE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM)
_NO_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
DAMAGED: Final = (
    "expected Optuna's database: restore it from a copy, or name a file that isn't there yet, and another "
    "hydra.sweep.dir; a report reads the runs that are there"
)
# What every storage of Optuna's has, of any version.
_STUDIES, _STUDY_COLUMNS = "studies", {"study_id", "study_name"}

_Returned = TypeVar("_Returned")


class Database(RDBStorage):
    """Optuna's storage, which waits where the database is away, and whose claims say at once whose they are.

    Args:
        url: the database's.
        shown: the same as it may be printed.

    Attributes:
        patience: how long it waits.
    """

    def __init__(self, url: URL, shown: str) -> None:
        self.patience = _patience(shown)
        self.patience.begin()
        super().__init__(url.render_as_string(hide_password=False), engine_kwargs=_engine_kwargs(url))
        if url.get_backend_name() == SQLITE:
            _lock_before_reading(self.engine)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """See Optuna's; a new claim is written together with its owner."""
        return super()._create_new_trial(study_id, template_trial or owner.claimed_trial())

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See Optuna's; the claim of a waiting trial is followed by its owner."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state == TrialState.RUNNING:
            owner.sign(self, trial_id)
        return changed


def _patient(call: Callable[..., _Returned]) -> Callable[..., _Returned]:
    """The same call, made again until the database is back."""

    @wraps(call)
    def patient(self: Database, *args: Any, **kwargs: Any) -> _Returned:
        while True:
            try:
                returned = call(self, *args, **kwargs)
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _is_away(error):
                    raise
                self.patience.wait(error)
            else:
                self.patience.is_back()
                return returned

    return patient


# What Optuna's cache in front of the database calls, besides what every storage has.
_INNER = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
for _name in (*BaseStorage.__abstractmethods__, "get_trial_id_from_study_id_trial_number", *_INNER):
    setattr(Database, _name, _patient(getattr(Database, _name)))


class _Patience:
    """How long this process waits for a database, in all of its threads, and what it says meanwhile.

    Args:
        shown: the database's URL as it may be printed.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._since: float | None = None
        self._lock = threading.Lock()
        self._at_end = threading.Event()

    def begin(self) -> None:
        """A connection is opened: whatever ended an earlier sweep, this one waits as long as any."""
        with self._lock:
            self._since = None
            self._at_end.clear()

    def wait(self, error: Exception) -> None:
        """Wait a moment for the next try.

        Args:
            error: what the last try came to, which is raised again where there is no next one.
        """
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                self._say(f"{first_line(error)}; waiting up to {_SECONDS_TO_WAIT / 60:.0f} minutes for it")
            if time.monotonic() - self._since > _SECONDS_TO_WAIT:
                self._at_end.set()
        if self._at_end.wait(_SECONDS_BETWEEN_TRIES):
            raise error

    def end(self) -> None:
        """Wait no more, in any thread, whatever is left to record."""
        self._at_end.set()

    def is_back(self) -> None:
        """A call went through."""
        if self._since is not None:
            with self._lock:
                if self._since is not None:
                    self._say(f"is back after {time.monotonic() - self._since:.0f} s")
                self._since = None
                self._at_end.clear()  # there is as much patience for the next time

    def _say(self, what: str) -> None:
        print(f"clsweep: search.storage={self._shown}: {what}.", file=sys.stderr, flush=True)


@cache
def _patience(shown: str) -> _Patience:
    return _Patience(shown)


def _is_away(error: Exception) -> bool:
    """Whether a database is not to be reached, or busy, for now."""
    cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    if isinstance(cause.orig, sqlite3.Error):
        return _sqlite_code(cause) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)


def _sqlite_code(error: BaseException) -> int:
    """SQLite's primary error code, also where Optuna raised its own error from it; 0 where it isn't SQLite's."""
    cause = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
    return int(getattr(getattr(cause, "orig", None), "sqlite_errorcode", 0)) & 0xFF


def _engine_kwargs(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == SQLITE:
        return {"connect_args": {"timeout": _SECONDS_TO_WAIT_FOR_SQLITE}}
    return {"pool_pre_ping": True}  # a database may close a connection that waits for long


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


def open_database(url: URL, shown: str, make: bool) -> Database | None:
    """Open a database.

    Args:
        url: the database's.
        shown: the same as it may be printed.
        make: whether Optuna's tables are to be made in an empty one.

    Returns:
        The database; None for one without Optuna's tables where nothing is to be made.

    Raises:
        InputError: it can't be reached, is not Optuna's or of another version, or its driver is not installed.
        MachineError: the machine refuses it.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            there = _tables(url, shown)
            return Database(url, shown) if make or _STUDIES in there else None
        except (ImportError, NoSuchModuleError) as error:
            raise InputError(
                f"search.storage={shown}: its driver is not installed ({error}); for PostgreSQL "
                "pip install 'psycopg[binary]'."
            ) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            if is_refused_by_the_machine(error):
                raise MachineError(machine_sentence(f"search.storage={shown}: {first_line(error)}")) from error
            if is_damaged(error):
                raise InputError(f"search.storage={shown}: {first_line(error)}; {DAMAGED}.") from error
            # Two processes that make the tables at the same time get in each other's way once.
            if attempt == _ATTEMPTS or _refused(error):
                raise InputError(f"search.storage={shown}: {first_line(error)}.") from error
            time.sleep(random.uniform(0.1, 0.5))
        except RuntimeError as error:  # Optuna's tables are of another version
            raise _of_another_version(shown, error) from error
    raise AssertionError("unreachable")


def _tables(url: URL, shown: str) -> set[str]:
    """The tables that are there.

    Raises:
        InputError: they aren't Optuna's, and none should be made beside them.
    """
    engine = sqlalchemy.create_engine(url, **_engine_kwargs(url))
    try:
        tables = sqlalchemy.inspect(engine)
        there = set(tables.get_table_names())
        if _STUDIES in there:
            foreign = bool(_STUDY_COLUMNS - {column["name"] for column in tables.get_columns(_STUDIES)})
        else:  # a server's database may be shared with other programs, but for the names that both would use
            foreign = bool(there) and (url.get_backend_name() == SQLITE or bool(there & {"trials", "alembic_version"}))
    finally:
        engine.dispose()
    if foreign:
        raise InputError(
            f"search.storage={shown}: not Optuna's, it holds the tables of another program "
            f"({', '.join(sorted(there)[:3])}); expected a database of its own."
        )
    return there


def _of_another_version(shown: str, error: RuntimeError) -> InputError:
    if "storage upgrade" in str(error):
        what = "made by an older Optuna"
        how = "expected the tables of the installed Optuna: back the database up, then run  "
        how += f"optuna storage upgrade --storage '{shown}'"
        how += " (its password for ***)" if "***" in shown else ""
    else:
        what, how = "made by a newer Optuna, or by another program", "expected a newer Optuna (pip install -U optuna)"
    return InputError(f"search.storage={shown}: {what}; {how}.")


def _refused(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("connection", "could not translate", "authentication", "unable to open"))


def first_line(error: Exception) -> str:
    """What a database, or its driver, says."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    lines = str(cause).strip().splitlines()
    return passwords.without((lines or [type(cause).__name__])[0].rstrip("."))


def is_damaged(error: Exception) -> bool:
    """Whether SQLite can't read its file any more."""
    return _sqlite_code(error) in _NO_DATABASE


def is_refused_by_the_machine(error: Exception) -> bool:
    """Whether SQLite has no room, or may not write."""
    return _sqlite_code(error) in _MACHINE
