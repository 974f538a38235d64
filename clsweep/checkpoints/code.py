"""What the modules of a run's own code keep: in global names, in functions, in classes.

A method's file may count contexts in a global, in an argument's default, in what a function closes over, in an
attribute of a class. All of that starts anew when the file is run in another process, and is set to what it was.

What can't be packed, such as a logger or a library's object, is left to the new process, if it hasn't changed since the
code was run: it is the same object, and its pickle (which is made, but never read) is the same.
"""

from __future__ import annotations

import datetime
import enum
import functools
import importlib
import logging
import pickle
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any, Final

import numpy as np
from torch import Tensor

from clsweep.checkpoints.packing import DamagedError, Packer, Place, Unpacker

# What a method doesn't change: its content says nothing.
_CONSTANT: Final = (
    *(ModuleType, FunctionType, type, logging.Logger, re.Pattern, PurePath, datetime.date, datetime.timedelta),
    *(types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType),
    np.ufunc,
)
_BY_CONTENT: Final = (type(None), bool, int, float, complex, str, bytes, set, Tensor, np.ndarray)
_CACHED: Final = type(functools.cache(len))


class Fixed:
    """Values by their places, and whether they are what they were when they were noted."""

    def __init__(self) -> None:
        self._values: dict[Place, Any] = {}
        self._places: dict[int, Place] = {}
        self._contents: dict[int, bytes | None] = {}

    def note(self, place: Place, value: object, *, is_new: bool = True) -> None:
        """Note a value, and those in it where it is a container.

        Args:
            place: where it is.
            value: what is there.
            is_new: whether nothing can have changed it yet.
        """
        if isinstance(value, _BY_CONTENT) or id(value) in self._places:
            return
        self._values[place], self._places[id(value)] = value, place
        if isinstance(value, list | tuple | dict):
            for number, one in enumerate(value.values() if isinstance(value, dict) else value):
                self.note((*place, number), one, is_new=is_new)
        else:
            self._contents[id(value)] = _content(value) if is_new or isinstance(value, _CONSTANT) else None

    def place(self, value: object) -> Place | None:
        """Where an unchanged value is; None for a value that has changed or wasn't noted."""
        content = self._contents.get(id(value))
        return self._places[id(value)] if content is not None and _content(value) == content else None

    def at(self, place: Place) -> object:
        """What is there.

        Raises:
            LookupError: nothing.
        """
        return self._values[place]


def _content(value: Any) -> bytes | None:
    """What reveals a change; None where nothing does."""
    if isinstance(value, _CACHED):
        return str(value.cache_info().misses).encode()
    if isinstance(value, _CONSTANT):
        return b""
    try:
        return pickle.dumps(value)
    except Exception:  # whatever an object of somebody else's raises
        return None


class Code:
    """The modules of a run's own code, which have just been run; see this module's docstring.

    It is one of the `Places` of a packer: functions and classes are packed as their places.

    Args:
        modules: gives those that have been imported, by name: there may be more of them later.
        names: what they may be called.
    """

    def __init__(self, modules: Callable[[], Mapping[str, ModuleType]], names: Collection[str]) -> None:
        self._modules = modules
        self._names = names
        self._owners: dict[Place, Any] = {}
        self._places: dict[int, Place] = {}  # of functions and classes
        self._other_names: set[tuple[Place, int]] = set()  # of them
        self._fixed = Fixed()
        self._look(is_new=True)

    def _look(self, *, is_new: bool) -> None:
        modules = self._modules()
        for name, module in modules.items():
            if (name,) not in self._owners:
                self._note_owner((name,), module, modules, is_new=is_new)

    def _note_owner(self, place: Place, owner: object, modules: Mapping[str, ModuleType], *, is_new: bool) -> None:
        self._owners[place] = owner
        for key, value in _held(owner):
            here = (*place, key)
            if id(value) in self._places:
                self._other_names.add((here, id(value)))
            elif _is_own(value, owner, modules):
                self._places[id(value)] = here
                self._note_owner(here, value, modules, is_new=is_new)
            else:
                self._fixed.note(here, value, is_new=is_new)

    def place(self, value: object) -> Place | None:
        if id(value) not in self._places and isinstance(value, FunctionType | type):
            self._look(is_new=False)  # a function may have imported its module
        return self._places.get(id(value))

    def fixed(self, value: object) -> Place | None:
        return self._fixed.place(value)

    def at(self, place: Place) -> object:
        self._import(place[0])
        return self._owners[place] if place in self._owners else self._fixed.at(place)

    def _import(self, name: str) -> None:
        """Import a module, as a function did in the process that packed."""
        if (name,) not in self._owners:
            if name not in self._names:
                raise DamagedError(f"{name} is no module of this code")
            importlib.import_module(name)
            self._look(is_new=True)

    def pack(self, packer: Packer) -> dict[str, Any]:
        """What the modules hold now.

        Raises:
            UnpackableError: something in them can't be packed.
        """
        self._look(is_new=False)
        values = [
            (place, key, packer.pack(value, _shown(place, key)))
            for place, owner in self._owners.items()
            for key, value in _held(owner)
            if (*place, key) not in (self.place(value), self.fixed(value))
            and ((*place, key), id(value)) not in self._other_names
        ]
        return {"modules": [place[0] for place in self._owners if len(place) == 1], "values": values}

    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Let the modules hold what they held.

        Raises:
            DamagedError: it isn't of this code.
        """
        for name in packed["modules"]:
            self._import(name)
        for place, key, value in packed["values"]:
            if tuple(place) not in self._owners:
                raise DamagedError(f"{place} isn't in this code")
            _put(self._owners[tuple(place)], key, unpacker.unpack(value))


def _is_own(value: object, owner: object, modules: Mapping[str, ModuleType]) -> bool:
    """Whether it is a function or a class of the run's own code, or a function within such a function."""
    if not isinstance(value, FunctionType | type):
        return False
    if isinstance(value, FunctionType) and isinstance(owner, FunctionType):
        return True
    return value.__module__ in modules or any(
        getattr(value, "__globals__", None) is vars(module) for module in modules.values()
    )


def _held(owner: Any) -> Iterator[tuple[str, Any]]:
    """What a module, a class or a function holds, by keys that `_put` takes."""
    if isinstance(owner, FunctionType):
        yield "__defaults__", owner.__defaults__
        yield "__kwdefaults__", owner.__kwdefaults__
        yield "__dict__", {key: value for key, value in vars(owner).items() if key != "__wrapped__"}
        for number, cell in enumerate(owner.__closure__ or ()):
            try:
                yield str(number), cell.cell_contents
            except ValueError:  # nothing is in it yet
                continue
        return
    for key, value in list(vars(owner).items()):
        if key.startswith("__") and key.endswith("__"):
            continue
        if isinstance(owner, ModuleType):
            yield key, value
        elif isinstance(value, staticmethod | classmethod):
            yield key, value.__func__
        elif isinstance(value, FunctionType | type | _CACHED) or _is_data(key, value, owner):
            yield key, value


def _is_data(key: str, value: object, owner: type) -> bool:
    """Whether an attribute of a class is a value, and no part of how classes work."""
    return not (hasattr(value, "__get__") or key.startswith("_abc_") or issubclass(owner, enum.Enum))


def _put(owner: Any, key: str, value: Any) -> None:
    if not isinstance(owner, FunctionType):
        setattr(owner, key, value)
    elif key == "__dict__":
        vars(owner).update(value)
    elif key.isdigit():
        owner.__closure__[int(key)].cell_contents = value  # type: ignore[index]
    else:
        setattr(owner, key, value)


def _shown(place: Place, key: str) -> str:
    """A place in words: `counts in mine.py`."""
    module, *inside = place
    name = ".".join([*map(str, inside), key])
    return f"{name} in {str(module).removeprefix('clsweep_custom_')}.py"
