"""A method that is no file: two functions, or any object that has them, given from Python."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from clsweep.errors import InputError
from clsweep.methods.fingerprint import Fingerprint

_NAMES: Final = ("estimate_importance", "compute_regularization_loss")
_ALL: Final = (*_NAMES, "transform_gradients", "quadratic_penalty")


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
        """A digest of the functions, of what they use, and of the object's attributes and class; see `Fingerprint`.

        What can't be compared, such as an open file, makes another digest each time.

        Args:
            algorithm: one of `hashlib`'s.

        Returns:
            Hexadecimal digits.
        """
        found, write = hashlib.new(algorithm), Fingerprint()
        for name in _ALL:
            function = getattr(self.functions, name, None)
            if callable(function):
                found.update(f"\0{name}\0{write.of(function)}".encode())
        if not isinstance(self.functions, ModuleType):  # which may have anything else in it
            found.update(write.of(self.functions).encode())
        return found.hexdigest()


def _name(method: object) -> str:
    """A name without dots, since it stands where a file's does."""
    named = method if hasattr(method, "__name__") else type(method)
    return str(getattr(named, "__name__", "")).rpartition(".")[2]
