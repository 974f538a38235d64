from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from clsweep.sweeps import owner
from clsweep.sweeps.owner import BEAT, Owner, from_json, heartbeats, this_process, to_json

linux = pytest.mark.skipif(not psutil.LINUX, reason="what is told here is what Linux says of its processes")


@pytest.fixture(autouse=True)
def boot_found_anew() -> Iterator[None]:
    """What a test has told of the machine is not kept."""
    yield
    owner._boot.cache_clear()


def running(beat: float | None) -> FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={} if beat is None else {BEAT: beat})


@pytest.fixture
def pass_minutes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets minutes pass for this process, whatever the machine's clock says."""
    passed = [0.0]
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 60 * sum(passed))
    monkeypatch.setattr(owner, "_silent", {})
    return passed.append


def in_its_first_form(one: Owner) -> Owner:
    """The same process as an older version wrote it down: its start is in seconds of a clock alone."""
    started = psutil.Process(one.pid).create_time()
    return from_json({"host": one.host, "boot": one.boot, "pid": one.pid, "started": started})


def test_this_process_is_running() -> None:
    assert not this_process().has_ended(running(None))
    assert from_json(to_json(this_process())) == this_process()
    assert this_process().is_this_process


def test_a_process_that_ended_is_known_to_have() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started, ticks = owner._start(psutil.Process(process.pid))
        other = replace(this_process(), pid=process.pid, started=started, ticks=ticks)
        older = in_its_first_form(other)
        assert not other.has_ended(running(None))
        assert not older.has_ended(running(None))
        process.kill()
        process.wait()
        assert other.has_ended(running(time.time()))
        assert older.has_ended(running(time.time()))


def test_another_process_with_the_same_number_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if psutil.LINUX:
        assert replace(this_process(), ticks=0).has_ended(running(None))
    monkeypatch.setattr(psutil, "LINUX", False)
    elsewhere = this_process()
    assert elsewhere.started is not None
    assert not elsewhere.has_ended(running(None))
    assert replace(elsewhere, started=elsewhere.started - 100).has_ended(running(None))


@linux
def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1e9)  # which Linux reckons from its clock
    assert not before.has_ended(running(None))
    assert before.is_this_process


@linux
def test_a_machine_that_gets_another_name_knows_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    owner._boot.cache_clear()
    assert before.is_here
    assert before.is_this_process
    assert not before.has_ended(running(None))


@linux
def test_a_container_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers share the machine's start, and perhaps its name, but count their processes themselves."""
    before = this_process()
    monkeypatch.setattr(Path, "readlink", lambda _: Path("pid:[1]"))
    owner._boot.cache_clear()
    assert not before.is_here
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)  # nothing to tell them by but their names
    owner._boot.cache_clear()
    first = this_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    owner._boot.cache_clear()
    assert not first.is_here


def test_another_machines_process_is_judged_by_its_beats(pass_minutes: Callable[[float], None]) -> None:
    elsewhere = replace(this_process(), boot="another machine or container")
    behind = time.time() - 7200  # that machine's clock
    assert not elsewhere.has_ended(running(behind))
    pass_minutes(4)
    assert not elsewhere.has_ended(running(behind + 240))
    pass_minutes(4)
    assert not elsewhere.has_ended(running(behind + 240))
    pass_minutes(2)
    assert elsewhere.has_ended(running(behind + 240))


@linux
def test_an_owner_of_an_older_version_whose_number_is_in_use_is_judged_by_its_beats(
    pass_minutes: Callable[[float], None],
) -> None:
    older = in_its_first_form(this_process())
    beat = time.time()
    assert not older.has_ended(running(beat))
    pass_minutes(4)
    assert not older.has_ended(running(beat))
    pass_minutes(2)
    assert older.has_ended(running(beat))


def test_beats_come_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.01)
    beats: list[float] = []
    with heartbeats(lambda: beats.append(time.time())):
        while len(beats) < 3:
            time.sleep(0.01)
    after = len(beats)
    time.sleep(0.05)
    assert len(beats) == after
