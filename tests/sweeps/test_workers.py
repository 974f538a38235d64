"""How a launcher starts the workers, and what becomes of what they are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from launching import launched

from clsweep.errors import InputError, RunError
from clsweep.sweeps import owner, workers


def test_the_tasks_of_sweeps_that_are_gone_are_removed(tmp_path: Path) -> None:
    tasks = tmp_path / ".tasks"
    tasks.mkdir()
    here = owner.to_json(owner.this_process())
    content = {
        "killed": {"sweep": here | {"started": 0.0}},
        "running": {"sweep": here},
        "elsewhere": {"sweep": here | {"host": "elsewhere"}},
        "elsewhere and old": {"sweep": here | {"host": "elsewhere"}},
        "of another version": {"storage": "postgresql://host/db"},
        "of another version and old": {},
    }
    for name, task in content.items():
        (tasks / f"{name}.json").write_text(json.dumps(task))
        if "old" in name:
            os.utime(tasks / f"{name}.json", (0, 0))
    launched(tmp_path)
    assert {path.stem for path in tasks.iterdir()} == {"running", "elsewhere", "of another version"}


def test_a_worker_whose_sweep_is_over_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the sweep that started this worker is over"):
        workers.work_on(tmp_path / "gone.json")


def test_a_worker_that_was_killed_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        launched(tmp_path, error=RuntimeError("A worker process was terminated.\nThe exit codes are"))
    assert str(told.value) == (
        "Looking: a worker ended before it was done, killed or out of memory perhaps (RuntimeError: A worker process "
        "was terminated); what is finished is kept: run the same command again."
    )
    assert list((tmp_path / ".tasks").iterdir()) == []


def test_no_more_workers_are_started_than_can_have_work(tmp_path: Path) -> None:
    assert len(launched(tmp_path, "search.n_trials=2", "search.workers=50").jobs) == 6  # final runs
    assert len(launched(tmp_path, "search.n_trials=20", "search.workers=50").jobs) == 20
    assert len(launched(tmp_path, "search.n_trials=20", "search.workers=3").jobs) == 3
