from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clsweep import cache


class Reader:
    """Parses files of digits, and counts how often."""

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"digits": torch.tensor([int(digit) for file in self.files for digit in file.read_text()])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clsweep"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("123")
    return path


def read(*files: Path) -> tuple[list[int], int]:
    """The digits, and whether they were parsed."""
    reader = Reader(*files)
    return cache.tensors(files, reader)["digits"].tolist(), reader.calls


@pytest.mark.usefixtures("folder")
def test_a_source_is_parsed_once(source: Path) -> None:
    assert [read(source), read(source)] == [([1, 2, 3], 1), ([1, 2, 3], 0)]


@pytest.mark.usefixtures("folder")
def test_a_changed_source_is_parsed_again_whatever_its_date(source: Path) -> None:
    before = source.stat()
    read(source)
    source.write_text("124")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(source) == ([1, 2, 4], 1)


@pytest.mark.usefixtures("folder")
def test_the_order_of_files_of_the_same_name_matters(tmp_path: Path) -> None:
    files = []
    for name, digits in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "images")
        files[-1].write_text(digits)
    assert read(*files) == ([1, 2], 1)
    assert read(*reversed(files)) == ([2, 1], 1)


@pytest.mark.parametrize("damage", ["truncated", "another file", "a changed value"])
def test_a_damaged_copy_is_not_trusted(folder: Path, source: Path, damage: str) -> None:
    read(source)
    (copy,) = folder.iterdir()
    if damage == "truncated":
        copy.write_bytes(copy.read_bytes()[:-100])
    elif damage == "another file":
        torch.save([1, 2], copy)
    else:
        kept = torch.load(copy)
        kept["tensors"]["digits"][0] = 9
        torch.save(kept, copy)
    assert read(source) == ([1, 2, 3], 1)
    assert read(source) == ([1, 2, 3], 0)


def test_a_cache_folder_that_cannot_be_used_is_none(source: Path, folder: Path) -> None:
    folder.parent.write_text("a file where the folder would be")
    assert [read(source), read(source)] == [([1, 2, 3], 1)] * 2


def test_a_full_disk_costs_the_copy_only(folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    assert read(source) == ([1, 2, 3], 1)
    assert list(folder.iterdir()) == []


def test_a_source_that_changes_while_it_is_read_is_not_kept(folder: Path, source: Path) -> None:
    reader = Reader(source)

    def changing() -> dict[str, Tensor]:
        source.write_text("456")
        return reader()

    assert cache.tensors([source], changing)["digits"].tolist() == [4, 5, 6]
    assert list(folder.iterdir()) == []


def test_the_copies_used_longest_ago_make_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_KEPT", 2)
    files = [tmp_path / f"{digit}.txt" for digit in range(3)]
    for seconds, (digit, file) in enumerate(enumerate(files)):
        file.write_text(str(digit))
        read(file)
        for copy in folder.iterdir():  # as if made earlier, in this order
            if copy.stat().st_mtime > 1e9:
                os.utime(copy, (seconds, seconds))
    assert len(list(folder.iterdir())) == 2
    assert [read(file)[1] for file in files[1:]] == [0, 0]
    assert read(files[0])[1] == 1


def test_a_source_that_cannot_be_parsed_leaves_nothing(folder: Path, source: Path) -> None:
    source.write_text("not digits")
    with pytest.raises(ValueError, match="invalid literal"):
        read(source)
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_in_the_making_is_removed(folder: Path) -> None:
    with cache.scratch() as place:
        (place / "half").touch()
        killed, working = (shutil.copytree(place, folder / name) for name in ("tmpkilled", "tmpworking"))
    day_before = time.time() - 86_400
    os.utime(killed, (day_before, day_before))
    with cache.scratch():
        assert working.is_dir()
        assert not killed.exists()
    assert list(folder.iterdir()) == [working]


def test_the_folder_is_made_for_its_owner_alone(folder: Path) -> None:
    assert cache.folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
