"""What a method declares about its hyperparameters: a default, the values allowed, and what a sweep searches.

A built-in method's are the fields of its class, a file's the entries of its `HYPERPARAMETERS`.
"""

from __future__ import annotations

import dataclasses
import difflib
import keyword
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from types import MappingProxyType
from typing import Any, get_type_hints

from clsweep.errors import InputError

_DECLARATION = "hyperparameter"
_KEY = "regularizer"


@dataclass(frozen=True)
class Allowed:
    """Which values there may be.

    Attributes:
        holds: whether a value is one of them.
        expected: them, in words.
    """

    holds: Callable[[Any], bool]
    expected: str


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


NUMBER = Allowed(_is_number, "a finite number")
NOT_NEGATIVE = Allowed(lambda value: _is_number(value) and value >= 0, "a finite number of 0 or more")
POSITIVE = Allowed(lambda value: _is_number(value) and value > 0, "a finite number above 0")
SHARE = Allowed(lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1")
COUNT_OR_ALL = Allowed(
    lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1),
    "1 or more, or null for all",
)
TRUTH = Allowed(lambda value: isinstance(value, bool), "true or false")
TEXT = Allowed(lambda value: isinstance(value, str), "a text")


def one_of(*names: str) -> Allowed:
    """One of some names."""
    return Allowed(lambda value: value in names, f"one of {', '.join(names)}")


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter.

    Attributes:
        default: its value where nothing else is said.
        allowed: which values there may be.
        space: what a sweep searches, in Hydra's syntax; None: its value stays.
        is_option: whether it is one of the method's other options, which are told apart from its hyperparameters.
        is_declared: whether the method says that it uses it; a file may read what it doesn't declare.
        came_later: whether there are results from before the option existed. At its default it isn't named, so that
            these results and later ones go by the same names.
        notes: what the user should know of some values, in a sentence each.
    """

    default: Any
    allowed: Allowed = NUMBER
    space: str | None = None
    is_option: bool = False
    is_declared: bool = True
    came_later: bool = False
    notes: Mapping[Any, str] = field(default_factory=dict)

    def checked(self, name: str, value: Any) -> Any:
        """A value as the method gets it: a whole number is a float where the default is one, an int where that is.

        So a run and a sweep, which searches numbers as floats, hand on the same.

        Args:
            name: the hyperparameter's.
            value: what was given.

        Raises:
            InputError: the value isn't allowed.
        """
        if not self.allowed.holds(value):
            raise InputError(f"{_KEY}.{name}={_typed(value)}: expected {self.allowed.expected}.")
        if isinstance(self.default, float) and value is not None:
            return float(value)
        is_whole = isinstance(value, float) and value.is_integer()
        return int(value) if is_whole and isinstance(self.default, int) else value


Declared = dict[str, Hyperparameter]

# What every file may use by these names, unless its HYPERPARAMETERS says which of them it does.
STANDARD: Declared = {
    "reg_strength": Hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e9))"),
    "gamma": Hyperparameter(1.0, SHARE, "interval(0.05, 1)"),
    "epsilon": Hyperparameter(0.1, POSITIVE, "tag(log, interval(1e-6, 10))"),
}


def names(declared: Declared) -> tuple[str, ...]:
    """The hyperparameters that a method says it uses, without its other options."""
    return tuple(name for name, one in declared.items() if one.is_declared and not one.is_option)


def hyperparameter(default: float, allowed: Allowed, space: str) -> Any:
    """A field of a method's class that is a hyperparameter; see `Hyperparameter`."""
    return _field(Hyperparameter(default, allowed, space))


def option(
    default: Any, allowed: Allowed, *, came_later: bool = False, notes: Mapping[Any, str] = MappingProxyType({})
) -> Any:
    """A field of a method's class that is another option of it; see `Hyperparameter`."""
    return _field(Hyperparameter(default, allowed, is_option=True, came_later=came_later, notes=notes))


def _field(declared: Hyperparameter) -> Any:
    return dataclasses.field(default=declared.default, metadata={_DECLARATION: declared})


def of_class(made: Any) -> Declared:
    """The hyperparameters of a method's class; those of a field that is a dataclass itself are `field.name`."""
    assert is_dataclass(made)
    kinds = get_type_hints(made)
    declared: Declared = {}
    for one in dataclasses.fields(made):
        kind = kinds[one.name]
        if _DECLARATION in one.metadata:
            declared[one.name] = one.metadata[_DECLARATION]
        elif one.init and is_dataclass(kind):
            declared |= {f"{one.name}.{name}": nested for name, nested in of_class(kind).items()}
    return declared


def instance(made: type, values: Mapping[str, Any]) -> Any:
    """An instance of a method's class.

    Args:
        made: the class.
        values: of its hyperparameters, by name, those of `of_class` and no others.
    """
    kinds = get_type_hints(made)
    given: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for group in dict.fromkeys(name.partition(".")[0] for name in values if "." in name):
        nested = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{group}.")}
        given[group] = instance(kinds[group], nested)
    return made(**given)


def of_file(declaration: object, source: str) -> Declared:
    """The hyperparameters that a file declares.

    Args:
        declaration: its `HYPERPARAMETERS`: a tuple of some of `STANDARD`, or names with `default` and `space`.
        source: what to call the file.

    Returns:
        Those of `STANDARD` that it leaves out, too: it may read them.

    Raises:
        InputError: it is something else.
    """
    left_out = {name: replace(one, space=None, is_declared=False) for name, one in STANDARD.items()}
    if isinstance(declaration, tuple | list) and all(
        isinstance(name, str) and name in STANDARD for name in declaration
    ):
        return left_out | {name: STANDARD[name] for name in declaration}
    if not isinstance(declaration, Mapping):
        raise InputError(
            f"{source}: HYPERPARAMETERS={declaration!r}; expected a tuple of some of {', '.join(STANDARD)}, or a dict "
            'such as {"temperature": {"default": 2.0, "space": "interval(0.1, 10)"}}.'
        )
    return left_out | {str(name): _entry(name, entry, source) for name, entry in declaration.items()}


def _entry(name: object, entry: object, source: str) -> Hyperparameter:
    where = f"{source}: HYPERPARAMETERS[{name!r}]"
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise InputError(f"{where}: expected a name such as temperature, and none of {', '.join(_TAKEN)}.")
    if name.startswith("_"):  # what a model has for its own use, as `_custom_W`
        raise InputError(f"{where}: expected a name that doesn't begin with an underscore, such as temperature.")
    standard = STANDARD.get(name)
    if standard is None and _is_column(name):
        raise InputError(f"{where}: is the name of another column of the results; expected another name.")
    if not isinstance(entry, Mapping) or set(entry) - {"default", "space"} or not (standard or "default" in entry):
        raise InputError(f'{where}={entry!r}; expected a dict of "default" and "space", such as {{"default": 2.0}}.')
    default = entry.get("default", None if standard is None else standard.default)
    space = entry.get("space", None if standard is None else standard.space)
    if space is not None and not isinstance(space, str):
        raise InputError(f'{where}: space={space!r}; expected a text in Hydra\'s syntax, such as "interval(0.1, 10)".')
    allowed = _allowed(default) if standard is None else standard.allowed
    if allowed is None or not allowed.holds(default):
        expected = "a finite number, a text or a truth value" if allowed is None else allowed.expected
        raise InputError(f"{where}: default={default!r}; expected {expected}.")
    return Hyperparameter(float(default) if standard else default, allowed, space)


def _is_column(name: str) -> bool:
    from clsweep.results import is_taken  # here, since it imports pandas, which `--help` shouldn't wait for

    return is_taken(name)


# Keys of `regularizer` that say other things.
_TAKEN = ("name", "file", "space", "tuned", "tuned_for", "preset", "values", "fisher")


def _allowed(default: object) -> Allowed | None:
    """A hyperparameter may be what its default is: a number, a text or a truth value."""
    kinds = (TRUTH, NUMBER, TEXT)
    return next((kind for kind in kinds if kind.holds(default)), None)


@dataclass(frozen=True)
class Resolved:
    """The values of a method's hyperparameters, and where each is from.

    Attributes:
        values: by name, of all but those that came later and have their default.
        origins: by name: `GIVEN`, `PRESET`, `TUNED` or `DEFAULT`.
        unused: given ones that the method doesn't have, or that its file never mentions.
    """

    values: dict[str, Any]
    origins: dict[str, str]
    unused: tuple[str, ...]


# A value that was tuned for the benchmark (`conf/tuned`) is what a run has by default, too: a run, a sweep and a report
# never call it a default without saying that it was tuned.
GIVEN, PRESET, TUNED, DEFAULT = "given", "preset", "default, tuned before", "default"


def values_of(origin: str) -> str:
    """Values by where they come from, for a sentence: `default values, tuned before`."""
    first, comma, rest = origin.partition(", ")
    return f"{first} values{comma}{rest}"


def resolve(
    declared: Declared,
    given: Mapping[str, Any],
    tuned: Mapping[str, Any],
    method: str,
    preset: Mapping[str, Any] = MappingProxyType({}),
) -> Resolved:
    """The value of each hyperparameter: the given one, else the preset's, else the tuned one, else the default.

    Args:
        declared: the method's hyperparameters.
        given: values by name; None counts as not given where the hyperparameter may not be None. One of `STANDARD`
            may be given to any method, since several methods are often given the same.
        tuned: likewise.
        method: what to call the method.
        preset: values by name; those of hyperparameters that the method lacks are for others.

    Raises:
        InputError: a given or a tuned one isn't declared, or its value isn't allowed.
    """
    for name in given:
        if name not in declared and name not in STANDARD:
            raise unknown(name, declared, method)
    for name, value in tuned.items():
        if name not in declared:
            raise InputError(f"{_KEY}.tuned.{name}: {method} has no such hyperparameter; expected {_listed(declared)}.")
        declared[name].checked(f"tuned.{name}", value)
    values, origins = {}, {}
    for name, one in declared.items():
        for origin, source in ((GIVEN, given), (PRESET, preset), (TUNED, tuned)):
            if name in source and (source[name] is not None or one.allowed.holds(None)):
                values[name], origins[name] = one.checked(name, source[name]), origin
                break
        else:
            values[name], origins[name] = one.default, DEFAULT
        if one.came_later and values[name] == one.default:
            del values[name], origins[name]
    return Resolved(values, origins, tuple(name for name in given if name not in declared))


def _listed(declared: Declared) -> str:
    """Those that the method says it uses: a file that declares some may read the other standard ones, too."""
    return ", ".join(f"{_KEY}.{name}" for name, one in declared.items() if one.is_declared) or "none"


def unknown(name: str, declared: Declared, method: str) -> InputError:
    """The error for a hyperparameter that a method doesn't have."""
    close = difflib.get_close_matches(name, declared, n=1)
    advice = f"did you mean {_KEY}.{close[0]}?" if close else f"expected one of its own: {_listed(declared)}."
    return InputError(f"{_KEY}.{name}: {method} has no such hyperparameter; {advice}")


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
