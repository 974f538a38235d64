"""Which values the fields of a setting may have, said where the fields are."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from omegaconf import MISSING

from clsweep.errors import InputError
from clsweep.hyperparameters import Allowed

_ALLOWED: Final = "allowed"


def within(allowed: Allowed, default: Any = MISSING) -> Any:
    """A field of a configuration's dataclass whose values are checked by `check`."""
    return dataclasses.field(default=default, metadata={_ALLOWED: allowed})


def at_least(least: int) -> Allowed:
    """An integer from `least` on; OmegaConf checks that it is an integer."""
    return Allowed(lambda value: value >= least, f"an integer of {least} or more")


def or_null(allowed: Allowed, meaning: str = "") -> Allowed:
    """The same, or nothing.

    Args:
        allowed: what else there may be.
        meaning: what nothing stands for.
    """
    return Allowed(lambda value: value is None or allowed.holds(value), f"{allowed.expected}, or null{meaning}")


def check(of: Any, prefix: str = "") -> None:
    """Check every field that says which values it may have, of a dataclass and those in it.

    Args:
        of: the dataclass.
        prefix: of its keys, as `benchmark.`.

    Raises:
        InputError: naming the first key whose value is none of these.
    """
    for one in dataclasses.fields(of):
        value, allowed = getattr(of, one.name), one.metadata.get(_ALLOWED)
        if allowed is not None and not allowed.holds(value):
            typed = "null" if value is None else value
            raise InputError(f"{prefix}{one.name}={typed}: expected {allowed.expected}.")
        if dataclasses.is_dataclass(value):
            check(value, f"{prefix}{one.name}.")
