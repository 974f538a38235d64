"""A password in a storage's URL is neither printed nor written, whatever the command is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import launching
import postgres
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_cli import TINY, environment

from clsweep import passwords
from clsweep.errors import InputError

SECRET = "hunter2.xyz"


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLSWEEP_STORAGE", raising=False)
    monkeypatch.setenv("CLSWEEP_STORAGE", "")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:{}@host:5/db", "postgresql+psycopg://me:***@host:5/db"),
        ("postgresql://me@host/db?password={}&sslmode=require", "postgresql://me@host/db?password=***&sslmode=require"),
        ("postgresql://me:{}@/db?host=/run&sslpassword={}", "postgresql://me:***@/db?host=%2Frun&sslpassword=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3D{}", "mssql+pyodbc:///?odbc_connect=***"),
        ("mysql://me:{}%40%2F@host/db", "mysql://me:***@host/db"),
        ("postgresql://me:{}@h/a,postgresql://me:{}@h/b", "postgresql://me:***@h/b"),
        ("postgresql://me:{}@host:port/db", "postgresql://me:***@host:port/db"),  # no URL to SQLAlchemy
        ("sqlite:///a b.db?timeout=5", "sqlite:///a b.db?timeout=5"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("journal:/shared/studies.log", "journal:/shared/studies.log"),
    ],
)
def test_what_is_secret_in_a_url_is_not_shown(url: str, shown: str) -> None:
    whole = url.replace("{}", SECRET)
    assert passwords.masked(whole) == shown
    assert passwords.masked(shown) == shown
    assert SECRET not in passwords.within(f"a sentence with {whole} in it, for me@example.org.")
    assert passwords.revealed(passwords.keep(whole)) == whole


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_hydra_never_sees_the_password(prefix: str, quote: str) -> None:
    url = f"postgresql://me:{SECRET}@host/db?sslmode=require"
    argument = f"{prefix}search.storage={quote}{url}{quote}"
    other = "regularizer.file=it's.py"
    hidden, same = passwords.hidden([argument, other])
    assert same == other
    shown = str(OverridesParser.create().parse_override(hidden).value())
    assert shown == "postgresql://me:***@host/db?sslmode=require"
    assert passwords.revealed(shown) == url


def test_a_password_that_hydra_cannot_read_is_hidden_too() -> None:
    url = f"postgresql://me:{{{SECRET}, it's@host/db"
    assert passwords.hidden([f"search.storage={url}"]) == ["search.storage='postgresql://me:***@host/db'"]
    assert passwords.revealed("postgresql://me:***@host/db") == url
    text = passwords.without(f"can't connect as me with {SECRET}, to {url}")
    assert SECRET not in passwords.without(f"invalid option: {{{SECRET}, it's")
    assert SECRET not in text.partition(" to ")[2]


def test_a_url_from_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", f"postgresql://me:{SECRET}@host/db")
    monkeypatch.setenv("DB_HOST", "host")
    assert passwords.hidden(["search.storage=${oc.env:DB_URL}"]) == ["search.storage='postgresql://me:***@host/db'"]
    mixed = f"search.storage=postgresql://me:{SECRET}@${{oc.env:DB_HOST}}/db"
    assert passwords.hidden([mixed]) == ["search.storage='postgresql://me:***@host/db'"]
    assert passwords.revealed("postgresql://me:***@host/db") == f"postgresql://me:{SECRET}@host/db"


def test_a_masked_url_that_is_typed_is_refused() -> None:
    with pytest.raises(InputError, match="its password isn't known here; expected the whole URL, or one without a"):
        passwords.revealed("postgresql://me:***@host/db")


def test_nothing_that_a_killed_sweep_could_leave_holds_the_password(tmp_path: Path) -> None:
    url = f"postgresql://me:{SECRET}@host/db"
    launcher = launching.launched(tmp_path, url=url)
    assert SECRET not in launcher.seen + repr(launcher.jobs)
    told, alone = (one for one in launcher.jobs[0] if "search.storage" in one)
    assert "'++search.storage=\\'postgresql://me:***@host/db\\''" in told
    assert alone == "search.storage=null"
    assert passwords.revealed("postgresql://me:***@host/db") == url  # in the environment, which workers inherit


COMMANDS = """
import json, os, sys
from clsweep import cli

for arguments, traceback in json.loads(sys.argv[1]):
    os.environ["CLSWEEP_TRACEBACK"] = "1" if traceback else "0"
    sys.argv[1:] = arguments
    try:
        code = cli.main()
    except SystemExit as ended:
        code = ended.code
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = "traceback"
    print("ended with", code, flush=True)
"""
QUICK = (*TINY, "figures=false")


def run_all(folder: Path, *commands: tuple[tuple[str, ...], bool]) -> subprocess.CompletedProcess[str]:
    """Commands one after the other in a process of their own."""
    arguments = json.dumps([[list(one), traceback] for one, traceback in commands])
    script = [sys.executable, "-c", COMMANDS, arguments]
    return subprocess.run(script, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def leaks(folder: Path) -> list[Path]:
    """The files below a folder that hold the password."""
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_command_prints_or_writes_the_password(tmp_path: Path) -> None:
    alone = "search.workers=1"
    sweep = ("--multirun", *QUICK, "regularizer=none", "search.final_seeds=1", "hydra.sweep.dir=sweep", alone)
    away = f"search.storage=postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db"
    (tmp_path / "conf").mkdir()
    literal = f"search: {{storage: 'postgresql://me:{SECRET}@host/db'}}"
    (tmp_path / "conf" / "mine.yaml").write_text(f"defaults: [config, _self_]\n{literal}\n")
    own = ("--config-dir", "conf", "--config-name", "mine")
    ok, wrong = "ended with 0", "ended with 2"
    commands: list[tuple[tuple[str, ...], bool, str]] = [
        ((*sweep, f"search.storage='sqlite:///file:{tmp_path}/a.db?uri=true&password={SECRET}'"), False, ok),
        ((*QUICK, away, "--cfg", "all"), False, ok),
        ((*QUICK, away, "hydra.run.dir=run"), False, wrong),
        ((*QUICK, "--multirun", "hydra.sweep.dir=basic", "hydra/sweeper=basic", away), False, wrong),
        ((*sweep, f"{away}{{ "), False, wrong),
        ((*sweep, f"search.storag='{away}"), False, wrong),
        ((*sweep, away, "search.dry_run=true"), False, wrong),
        ((*sweep, away), True, ""),
        ((*sweep, f"search.storage=sqlite://me:{SECRET}@/a.db"), True, ""),
        ((*sweep, f"search.storage=postgresql://me:{SECRET}"), True, ""),
        ((*QUICK, "regularizer=none", "hydra.run.dir=own-run", "benchmark.iters=2", *own), False, ok),
    ]
    done = run_all(tmp_path, *((one, traceback) for one, traceback, _ in commands))
    parts = done.stdout.split("ended with ")
    codes = [part.splitlines()[0] for part in parts[1:]]
    assert len(codes) == len(commands), done.stdout + done.stderr
    for (one, _, expected), code in zip(commands, codes, strict=True):
        assert f"ended with {code}".startswith(expected), (one, code, done.stderr)
    assert SECRET not in done.stdout + done.stderr
    assert leaks(tmp_path) == [tmp_path / "conf" / "mine.yaml"]
    assert (tmp_path / "own-run" / ".hydra" / "config.yaml").exists()
    assert "a.db?password=***&uri=true" in parts[0]
    assert "me:***@127.0.0.1:1/db" in parts[1]
    assert (tmp_path / "sweep" / "final.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("search.workers=1",),
        ("search.workers=2",),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("hydra/launcher=submitit_local", "search.workers=2", "hydra.launcher.timeout_min=5"),
    ],
)
def test_a_databases_password_reaches_the_workers_and_no_file(launcher: tuple[str, ...], tmp_path: Path) -> None:
    with postgres.server() as server:
        url = server.new_database().replace("clsweep@", f"clsweep:{SECRET}@")
        sweep = ("--multirun", *QUICK, "regularizer=si", "search.n_trials=3", "search.final_seeds=1")
        arguments = (*sweep, *launcher, f"search.storage={url}", "hydra.verbose=true", "hydra.sweep.dir=sweep")
        command = [sys.executable, "-m", "clsweep", *arguments]
        with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
            while not list(tmp_path.glob("sweep/trial-*")):
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
        assert leaks(tmp_path) == []
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert leaks(tmp_path) == []
