"""What is wrong with a value that OmegaConf refuses, in terms of what may be typed."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from clsweep.config.choosing import choices, groups
from clsweep.config.keys import every_key, unknown_key
from clsweep.config.schema import Config
from clsweep.errors import InputError


def as_input_error(error: OmegaConfBaseException, given: DictConfig) -> InputError:
    """What is wrong with the values `given`, in terms of what may be typed."""
    key = str(error.full_key or _list_for_values(given)).partition("[")[0]  # of a list, not of its element
    if isinstance(error, ConfigKeyError) and key:
        return unknown_key(key)
    if not (isinstance(error, ValidationError | MissingMandatoryValue) or not error.full_key) or not key:
        return InputError(sentence(error))
    value = OmegaConf.select(given, key)
    kinds = dict(every_key(Config))
    below = [one for one in kinds if one.startswith(f"{key}.")]
    if key not in kinds and not below and key not in groups():  # a name within a dict
        return InputError(sentence(error))
    expected = f"values of {', '.join(below)}" if below else _expected(kinds[key])
    if key in groups():
        expected = f"one of {choices(key)}"
    if isinstance(error, MissingMandatoryValue):
        return InputError(f"{key}: is missing; expected {expected}.")
    return InputError(f"{key}={as_typed(value)}: expected {expected}.")


def _list_for_values(given: DictConfig) -> str:
    """The key that has a list in the place of values by name, which OmegaConf doesn't say; empty where none has."""
    kinds = dict(every_key(Config))
    names = (key for key, kind in kinds.items() if dict in (get_origin(part) for part in (kind, *get_args(kind))))
    return next((key for key in names if isinstance(OmegaConf.select(given, key), ListConfig)), "")


def as_typed(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, ListConfig):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def _expected(kind: Any) -> str:
    """A key's type in words."""
    if kind in _KINDS:
        return _KINDS[kind]
    if get_origin(kind) is list:
        return f"a list in brackets, each of them {_KINDS[get_args(kind)[0]]}"
    parts = [part for part in get_args(kind) if part in _KINDS]
    return f"{_KINDS[parts[0]]}, or null" if get_origin(kind) is UnionType and parts else "values by name"


def sentence(error: OmegaConfBaseException) -> str:
    """One sentence from an OmegaConf error: its first line, and the key that it is about."""
    message = str(error.msg or error).strip().splitlines()[0].rstrip(".")
    return f"{error.full_key}: {message}." if error.full_key else f"{message}."
