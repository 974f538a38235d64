"""Independent random streams from one seed.

Each purpose has its own generator, so that what one part draws never shifts what another part sees: the first
context is the same for every method and hyperparameter of one seed.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, such as `"batches", 3`.

    Returns:
        An integer from 0 to 2**63 - 1, the same on every machine.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
