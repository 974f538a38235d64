"""What a process asks of the machine before it trains: threads, memory, tiny numbers, idle cores, products in bf16."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from dataclasses import dataclass
from functools import cache

import joblib
import psutil
import torch

_SAMPLE_SECONDS = 0.2
_PRODUCT_SIDE, _PRODUCTS = 256, 3
_EMULATED = 3  # how many times as long as in float32 bf16 may take: kernels take 0.3 to 1, loops 10 or more
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def prepare_cpu(threads: int | None) -> str | None:
    """Set up the process, at the start of every run.

    Args:
        threads: threads for PyTorch's operations. None: what OMP_NUM_THREADS says, which launchers set for their
            workers, else one for each physical core that this process may use (affinity, container limits) and other
            processes leave idle.

    Returns:
        One sentence where other processes leave fewer cores idle than there are, else None.
    """
    note = None
    threads = threads or threads_from_environment()
    if threads is None:
        threads, load = idle_cores()
        cores = physical_cores()
        if load is not None:
            note = f"{load}: a run takes {threads} of {cores} threads (threads={cores} takes all, and is slower now)"
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    # Adam's averages decay into subnormal numbers for weights that stop moving, which are many times slower on a CPU.
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    return note


def physical_cores() -> int:
    """How many this process may use (affinity, container limits)."""
    return int(joblib.cpu_count(only_physical_cores=True))


@cache
def idle_cores() -> tuple[int, str | None]:
    """How many physical cores are idle, at least one, and, where not all are, what other processes take of them.

    Asked once in a process: the trials of a sweep, or the seeds of a run, are trained with the same number of threads,
    and so round alike.
    """
    cores = physical_cores()
    if cores == 1:
        return 1, None
    load = _Load.measured()
    idle = max(1, min(cores, load.idle))
    return idle, None if idle == cores else str(load)


@dataclass(frozen=True)
class _Load:
    """What other processes take of the cores that this one may use."""

    taken: float
    cores: int

    @classmethod
    def measured(cls) -> _Load:
        """Now, in a fifth of a second."""
        before = time.process_time()
        busy = psutil.cpu_percent(_SAMPLE_SECONDS, percpu=True)
        own = (time.process_time() - before) / _SAMPLE_SECONDS  # threads of an earlier run, still waiting
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
        taken = sum(busy[core] for core in allowed if core < len(busy)) / 100
        return cls(max(0.0, taken - own), len(allowed))

    @property
    def idle(self) -> int:
        """How many threads find a core; half a core is one."""
        return int(self.cores - self.taken + 0.5)

    def __str__(self) -> str:
        return f"other processes keep {self.taken:.1f} of {self.cores} cores busy"


def busy_cores_warning() -> str | None:
    """One sentence if other processes leave this one fewer idle cores than it has threads, else None.

    Threads wait for each other in a loop that takes a core: where there are too few, a step is many times slower.
    Call it before training, since it counts everything that runs; with several threads it takes a fifth of a second.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return None
    load = _Load.measured()
    return None if threads <= load.idle else f"{load}: threads=1 may be many times faster"


def bf16_warning() -> str | None:
    """One sentence if this processor takes several times as long for products in bf16 as in float32, else None.

    PyTorch has kernels for bf16 where an x86 processor has AVX-512, and plain loops elsewhere, on many laptops too,
    which take 10 to 500 times as long (https://github.com/pytorch/pytorch/issues/146508). It is measured, in about a
    tenth of a second where it is slow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several may wait for each other where other processes keep the cores busy
    ratio = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    torch.set_num_threads(threads)
    if ratio < _EMULATED:
        return None
    return f"this processor takes {ratio:.0f} times as long for a product in bf16: a run is faster in precision=float32"


def _product_seconds(kind: torch.dtype) -> float:
    matrix = torch.ones(_PRODUCT_SIDE, _PRODUCT_SIDE, dtype=kind)
    matrix @ matrix  # the first one is slow
    taken = []
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - start)
    return min(taken)


def threads_from_environment() -> int | None:
    """What OMP_NUM_THREADS says, where it says something."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": nested parallelism
    return int(value) or None if value.isdecimal() else None


def give_back_memory() -> None:
    """Free what a run has left, before the next one in this process.

    glibc keeps what is freed, and between what stays, such as a trial's record, the gaps fit the next run ever worse: a
    process would grow by a mebibyte a run although no tensor is left.
    """
    gc.collect()  # networks that a method has put into a reference cycle: Python looks for these too seldom
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _keep_freed_memory() -> None:
    """Stop glibc from giving freed tensors back to the system.

    Unless told otherwise it maps tensors above a size anew each time, and shrinks the heap as soon as its end is free:
    a training step then spends up to a quarter of its time in page faults (docs/performance.md). Tensors of up to
    32 MiB are kept; larger ones are whole data sets. Without glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 2**25)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_TOP_PAD, 2**26)
