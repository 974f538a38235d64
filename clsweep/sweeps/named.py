"""Optuna's samplers and pruners by the names of their classes."""

from __future__ import annotations

import difflib
import inspect
from types import ModuleType
from typing import Any

from clsweep.errors import InputError


def find(module: ModuleType, base: type[Any], key: str, name: str) -> type[Any]:
    """One of a module's classes by its name, in any case, with or without underscores and the last word.

    Args:
        module: where the classes are.
        base: what they derive from.
        key: what they are called in the setting, and their names' last word: sampler or pruner.
        name: such as `MedianPruner` or `median`.

    Raises:
        InputError: there is no such class.
    """
    classes = {
        one.lower(): kind
        for one, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base and not inspect.isabstract(kind)
    }
    wanted = normalized(name)
    found = classes.get(wanted, classes.get(wanted + key))
    if found is None:
        close = difflib.get_close_matches(wanted, classes, n=1, cutoff=0.4) or sorted(classes)
        names = ", ".join(classes[one].__name__ for one in close)
        raise InputError(f"search.{key}={name}: no such class in {module.__name__}; expected one such as {names}.")
    return found


def normalized(name: str) -> str:
    """A name as it is looked for: `median_pruner` is MedianPruner."""
    return name.lower().replace("_", "")


def build(kind: type[Any], key: str, options: dict[str, Any]) -> Any:
    """An instance of a sampler's or pruner's class.

    Args:
        kind: the class.
        key: sampler or pruner.
        options: its arguments.

    Raises:
        InputError: it doesn't take these arguments.
    """
    takes = inspect.signature(kind).parameters
    offered = [one for one in takes if one != "seed"]  # which a sweep gives
    needed = [one for one, argument in takes.items() if argument.default is argument.empty and one not in options]
    unknown = [one for one in options if one not in takes]
    if needed:
        example = ", ".join(f"{one}: ..." for one in needed)
        raise InputError(
            f"search.{key}={kind.__name__}: needs {' and '.join(needed)}; "
            f"expected search.{key}_options='{{{example}}}'."
        )
    if unknown:
        expected = difflib.get_close_matches(unknown[0], offered, n=1) or offered
        raise InputError(
            f"search.{key}_options: {kind.__name__} has no argument {unknown[0]}; expected "
            f"{', '.join(expected) or f'no search.{key}_options'}."
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        message = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"search.{key}_options={options}: {message}; expected arguments of {kind.__name__}: {', '.join(offered)}."
        ) from error
