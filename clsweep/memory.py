"""What fits into memory, asked before it is taken: the kernel kills a process that takes too much, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import psutil

from clsweep.errors import InputError

if TYPE_CHECKING:
    import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def refuse_beyond(n_bytes: float, what: str, expected: str, device: torch.device | None = None) -> None:
    """Refuse what cannot fit.

    Args:
        n_bytes: what it takes at the least.
        what: `key=value: the things that take it`, for the sentence.
        expected: what would fit.
        device: where it goes; None: the machine's own memory.

    Raises:
        InputError: it takes more than is free.
    """
    free = _free(device)
    if n_bytes > free:
        raise InputError(f"{what} need {size(n_bytes)} of memory, but {size(free)} are free; expected {expected}.")


def fitting(n_bytes: float) -> int:
    """How many things of a size fit into what is free of the machine's own memory."""
    return int(_free(None) // n_bytes)


def size(n_bytes: float) -> str:
    """As it is printed."""
    for unit, bytes_of_unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= bytes_of_unit:
            return f"{n_bytes / bytes_of_unit:,.1f} {unit}"
    return f"{n_bytes:,.0f} bytes"


def _free(device: torch.device | None) -> int:
    """Bytes that can be taken on a device: of the machine, or of this process's part of it (containers, Slurm)."""
    if device is not None and device.type == "cuda":
        from torch import cuda  # here, so that wrong input is told without it

        kept = cuda.memory_reserved(device) - cuda.memory_allocated(
            device
        )  # of earlier runs, by PyTorch, to be used again
        return int(cuda.mem_get_info(device)[0]) + kept
    return min([psutil.virtual_memory().available + psutil.swap_memory().free, *_left()])


def _left() -> Iterator[int]:
    """What this process's control groups, version 1 and 2, may still take; nothing where there are none."""
    try:
        groups = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        version = _V1 if controllers else _V2
        group = PurePosixPath(path.lstrip("/"))
        for within in (group, *group.parents):
            folder = _CGROUPS / controllers / within
            limit = _number(folder / version.limit)
            if limit is not None:  # else there is none
                yield max(0, limit - _taken(folder, version))


@dataclass(frozen=True)
class _Version:
    """What a control group's files are called, and the line of `memory.stat` on what the kernel drops for others."""

    limit: str
    taken: str
    dropped: str


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("memory.max", "memory.current", "inactive_file")


def _taken(group: Path, version: _Version) -> int:
    """What a control group has taken, but for what the kernel keeps of files that nobody has read for long."""
    taken = _number(group / version.taken) or 0
    try:
        lines = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    except OSError:
        return taken
    return max(0, taken - sum(int(line[1]) for line in lines if line[0] == version.dropped))


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no such file, or another word, as `max`."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
