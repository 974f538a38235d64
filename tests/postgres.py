"""A PostgreSQL server of the tests' own, where the machine has the programs (Debian: `postgresql`)."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest


class Server:
    """A server; see `server`."""

    def __init__(self, folder: Path, port: int, run: Callable[..., None]) -> None:
        self._folder = folder
        self._port = port
        self._run = run
        self._databases = 0

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control(f"--options={options}", f"--log={self._folder / 'log'}", "--wait", "start")

    def stop(self) -> None:
        """Stop it as a crash would."""
        self._control("--mode=immediate", "stop")

    def _control(self, *arguments: str) -> None:
        self._run(_program("pg_ctl"), f"--pgdata={self._folder / 'data'}", *arguments)

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"studies_{self._databases}"
        self._run(_program("createdb"), "--host=127.0.0.1", f"--port={self._port}", "--username=clsweep", name)
        return f"postgresql+psycopg://clsweep@127.0.0.1:{self._port}/{name}"


@contextmanager
def server() -> Iterator[Server]:
    """Start a server in a folder of its own, and stop it in the end.

    Skips the test where PostgreSQL is not installed.
    """
    initdb = _program("initdb")
    folder = Path(tempfile.mkdtemp(prefix="clsweep-postgres-"))
    user = _unprivileged()
    try:
        if user is not None:
            shutil.chown(folder, user)
        _run(user, initdb, "--auth=trust", "--username=clsweep", "--no-sync", f"--pgdata={folder / 'data'}")
        made = Server(folder, _free_port(), partial(_run, user))
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str:
    folders = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"PostgreSQL is not installed here: no {name} (Debian: apt-get install postgresql)")
    return found


def _unprivileged() -> str | None:
    """The account to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    accounts = [account.pw_name for account in pwd.getpwall() if account.pw_name in ("postgres", "nobody")]
    return max(accounts)  # postgres where there is one


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _run(user: str | None, *command: str) -> None:
    # A server that inherited the pipes would keep them open.
    done = subprocess.run(command, user=user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
