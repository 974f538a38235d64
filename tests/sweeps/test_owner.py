from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from clsweep.sweeps import owner
from clsweep.sweeps.owner import from_json, heartbeats, this_process, to_json


def test_this_process_is_running() -> None:
    assert not this_process().has_ended(beat=None)
    assert from_json(to_json(this_process())) == this_process()


def test_a_process_that_ended_is_known_to_have() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = replace(this_process(), pid=process.pid, started=psutil.Process(process.pid).create_time())
        assert not other.has_ended(beat=None)
        process.kill()
        process.wait()
        assert other.has_ended(beat=time.time())


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    assert replace(this_process(), started=this_process().started - 100).has_ended(beat=None)


def test_another_machines_process_is_judged_by_its_beats() -> None:
    for elsewhere in (replace(this_process(), host="elsewhere"), replace(this_process(), boot="another container")):
        assert not elsewhere.has_ended(beat=time.time() - 60)
        assert elsewhere.has_ended(beat=time.time() - 600)
        assert elsewhere.has_ended(beat=None)  # a claim writes its first beat before its owner


def test_beats_come_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.01)
    beats: list[float] = []
    with heartbeats(lambda: beats.append(time.time())):
        while len(beats) < 3:
            time.sleep(0.01)
    after = len(beats)
    time.sleep(0.05)
    assert len(beats) == after
