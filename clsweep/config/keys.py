"""The keys of a setting: which there are, and the values that stand under them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import is_dataclass, replace
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from clsweep import optimizers
from clsweep.config.choosing import choices, groups
from clsweep.config.schema import METHOD, Config
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD
from clsweep.targets import files


def every_key(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that holds a value, with its type."""
    for name, kind in get_type_hints(schema).items():
        nested = next((part for part in (kind, *get_args(kind)) if is_dataclass(part)), None)
        if nested is None:
            yield f"{prefix}{name}", kind
        else:
            yield from every_key(nested, f"{prefix}{name}.")


@cache
def lists() -> tuple[str, ...]:
    """The keys whose values are lists."""
    typed = [key for key, kind in every_key(Config) if get_origin(kind) is list]
    written = {
        f"{group}.{name}"
        for group in groups()
        for values in files(group).values()
        for name, value in values.items()
        if isinstance(value, list)
    }
    return (*typed, *sorted(written))


def has(composed: DictConfig, key: str) -> bool:
    """Whether a composed configuration has a key, even if its value is null."""
    node, _, name = key.rpartition(".")
    parent = OmegaConf.select(composed, node)
    return isinstance(parent, DictConfig) and name in parent


def followers(composed: DictConfig, values: Mapping[str, Any]) -> dict[str, str]:
    """Keys whose values refer to others, and would change with them.

    Args:
        composed: the configuration, as Hydra composes it.
        values: of the others, by the names that they are searched by.

    Returns:
        What they say, by key, as in `{"regularizer.rate": "${optimizer.lr}"}`.
    """
    given = {key_of(name): value for name, value in values.items()}
    for one, other in itertools.permutations((optimizers.ALIAS, f"{optimizers.KEY}.lr")):
        if one in given:  # two names of the same
            given.setdefault(other, given[one])
    changed = deepcopy(composed)
    for key, value in given.items():
        OmegaConf.update(changed, key, value, force_add=True)
    return {
        key: text
        for key, text in _references(composed)
        if key not in given and _said(changed, key) != _said(composed, key)
    }


def _said(composed: DictConfig, key: str) -> Any:
    """The value of a key; None where it refers to a key that isn't there, for which the schema has one."""
    return OmegaConf.select(composed, key, throw_on_resolution_failure=False)


def _references(composed: DictConfig) -> Iterator[tuple[str, str]]:
    """The keys that refer to others and decide a result, with what they say."""
    deciding = [str(one) for one in composed if one not in ("hydra", "logger", "callbacks")]
    whole = OmegaConf.to_container(OmegaConf.masked_copy(composed, deciding))
    waiting: list[tuple[str, Any]] = [("", whole)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, str) and "${" in node:
            yield key, node
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        waiting += [(f"{key}.{one}".lstrip("."), value) for one, value in inner]


def key_of(name: str) -> str:
    """The key of what is searched under a name: a method's hyperparameters are named without their group."""
    return name if "." in name else f"{METHOD}.{name}"


def value_of(config: Config, name: str) -> Any:
    """The value of what is searched under a name; None where there is none."""
    found: Any = config
    for part in _home(name):
        found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The setting with other values, by the names that they are searched by.

    An integer becomes a float where one was, as in every other setting.
    """
    for name, value in values.items():
        config = _put(config, _home(name), value)
    return config


def _home(name: str) -> list[str]:
    """Where the value stands in a setting: the learning rate has two keys, and a method's values are in a dict."""
    group, _, rest = key_of(name).partition(".")
    if (group, rest) == (optimizers.KEY, "lr"):
        return optimizers.ALIAS.split(".")
    return [group, "values", rest] if group == METHOD else [group, *rest.split(".")]


def _put(node: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    before = node.get(name) if isinstance(node, Mapping) else getattr(node, name)
    if rest:
        value = _put({} if before is None else before, rest, value)
    elif isinstance(before, float) and isinstance(value, int):
        value = float(value)
    return {**node, name: value} if isinstance(node, Mapping) else replace(node, **{name: value})


def unknown_key(key: str) -> InputError:
    """The error for a key that no configuration has, with the closest one that exists.

    Args:
        key: dotted, as in `benchmark.itrs`.
    """
    known = [name for name, _ in every_key(Config)]
    if key == "benchmark.benchmark":
        return without_package(key)
    if key == "tuned":
        return InputError(
            f"{key}: expected '# @package {METHOD}.{key}' as the first line of the YAML file in the folder {key}/."
        )
    if key in known:
        group = key.partition(".")[0]
        return InputError(
            f"{key}: not a key of the chosen {group}; expected another {group}=... or a key that --cfg job shows."
        )
    tops = [name for name in known if "." not in name] if "." not in key else []
    for near in difflib.get_close_matches(key, [*groups(), *tops] if tops else [], n=1):
        if near in groups():
            typed = f"+{near}" if near == "benchmark" else near
            return InputError(f"{key}: no such key here; did you mean {typed}=..., one of {choices(near)}?")
    close = difflib.get_close_matches(key, [*known, *(f"{METHOD}.{name}" for name in STANDARD)], n=1)
    advice = f"did you mean {close[0]}?" if close else "python -m clsweep --help lists the keys."
    return InputError(f"{key}: no such key here; {advice}")


def without_package(what: str) -> InputError:
    """The error for a benchmark's file that Hydra puts in the wrong place.

    Args:
        what: where it went wrong.
    """
    return InputError(f"{what}: expected '# @package _global_' as the first line of the benchmark's YAML file.")
