"""Memory that a step frees and the next one needs again stays with the process."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
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
