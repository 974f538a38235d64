"""What a process asks of the machine before it trains: threads, memory, numbers too small to matter."""

from __future__ import annotations

import ctypes
import os
import platform

import joblib
import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def prepare_cpu(threads: int | None) -> None:
    """Set up the process, at the start of every run.

    Args:
        threads: threads for PyTorch's operations. None: what OMP_NUM_THREADS says, which launchers set for their
            workers, else one for each physical core that this process may use (affinity, container limits).
    """
    threads = threads or _from_environment() or joblib.cpu_count(only_physical_cores=True)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    # Adam's averages decay into subnormal numbers for weights that stop moving, which are many times slower on a CPU.
    torch.set_flush_denormal(True)
    _keep_freed_memory()


def _from_environment() -> int | None:
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": nested parallelism
    return int(value) or None if value.isdecimal() else None


def _keep_freed_memory() -> None:
    """Stop glibc from giving freed tensors back to the system.

    Unless told otherwise it maps tensors above a size anew each time, and shrinks the heap as soon as its end is free:
    a training step then spends up to a quarter of its time in page faults (docs/performance.md). Tensors of up to
    32 MiB are kept; larger ones are whole data sets. Elsewhere than on Linux with glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 2**25)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_TOP_PAD, 2**26)
