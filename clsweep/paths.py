"""Paths as they are typed: relative to the folder that the command was typed in.

That folder is the current one only at the start: Hydra changes it where `hydra.job.chdir=true`, and a method may. So
paths are made absolute when they are read, and shortened again when they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

_start: Path | None = None


@contextmanager
def typed_in(folder: Path) -> Iterator[None]:
    """Take relative paths to be meant from a folder, whatever the current one becomes.

    Args:
        folder: where the command was typed.
    """
    global _start
    before, _start = _start, folder
    try:
        yield
    finally:
        _start = before


def here() -> Path:
    """The folder that relative paths are meant from: by default the current one."""
    return _start or Path.cwd()


def expanded(path: str | Path) -> Path:
    """A path with `~` replaced by the user's folder; the `~name` of an unknown user stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(path: str | Path) -> Path:
    """A path as it was typed, made absolute, with `~` replaced by the user's folder."""
    return here() / expanded(path)


def short(path: Path) -> Path:
    """A path as it is shown: from where the command was typed, if it is below."""
    start = here()
    return path.relative_to(start) if path.is_relative_to(start) else path


def no_file(path: str | Path) -> str:
    """What a path is where a file is expected and there is none."""
    return "is a folder" if Path(path).is_dir() else "no such file"


def no_folder(path: str | Path) -> str:
    """What a path is where a folder is expected and there is none."""
    return "is a file" if Path(path).is_file() else "no such folder"


def missing(folder: Path) -> list[Path]:
    """The folders that making one makes, the innermost first."""
    return list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders in which nothing is.

    Args:
        folders: inner ones before outer ones.
    """
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def config_dir() -> Path:
    """The folder of YAML files: the checkout's `conf/`, else the copy inside an installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def group_files(group: str, own: Path | None) -> list[Path]:
    """The YAML files of a group of settings, clsweep's own before those of `--config-dir`, as for Hydra.

    Args:
        group: its name; `*` for all groups.
        own: the folder of `--config-dir`, if any.
    """
    folders = [config_dir()] if own is None else [config_dir(), own]
    return [file for folder in folders for file in folder.glob(f"{group}/*.yaml")]
