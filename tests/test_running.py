"""Who may work in a study's folder at the same time; runs are in `training/test_going_on.py`."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from clsweep import running
from clsweep.errors import InputError

STORAGE = "journal:studies.log"


def together(folder: Path, study: str, storage: str = STORAGE) -> AbstractContextManager[None]:
    return running.together(folder, study, storage)


def test_processes_of_one_study_share_its_folder_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    with together(folder, "ewc"):
        with together(folder, "ewc"):
            assert folder.is_dir()
        with together(folder, "ewc"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_another_study_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with together(folder, "ewc"):
        for name in ("l2", "ewc-lr", "ew"):
            sentence = (
                f"hydra.sweep.dir={folder}: a sweep of ewc is at work there, and this one is of {name}; expected "
            )
            with pytest.raises(InputError, match=f"^{sentence}"), together(folder, name):
                pass
        with together(folder, "ewc"):
            pass
        (folder / "trials.csv").touch()
    with together(folder, "l2"), pytest.raises(InputError, match="a sweep of l2 is"), together(folder, "ewc"):
        pass
    assert [path.name for path in folder.iterdir()] == ["trials.csv"]


def test_the_same_study_with_another_storage_is_refused(tmp_path: Path) -> None:
    with together(tmp_path, "ewc"):
        said = f"a sweep of ewc is at work there, with search.storage={STORAGE}; expected another folder"
        with pytest.raises(InputError, match=said), together(tmp_path, "ewc", "sqlite:///studies.db"):
            pass


def test_the_file_of_a_killed_process_binds_nobody(tmp_path: Path) -> None:
    (tmp_path / ".study").write_text("a study with a long name")
    with together(tmp_path, "ewc"), together(tmp_path, "ewc"):
        assert (tmp_path / ".study").read_text() == f"ewc\n{STORAGE}"


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    storage = os.fsdecode(b"journal:/caf\xe9/studies.log")
    with together(tmp_path, "ewc", storage), together(tmp_path, "ewc", storage):
        pass
    (tmp_path / ".study").write_bytes(b"\xff")
    with together(tmp_path, "ewc"):
        pass


def test_where_there_are_no_locks_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with together(tmp_path / "sweep", "ewc"), together(tmp_path / "sweep", "l2"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a file").touch()
    with together(tmp_path / "a file" / "below", "ewc"), together(tmp_path / ("long" * 100), "ewc"):
        pass


def test_of_two_studies_that_begin_at_once_one_is_refused(tmp_path: Path) -> None:
    at_work: Counter[str] = Counter()
    together_with, refused = set(), []
    counting, begin = threading.Lock(), threading.Barrier(6)

    def work(name: str) -> None:
        begin.wait()
        for _ in range(100):
            try:
                with together(tmp_path / "sweep", name):
                    with counting:
                        at_work[name] += 1
                        together_with.add(frozenset(one for one in at_work if at_work[one]))
                    with counting:
                        at_work[name] -= 1
            except InputError:
                refused.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ewc", "l2") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together_with == {frozenset(["ewc"]), frozenset(["l2"])}
    assert len(refused) < 600
    assert list(tmp_path.glob("sweep/*")) == []
