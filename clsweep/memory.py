"""What fits into memory, asked before it is taken: the kernel kills a process that takes too much, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import psutil

from clsweep.errors import InputError

if TYPE_CHECKING:
    import torch

_CGROUPS = Path("/sys/fs/cgroup")


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
    return min([psutil.virtual_memory().available + psutil.swap_memory().free, *_limits()])


def _limits() -> Iterator[int]:
    """The limits of this process's control groups, version 1 and 2; none where there are none."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for within in (group, *group.parents):
            file = _CGROUPS / controllers / within / ("memory.limit_in_bytes" if controllers else "memory.max")
            if file.is_file() and (limit := file.read_text().strip()).isdecimal():  # "max": none
                yield int(limit)
