"""What is made once and kept in the user's cache folder: everything in it may be deleted at any time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

log = logging.getLogger(__name__)

# Part of every digest: to be changed when `clsweep.data.datasets` makes something else of the same files.
_FORMAT = "2"
# Data sets kept; the ones used longest ago make room.
_KEPT = 8
# Nothing takes so long to make: a scratch folder of this age is what a killed process left.
_STALE_SECONDS = 3600
_SCRATCH = "tmp"
_ROOT = 0


def folder() -> Path:
    """The cache folder, made for its owner alone if it isn't there.

    Raises:
        OSError: it can't be made.
    """
    path = Path(platformdirs.user_cache_dir("clsweep"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder within the cache folder, for what is moved to its place once it is whole.

    Those that killed processes left behind are removed first.
    """
    for left in folder().glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # another process removes it, too
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder()) as path:
        yield Path(path)


def refuse_foreign(path: Path) -> None:
    """Refuse a file or folder that anybody but this user (or root) owns or may write: what is in it may be theirs.

    Raises:
        PermissionError: somebody else owns it or may write it.
    """
    found = path.stat()
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise PermissionError(f"{path} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others (chmod go-w {path})")


def tensors(files: Sequence[Path], read: Callable[[], Mapping[str, Tensor]], how: str = "") -> Mapping[str, Tensor]:
    """What `read` makes of `files`, from the cache where it has been read before.

    The copy is found by the files' names and content, not by their folder or dates, and read only if it is whole: its
    own digest is compared. Without a usable cache folder, the files are read each time.

    Args:
        files: everything that `read` reads, always in the same order.
        read: parses the files, which takes long.
        how: whatever else decides what `read` makes of them.

    Returns:
        The tensors by name, on the CPU.
    """
    if not files:
        return read()
    try:
        digest = _digest_of_files(files, how)
        path = folder() / f"images-{digest}.pt"
    except OSError as error:
        log.debug("no cache: %s", error)
        return read()
    kept = _whole(path)
    if kept is not None:
        return kept
    made = read()
    try:
        if _digest_of_files(files, how) == digest:  # nobody changed them meanwhile
            _keep(path, made)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter where the disk is full
        log.debug("not cached: %s", error)
    return made


def _digest_of_files(files: Sequence[Path], how: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT}{how}".encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:32]


def _digest_of_tensors(values: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().data)
    return digest.hexdigest()


def _whole(path: Path) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the cache; None where it isn't there or not as it was written."""
    if not path.exists():
        return None
    try:
        kept = torch.load(path, weights_only=True)
        if _digest_of_tensors(kept["tensors"]) == kept["digest"]:
            with suppress(OSError):  # a cache that may only be read
                path.touch()
            values: Mapping[str, Tensor] = kept["tensors"]
            return values
    except Exception as error:  # a damaged file raises whatever its parser runs into
        log.debug("%s: %s", path, error)
    log.info("%s is damaged: made anew.", path)
    return None


def _keep(path: Path, values: Mapping[str, Tensor]) -> None:
    with scratch() as place:
        new = place / path.name
        torch.save({"tensors": dict(values), "digest": _digest_of_tensors(values)}, new)
        new.replace(path)  # whole or not at all, whoever else writes it meanwhile
    for old in sorted(path.parent.glob("images-*.pt"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)
