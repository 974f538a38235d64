"""Storages by URL: what is one, and what is refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sharing
from optuna.exceptions import StorageInternalError
from sharing import ledger
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from clsweep.errors import InputError, MachineError, RunError
from clsweep.sweeps import database, storage


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sharing.opened:
        storage.close(sharing.opened.pop())


def refused(url: str) -> str:
    with pytest.raises(InputError) as told:
        storage.connect(url)
    return str(told.value)


@pytest.mark.parametrize("name", ["what?", "a#b", "100%", "{braces}", "spaced out", "ümläut"])
def test_the_database_lies_in_the_sweep_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shared = ledger(storage.url(None, folder), 1)
    assert shared.trials() == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == ["studies.db"]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///:memory:",
        "sqlite://",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&uri=true",
        "journal:",
    ],
)
def test_what_processes_cannot_share_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as told:
        storage.url(url, tmp_path)
    assert str(told.value) == (
        f"search.storage={url}: names no file, which the processes of a sweep could share; expected one such as "
        "sqlite:///FILE or journal:FILE."
    )


def test_a_folder_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    said = "caf\ufffd: isn't UTF-8, which the path of a sweep's database is; expected another folder, or "
    with pytest.raises(InputError, match=f"^hydra.sweep.dir={tmp_path}/{said}"):
        storage.url(None, folder)
    assert storage.url("journal:studies.log", folder).startswith("journal:/")


def test_an_empty_file_is_a_new_storage(tmp_path: Path) -> None:
    """A process that is killed at its start leaves one."""
    for name in ("sqlite:///", "journal:"):
        file = tmp_path / f"{name[:4]}.db"
        file.touch()
        url = f"{name}{file}"
        assert storage.trials_of(url, ["shared"]) == {}
        assert file.stat().st_size == 0  # looked at, and left as it was
        assert ledger(url, 1).trials() == []
        assert storage.trials_of(url, ["shared"]) == {"shared": []}


@pytest.mark.parametrize("table", ["studies", "papers"])
def test_another_programs_database_is_refused_untouched(tmp_path: Path, table: str) -> None:
    file = tmp_path / "studies.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute(f"create table {table} (id int)")
    before = file.read_bytes()
    assert refused(f"sqlite:///{file}") == (
        f"search.storage=sqlite:///{file}: not Optuna's, it holds the tables of another program ({table}); expected a "
        "database of its own."
    )
    assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.write_text("hello " * 99)
    assert refused(f"sqlite:///{file}") == (
        f"search.storage=sqlite:///{file}: file is not a database; expected Optuna's database: restore it from a copy, "
        "or name a file that isn't there yet, and another hydra.sweep.dir; a report reads the runs that are there."
    )
    assert file.read_text() == "hello " * 99


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "v3.0.0.d",  # Optuna 3.1's
            "made by an older Optuna; expected the tables of the installed Optuna: back the database up, then run  "
            "optuna storage upgrade --storage 'sqlite:///{}'.",
        ),
        ("v9.9", "made by a newer Optuna, or by another program; expected a newer Optuna (pip install -U optuna)."),
    ],
)
def test_a_database_of_another_optuna_is_refused_untouched(tmp_path: Path, version: str, message: str) -> None:
    file = tmp_path / "studies.db"
    storage.close(storage.connect(f"sqlite:///{file}"))
    with closing(sqlite3.connect(file)) as other:
        other.execute("update alembic_version set version_num = ?", [version])
        other.commit()
    before = file.read_bytes()
    assert refused(f"sqlite:///{file}") == f"search.storage=sqlite:///{file}: {message.format(file)}"
    assert file.read_bytes() == before


def test_a_full_disk_at_the_start_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullError(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_FULL

    def full(*_: object) -> None:
        raise OperationalError("create table", {}, FullError("database or disk is full"))

    monkeypatch.setattr(database, "_tables", full)
    with pytest.raises(MachineError) as told:
        storage.connect(f"sqlite:///{tmp_path}/studies.db")
    assert str(told.value) == (
        f"search.storage=sqlite:///{tmp_path}/studies.db: database or disk is full; what is finished is kept: when "
        "that is mended, run the same command again."
    )


def test_a_database_that_cannot_be_written_any_more_has_to_be_mended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"

    class ReadonlyError(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_READONLY

    cause = OperationalError("insert", {}, ReadonlyError("attempt to write a readonly database"))
    for error in (cause, StorageInternalError("attempt to write a readonly database")):
        error.__cause__ = None if error is cause else cause
        with pytest.raises(RunError) as told, storage.translating_errors(url):
            raise error
        assert str(told.value) == (
            f"search.storage={url}: attempt to write a readonly database; what is finished is kept: when that is "
            "mended, run the same command again."
        )


def test_a_database_that_stays_away_is_given_up_for_all_that_is_left_to_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    shared = ledger(url, 3)
    trial = shared.claim()
    assert trial is not None
    monkeypatch.setattr(database, "_SECONDS_TO_WAIT", 0.1)
    monkeypatch.setattr(database, "_SECONDS_BETWEEN_TRIES", 0.06)
    tries = []

    def away(_: object) -> None:
        tries.append(1)
        raise OperationalError("begin", {}, ConnectionError("Connection refused"))

    opened = sharing.opened[-1]
    assert isinstance(opened, database.Database)
    event.listen(opened.engine, "begin", away, insert=True)
    with pytest.raises(storage.ERRORS):
        shared.complete(trial, 0.5)
    assert len(tries) >= 2
    tries.clear()
    with pytest.raises(storage.ERRORS):
        shared.interrupt(trial)
    assert len(tries) == 1
    assert capsys.readouterr().err.count("Connection refused; waiting up to 0 minutes for it.") == 1


def test_an_interrupted_process_waits_for_no_database(tmp_path: Path) -> None:
    shared = ledger(f"sqlite:///{tmp_path}/studies.db", 3)
    trial = shared.claim()
    assert trial is not None
    opened = sharing.opened[-1]
    assert isinstance(opened, database.Database)
    tries = []

    def away(_: object) -> None:
        tries.append(1)
        raise OperationalError("begin", {}, ConnectionError("Connection refused"))

    event.listen(opened.engine, "begin", away, insert=True)
    with pytest.raises(KeyboardInterrupt), storage.not_waited_for_when_interrupted(opened):
        raise KeyboardInterrupt
    with pytest.raises(storage.ERRORS):
        shared.interrupt(trial)
    assert len(tries) == 1


def test_the_next_sweep_of_an_interrupted_process_waits_for_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    ledger(url, 3)
    with pytest.raises(KeyboardInterrupt), storage.not_waited_for_when_interrupted(sharing.opened[-1]):
        raise KeyboardInterrupt
    shared = ledger(url, 3)
    monkeypatch.setattr(database, "_SECONDS_BETWEEN_TRIES", 0.01)
    opened = sharing.opened[-1]
    assert isinstance(opened, database.Database)
    tries = []

    def away_twice(_: object) -> None:
        tries.append(1)
        if len(tries) <= 2:
            raise OperationalError("begin", {}, ConnectionError("Connection refused"))

    event.listen(opened.engine, "begin", away_twice, insert=True)
    assert shared.claim() is not None
