"""What an object of Python's is, as a text: the same for equal code and equal values, whichever process has them.

What a function calls belongs to it, as far as it is one's own: what it closes over, its defaults, the globals that it
names, and of modules of one's own what it names there. A class belongs to its instances. What is installed goes by its
name.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import pickle
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np

from clsweep import own

_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_WRAPPERS: Final = (staticmethod, classmethod)
_OF_EVERY_CLASS: Final = {
    *("__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__firstlineno__"),
    *("__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"),
}


class Fingerprint:
    """Writes the texts of several objects; what two of them share is written once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._written: list[object] = []  # kept, so that no other object gets their ids

    def of(self, value: object, unknown: str = "") -> str:
        """The text of an object.

        Args:
            value: the object.
            unknown: what stands for one that can't be compared, such as an open file; empty: another text each time.
        """
        if isinstance(value, _PLAIN):
            return repr(value)
        if hasattr(type(value), "untyped_storage"):  # a tensor, without torch's import
            return _tensor(value)
        if isinstance(value, np.ndarray):
            return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        if id(value) in self._numbers:
            return f"#{self._numbers[id(value)]}"
        if isinstance(value, SimpleNamespace):
            return self.of(vars(value), unknown)
        if not isinstance(value, list | tuple | set | frozenset | Mapping):
            if isinstance(value, ModuleType) or _is_installed(value):
                return self._by_name(value, unknown)
            self._number(value)
            return self._own(value, unknown)
        self._number(value)
        try:
            return self._container(value, unknown)
        finally:
            del self._numbers[id(value)]  # an equal one elsewhere is as good as the same

    def _number(self, value: object) -> None:
        self._numbers[id(value)] = len(self._written)
        self._written.append(value)

    def _container(self, value: Any, unknown: str) -> str:
        if isinstance(value, Mapping):
            pairs = sorted(f"{self.of(key, unknown)}:{self.of(one, unknown)}" for key, one in value.items())
            return f"{{{','.join(pairs)}}}"
        parts = [self.of(one, unknown) for one in value]
        return f"[{','.join(parts)}]" if isinstance(value, list | tuple) else f"{{{','.join(sorted(parts))}}}"

    def _own(self, value: Any, unknown: str) -> str:
        """A function, a class, an instance of one's own, or what wraps one."""
        if isinstance(value, FunctionType):
            return self._function(value, unknown)
        if isinstance(value, MethodType):
            return f"{self.of(value.__func__, unknown)} of {self.of(value.__self__, unknown)}"
        if isinstance(value, type):
            return self._class(value, unknown)
        return f"{self.of(type(value), unknown)} {self.of(_attributes(value), unknown)}"

    def _by_name(self, value: Any, unknown: str) -> str:
        if isinstance(value, _WRAPPERS):
            return self.of(value.__func__, unknown)
        if isinstance(value, property):
            return self.of([value.fget, value.fset], unknown)
        if isinstance(value, partial):
            return self.of([value.func, value.args, value.keywords], unknown)
        if isinstance(value, type | ModuleType | FunctionType) or inspect.isroutine(value):
            return f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}"
        try:
            return f"{type(value).__qualname__} {hashlib.sha256(pickle.dumps(value)).hexdigest()}"
        except Exception:  # whatever its class raises
            return f"{type(value).__qualname__} {unknown}" if unknown else uuid.uuid4().hex

    def _class(self, value: type, unknown: str) -> str:
        mine = {name: one for name, one in vars(value).items() if name not in _OF_EVERY_CLASS}
        return f"class {self.of(mine, unknown)} {self.of(list(value.__bases__), unknown)}"

    def _function(self, value: FunctionType, unknown: str) -> str:
        """Its source, or what was compiled from it where that isn't kept; its defaults, and what it names."""
        try:
            source = inspect.getsource(value)
        except (OSError, TypeError):
            source = f"{value.__code__.co_code.hex()} {_constants(value.__code__)!r}"
        beside = [value.__defaults__, value.__kwdefaults__, *map(_content, value.__closure__ or ())]
        # A global that can't be compared, such as a log, is rarely what a method is about.
        named = [self.of(one, unknown or "unknown") for one in _globals(value)]
        return f"{source} {self.of(beside, unknown)} {','.join(named)}"


def _is_installed(value: Any) -> bool:
    """Whether a module, or that of a function, a class or an instance, is Python's, clsweep's or installed."""
    module = value
    if not isinstance(value, ModuleType):
        where = value if isinstance(value, type | FunctionType | MethodType) else type(value)
        module = sys.modules.get(str(where.__module__))
    if module is None or module.__name__ == "__main__":
        return False
    if module.__name__.partition(".")[0] == "clsweep":
        return True
    file = getattr(module, "__file__", None)
    return file is None or own.is_installed(Path(file))


def _globals(function: FunctionType) -> Iterator[object]:
    """The globals that a function names, in the order of their names; of a module of one's own what it names there."""
    codes = list(_codes(function.__code__))
    attributes = sorted({name for code in codes for name in code.co_names})
    instructions = (one for code in codes for one in dis.get_instructions(code))
    for name in sorted({str(one.argval) for one in instructions if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}):
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name
        yield value
        if isinstance(value, ModuleType) and not _is_installed(value):
            yield from (getattr(value, one) for one in attributes if one in vars(value))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions within it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _constants(code: CodeType) -> list[object]:
    return [_constants(one) if isinstance(one, CodeType) else one for one in code.co_consts]


def _attributes(value: object) -> dict[str, Any]:
    """Of an object, those with slots included."""
    slots: Iterable[str] = (name for one in type(value).__mro__ for name in getattr(one, "__slots__", ()))
    slotted = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {name: one for name, one in (slotted | getattr(value, "__dict__", {})).items() if not name.startswith("__")}


def _tensor(value: Any) -> str:
    """Type, shape and bytes; numpy lacks some types, such as bfloat16."""
    import torch  # which is there

    content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None
