"""Misspelled names of what a method may define: nothing would call or read them, and no result would say so."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from clsweep.errors import InputError

_CUTOFF = 0.84  # HYPERPARAMS is close to HYPERPARAMETERS, PATH_INTEGRAL no longer to USES_PATH_INTEGRAL


def check_spelling(functions: Any, hooks: Collection[str], declarations: Collection[str], source: str) -> None:
    """Refuse a name that is close to one that a method may define, and that nothing else of the method uses.

    Args:
        functions: a module, or another object with a method's functions.
        hooks: the names of functions that it may define.
        declarations: those of values.
        source: what to call it in messages.

    Raises:
        InputError: it has such a name.
    """
    defined = _defined(functions)
    of_functions = dict(_functions(defined, functions.__name__ if isinstance(functions, ModuleType) else None))
    uses = {name: set(_names_in(function.__code__)) for name, function in of_functions.items()}
    for name, value in defined.items():
        is_value = name[:1].isupper() and not callable(value) and not isinstance(value, ModuleType)
        known = hooks if name in of_functions else declarations if is_value else ()
        meant = _meant(name, [one for one in known if not hasattr(functions, one)])
        if meant is not None and not any(name in names for user, names in uses.items() if user != name):
            raise InputError(f"{source}: has {name}, which nothing uses; expected {meant}, or a name less like it.")


def _meant(name: str, known: Collection[str]) -> str | None:
    """The name that may be meant; one that holds it as whole words, or begins with `_`, says that it is another."""
    folded, lowered = name.casefold(), {one.casefold(): one for one in known}
    close = difflib.get_close_matches(folded, lowered, n=1, cutoff=_CUTOFF)
    if not close or name.startswith("_"):
        return None
    is_another = folded != close[0] and f"_{close[0]}_" in f"_{folded}_"
    return None if is_another else lowered[close[0]]


def _defined(functions: Any) -> dict[str, Any]:
    """What a module holds, or an object and its classes, by name."""
    if isinstance(functions, ModuleType):
        return vars(functions)
    kind = functions if isinstance(functions, type) else type(functions)
    owners = [*(one for one in reversed(kind.__mro__) if one is not object), functions]
    return {name: value for owner in owners for name, value in getattr(owner, "__dict__", {}).items()}


def _functions(defined: Mapping[str, Any], module: str | None) -> Iterator[tuple[str, FunctionType]]:
    """The functions among these values, by name, and those of classes by `class.name`; without imported ones.

    Args:
        defined: values by name.
        module: the name of the one that they are to be defined in; None: wherever.
    """
    for name, value in defined.items():
        if isinstance(value, type) and value.__module__ == module:
            yield from ((f"{name}.{one}", function) for one, function in _functions(vars(value), None))
        found = getattr(value, "__func__", value)  # of a static or a bound method
        if isinstance(found, FunctionType) and (module is None or found.__module__ == module):
            unwrapped = inspect.unwrap(found)
            if isinstance(unwrapped, FunctionType):
                yield name, unwrapped


def _names_in(code: CodeType) -> Iterator[str]:
    """The names that code reads: globals and attributes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
