"""Independent random streams from one seed, or from its parts.

Each purpose has its own generator, so that what one part draws never shifts what another part sees: the first
context is the same for every method and hyperparameter of one seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from clsweep.config import Config


@dataclass(frozen=True)
class Seeds:
    """The parts of a run's seed: each is the seed itself, unless `seed_order`, `seed_init` or `seed_batches` is given.

    Attributes:
        order: of what the contexts hold: class order, permutations, angles, what a stream of one's own draws, and which
            examples are held out.
        init: of the initial parameters.
        batches: of the order of the examples, and of whatever draws while training: dropout, a method, its estimates.
    """

    order: int
    init: int
    batches: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of a setting."""
        return cls.of_values(vars(config))

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """The same from a setting's values, by key; a part that isn't there is the seed."""
        given = {name: values.get(f"seed_{name}") for name in ("order", "init", "batches")}
        return cls(**{name: values["seed"] if part is None else part for name, part in given.items()})


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


class States(NamedTuple):
    """The states of every global random number generator that a method may draw from; those of GPUs by their index."""

    torch_cpu: torch.Tensor
    torch_cuda: dict[int, torch.Tensor]
    numpy: Any
    python: Any


class GlobalStream:
    """A stream of its own for code that draws from the global generators of torch, NumPy and Python.

    Inside `active()` the global generators continue where they stopped when `active()` was last left; outside they are
    what they would have been without it.

    Args:
        seed: where the stream starts.

    Attributes:
        states: where it stopped when it was last left; None where it hasn't begun.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.states: States | None = None

    def packable(self, device: torch.device) -> tuple[Any, ...] | None:
        """Where it stopped; see `seeding.packable`."""
        return None if self.states is None else packable(self.states, device)

    def restore(self, packed: tuple[Any, ...] | None, device: torch.device) -> None:
        """Go on where another one stopped; see `seeding.unpacked`."""
        self.states = None if packed is None else unpacked(packed, device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Swap the stream in, and put the global generators back at the end, whatever happens inside."""
        outside = capture()
        if self.states is None:
            torch.manual_seed(self._seed)
            np.random.seed(self._seed % 2**32)
            random.seed(self._seed)
        else:
            restore(self.states)
        try:
            yield
        finally:
            self.states = capture()
            restore(outside)


def generator_states() -> bytes:
    """The states of the global generators, to compare."""
    states = capture()
    cuda = [state.cpu().numpy().tobytes() for state in states.torch_cuda.values()]
    _, keys, *rest = states.numpy
    return repr((states.torch_cpu.numpy().tobytes(), keys.tobytes(), cuda, rest, states.python)).encode()


@contextmanager
def kept() -> Iterator[None]:
    """Leave the global generators as they were, whatever draws from them inside."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


def capture() -> States:
    """The states of the global generators now."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return States(torch.get_rng_state(), dict(enumerate(cuda)), np.random.get_state(), random.getstate())


def restore(states: States) -> None:
    """Set the global generators; those of CUDA where it is in use."""
    torch.set_rng_state(states.torch_cpu)
    if states.torch_cuda and torch.cuda.is_available():
        for index, state in states.torch_cuda.items():
            torch.cuda.set_rng_state(state, index)
    np.random.set_state(states.numpy)
    random.setstate(states.python)


def packable(states: States, device: torch.device) -> tuple[Any, ...]:
    """States as a file holds them, as tensors, arrays and plain containers.

    Args:
        states: all of them.
        device: the run's. Of the GPUs only this one is in the file: another process may see more of them, or fewer.
    """
    own = states.torch_cuda.get(device.index) if device.type == "cuda" else None
    return (states.torch_cpu, [] if own is None else [own], states.numpy, states.python)


def unpacked(packed: tuple[Any, ...], device: torch.device) -> States:
    """What `packable` gave, for a run on a device, which may have another index than it had then.

    Raises:
        LookupError, TypeError, ValueError: `packable` didn't make it.
    """
    torch_cpu, cuda, numpy, python = packed
    own = {}
    if cuda and device.type == "cuda":
        own[device.index] = cuda[device.index if len(cuda) > 1 else 0]  # older files hold all GPUs' states
    return States(torch_cpu, own, numpy, python)
