from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import ROOT, command
from sqlalchemy import Engine, event

# A shell's background jobs ignore it, and so would the processes that are interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as under nohup; a handler, unlike SIG_IGN, isn't inherited
    signal.signal(signal.SIGHUP, lambda number, frame: None)
os.environ["OMP_NUM_THREADS"] = "1"  # with tensors this small, threads only wait for each other


@event.listens_for(Engine, "connect")
def unsynced(connection: object, _: object) -> None:
    """No database of a test must outlive a power cut, and waiting for the disk takes a fifth of the time of a sweep."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from the user's cache folder, and nothing left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def closed() -> Iterator[None]:
    """Storages that `sharing` has opened are closed at the end."""
    import sharing  # here, since it imports Optuna

    from clsweep.sweeps import storage

    yield
    while sharing.opened:
        storage.close(sharing.opened.pop())


Typed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """A command line in this process, which takes a tenth of the time of one in another."""

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        try:
            code = command(monkeypatch, *arguments)
        except SystemExit as end:  # within Hydra
            code = int(str(end.code))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(list(arguments), code, said.out, said.err)

    return run
