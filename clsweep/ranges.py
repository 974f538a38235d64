"""Which values the fields of a setting may have, said where the fields are."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from omegaconf import MISSING

from clsweep.errors import InputError
from clsweep.hyperparameters import Allowed

_ALLOWED: Final = "allowed"
DIGITS: Final = 18  # of a whole number in results, which are read as 64 bits
_LONGEST_NAME = 100


def within(allowed: Allowed, default: Any = MISSING) -> Any:
    """A field of a configuration's dataclass whose values are checked by `check`."""
    return dataclasses.field(default=default, metadata={_ALLOWED: allowed})


def at_least(least: int) -> Allowed:
    """An integer from `least` on; OmegaConf checks that it is an integer."""
    return Allowed(lambda value: value >= least, f"an integer of {least} or more")


def written(least: int) -> Allowed:
    """The same for what results hold, which could not be read again with more digits."""
    return Allowed(
        lambda value: least <= value < 10**DIGITS, f"an integer of {least} or more, of at most {DIGITS} digits"
    )


def _names_a_folder(value: str) -> bool:
    is_plain = value.isprintable() and value == value.strip() and not {"/", "\\"} & set(value)
    return is_plain and 1 <= len(value) <= _LONGEST_NAME and value not in (".", "..")


FOLDER_NAME = Allowed(
    _names_a_folder, f"a name for a folder, of at most {_LONGEST_NAME} characters, without slashes or blanks around it"
)


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
