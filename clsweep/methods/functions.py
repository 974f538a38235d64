"""A method that is no file: two functions, or any object that has them, given from Python."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np

from clsweep.errors import InputError

_NAMES: Final = ("estimate_importance", "compute_regularization_loss")
_ALL: Final = (*_NAMES, "transform_gradients", "quadratic_penalty")
_PLAIN: Final = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Functions:
    """An object with the contract's functions.

    Its declarations, such as HYPERPARAMETERS, are attributes of the same names. It is used as it is: what it keeps from
    one run is there in the next, while a file starts anew.

    Attributes:
        functions: the object.
        shown: what to call it in messages and results.
    """

    functions: Any
    shown: str

    @classmethod
    def of(cls, method: object) -> Functions:
        """Those of a tuple of the two functions, a module, an instance, a class, a namespace.

        Raises:
            InputError: it has no such functions.
        """
        if isinstance(method, tuple | list):
            if len(method) != len(_NAMES) or not all(map(callable, method)):
                raise InputError(f"method: is {len(method)} values; expected two functions, ({', '.join(_NAMES)}).")
            return cls(SimpleNamespace(**dict(zip(_NAMES, method, strict=True))), _name(method[1]))
        missing = [name for name in _NAMES if not callable(getattr(method, name, None))]
        if missing:
            raise InputError(
                f"method: {_name(method)} has no function {missing[0]}; expected a built-in method's name, a path, a "
                f"tuple ({', '.join(_NAMES)}), or an object that has both."
            )
        return cls(method, _name(method))

    def digest(self, algorithm: str) -> str:
        """A digest of the functions' source text, of what they close over, and of the object's attributes.

        What can't be compared, such as an open file, makes another digest each time.

        Args:
            algorithm: one of `hashlib`'s.

        Returns:
            Hexadecimal digits.
        """
        found = hashlib.new(algorithm)
        for name in _ALL:
            function = getattr(self.functions, name, None)
            if callable(function):
                found.update(f"\0{name}\0{_text(function)}".encode())
        if not isinstance(self.functions, ModuleType):
            own = {key: value for key, value in _attributes(self.functions).items() if key not in _ALL}
            found.update(_value(own).encode())
        return found.hexdigest()


def _attributes(functions: object) -> dict[str, Any]:
    return {key: value for key, value in getattr(functions, "__dict__", {}).items() if not key.startswith("__")}


def _value(value: object, within: tuple[int, ...] = ()) -> str:
    """A text that is the same for equal values, and another one each time for what can't be compared."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in within:  # it holds itself
        return "again"
    inside = (*within, id(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{_value(key)}:{_value(one, inside)}" for key, one in value.items())) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_value(one, inside) for one in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(_value(one, inside) for one in value))}}}"
    array = value.detach().cpu().numpy() if hasattr(value, "detach") else value  # a tensor, without torch's import
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
    if inspect.isfunction(value) or inspect.ismethod(value):
        return _text(value, inside)
    if isinstance(value, type | ModuleType):
        return f"{getattr(value, '__module__', '')} {value.__name__}"
    return uuid.uuid4().hex


def _name(method: object) -> str:
    """A name without dots, since it stands where a file's does."""
    named = method if hasattr(method, "__name__") else type(method)
    return str(getattr(named, "__name__", "")).rpartition(".")[2]


def _text(function: Callable[..., Any], within: tuple[int, ...] = ()) -> str:
    """Its source, or what was compiled from it where that isn't kept; its defaults, and what it closes over."""
    code = getattr(function, "__code__", None)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = "" if code is None else f"{code.co_code.hex()} {code.co_consts!r}"
    inside = (*within, id(function))
    beside = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    beside += [_content(cell) for cell in getattr(function, "__closure__", None) or ()]
    return f"{source} {_value(beside, inside)}"


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None
