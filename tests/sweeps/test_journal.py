"""A journal as killed processes, full disks and other programs leave it."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sharing
from optuna.storages.journal import JournalFileSymlinkLock
from sharing import ledger

from clsweep.errors import InputError, MachineError, RunError
from clsweep.sweeps import storage
from clsweep.sweeps.ledger import Ledger


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    sharing.opened.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "studies.log"


def filled(file: Path) -> Ledger:
    """Two complete trials."""
    shared = ledger(f"journal:{file}", 9)
    for value in (0.25, 0.5):
        trial = shared.claim()
        assert trial is not None
        shared.complete(trial, value)
    return shared


def values(file: Path) -> list[float | None]:
    return [trial.value for trial in ledger(f"journal:{file}", 9).trials()]


def cut(file: Path, size: int) -> None:
    os.truncate(file, file.stat().st_size - size)


@pytest.mark.parametrize("size", [1, 17, 100])
def test_half_a_line_is_cut_off_before_anything_is_written(file: Path, size: int) -> None:
    filled(file)
    whole = file.read_bytes().splitlines(keepends=True)
    cut(file, size)
    again = ledger(f"journal:{file}", 9)
    again.study.set_user_attr("anything", 1)
    assert file.read_bytes().splitlines(keepends=True)[: len(whole) - 1] == whole[:-1]
    assert [json.loads(line)["op_code"] for line in file.read_text().splitlines()][-1] == 2
    assert values(file) == [0.25, None]  # the line said that the second was complete


def test_a_line_that_is_being_written_is_left_to_its_writer(file: Path) -> None:
    shared = filled(file)
    lock = JournalFileSymlinkLock(str(file))
    line = file.read_bytes().splitlines(keepends=True)[0].replace(b"shared", b"others")
    lock.acquire()
    with file.open("ab") as other:
        other.write(line[:20])
        other.flush()
        mine = threading.Thread(target=shared.study.set_user_attr, args=("anything", 1))
        mine.start()
        time.sleep(0.2)  # it waits for the lock
        other.write(line[20:])
    lock.release()
    mine.join()
    assert values(file) == [0.25, 0.5]
    assert sorted(optuna.get_all_study_names(sharing.opened[-1])) == ["others", "shared"]


def test_a_full_disk_leaves_whole_lines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = filled(file)
    before = file.read_bytes()
    room = [False]

    def sync(_: int) -> None:
        if not room[0]:
            cut(file, 9)  # as much as there was room for
            room[0] = True
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(RunError) as told, storage.translating_errors(f"journal:{file}"):
        shared.study.set_user_attr("anything", 1)
    assert str(told.value) == (
        f"search.storage=journal:{file}: No space left on device; what is finished is kept: run the command again."
    )
    assert file.read_bytes() == before
    assert values(file) == [0.25, 0.5]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"\xbd", "no text"),
        (b"[]\n", "not as Optuna writes one"),
        (b'{"op_code":99}\n', "not as Optuna writes one"),
        (b"\0\n", "no JSON"),
    ],
)
def test_damage_within_is_one_sentence_with_its_line(file: Path, damage: bytes, reason: str) -> None:
    filled(file)
    lines = file.read_bytes().splitlines(keepends=True)
    content = b"".join([*lines[:4], damage, *lines[5:]])
    file.write_bytes(content)
    with pytest.raises(InputError) as told:
        storage.connect(f"journal:{file}")
    assert str(told.value).startswith(f"search.storage=journal:{file}, line 5: damaged ({reason})")
    assert str(told.value).endswith(
        "; expected a line as Optuna's journal has them: restore the file from a copy, or keep what precedes the "
        f"damage (head -n 4 {file} > NEW) and go on with it in another hydra.sweep.dir."
    )
    assert file.read_bytes() == content


@pytest.mark.parametrize("content", ["my thesis, in one line", "a,b\n1,2\n"])
def test_another_programs_file_is_left_alone(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(InputError) as told:
        storage.connect(f"journal:{file}")
    assert str(told.value) == (
        f"search.storage=journal:{file}: not a journal of Optuna's; expected one, or a file that isn't there yet."
    )
    assert file.read_text() == content


def test_half_a_line_that_no_journal_begins_with_is_damage(file: Path) -> None:
    filled(file)
    content = file.read_bytes() + b"\0" * 40  # as a computer that lost its power leaves it
    file.write_bytes(content)
    number = content.count(b"\n") + 1
    with pytest.raises(InputError, match=rf"line {number}: damaged \(half a line of something else\)"):
        storage.connect(f"journal:{file}")
    assert file.read_bytes() == content


@pytest.mark.parametrize("last", [b"\n", b"my notes\n", b'{"op_code":5,"study\n', b"\xbd\n"])
def test_a_damaged_last_line_is_found_before_another_one_follows_it(file: Path, last: bytes) -> None:
    filled(file)
    content = file.read_bytes() + last
    file.write_bytes(content)
    number = content.count(b"\n")
    with pytest.raises(InputError, match=rf"line {number}: damaged \(no (JSON|text)\)"):
        storage.connect(f"journal:{file}")
    assert file.read_bytes() == content


def test_the_lock_of_a_killed_process_is_removed_by_its_own_time(file: Path) -> None:
    shared = filled(file)
    lock = JournalFileSymlinkLock(str(file))
    lock.acquire()
    old = time.time() - 40
    os.utime(f"{file}.lock", (old, old), follow_symlinks=False)
    shared.study.set_user_attr("anything", 1)  # Optuna's own lock would wait for 30 s
    assert not Path(f"{file}.lock").is_symlink()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_the_machine_refuses_is_not_the_settings_fault(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    monkeypatch.setattr("clsweep.sweeps.journal._check_ends", refuse)
    with pytest.raises(MachineError) as told:
        storage.connect(f"journal:{file}")
    assert str(told.value) == (
        f"search.storage=journal:{file}: Too many open files; what is finished is kept: when that is mended, run "
        "the same command again."
    )
    assert told.value.exit_code == 1
