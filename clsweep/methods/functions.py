"""A method that is no file: two functions, or any object that has them, as Python code gives it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from clsweep.errors import InputError

_NAMES: Final = ("estimate_importance", "compute_regularization_loss")
_ALL: Final = (*_NAMES, "transform_gradients", "quadratic_penalty")
_PLAIN: Final = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Functions:
    """An object with the contract's functions.

    What it declares, such as HYPERPARAMETERS, are attributes of the same names. It is used as it is: what it keeps from
    one run is there in the next, unlike what a file does.

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
        """A digest of the functions' source text, and of the object's plain attributes.

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
        values = {} if isinstance(self.functions, ModuleType) else getattr(self.functions, "__dict__", {})
        plain = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
        found.update(repr(sorted(plain.items())).encode())
        return found.hexdigest()


def _name(method: object) -> str:
    named = method if hasattr(method, "__name__") else type(method)
    module = getattr(named, "__module__", None) if not isinstance(method, ModuleType) else None
    name = str(getattr(named, "__qualname__", getattr(named, "__name__", "")))
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def _text(function: Callable[..., Any]) -> str:
    """Its source; what was compiled from it where that isn't kept."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return "" if code is None else f"{code.co_code.hex()} {code.co_consts!r}"
