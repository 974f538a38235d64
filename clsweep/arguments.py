"""The command line before Hydra reads it: forms that Hydra misreads, or refuses without saying what to type instead."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from clsweep import config as settings
from clsweep.errors import InputError
from clsweep.targets import TARGET

_HELP = "python -m clsweep --help lists what there is"
# A value, or a part of one, that begins with the home folder; outside of quotes Hydra cannot read it.
_HOME = re.compile(r"(?<=[=,:(\[])(['\"]?)~(?=/|$)")
_SEVERAL = "logger"  # the group of which a run may have several, or none
_SWEPT = ("benchmark", "regularizer")
# Nodes with keys that their YAML file need not have: arguments of a class of one's own, hyperparameters of a file, what
# a benchmark leaves at its default.
_OPEN = ("network.", "optimizer.", "regularizer.", "benchmark.", "logger.", "callbacks.")
_BASIC = "hydra/sweeper=basic"


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra is to get them.

    Options may stand anywhere. `+benchmark=NAME` and `benchmark=NAME` are the same, for every group; `~/` is the home
    folder; and `hydra.mode=MULTIRUN` is `--multirun`.

    Args:
        arguments: those of the command line.

    Raises:
        InputError: one cannot be read, or asks for several values where there is one.
    """
    options, texts = _split(arguments)
    if options.shell_completion:
        return list(arguments)
    others = _without(arguments, texts)
    overrides = [_read(_HOME.sub(lambda found: f"{found[1]}{Path.home()}", text)) for text in texts]
    modes = [one for one in overrides if one.key_or_group == "hydra.mode"]
    asked = {"MULTIRUN" if options.multirun else "RUN" if options.run else "", *(str(one.value()) for one in modes)}
    if {"RUN", "MULTIRUN"} <= asked:
        raise InputError("hydra.mode=RUN: contradicts --multirun; expected one of them.")
    multirun = "MULTIRUN" in asked
    _check_options(options, multirun)
    if multirun and not options.multirun:
        others.append("--multirun")
    kept = [one for one in overrides if one not in modes]
    for one in kept:
        _check(one, multirun)
    forced = (*_OPEN, *(_swept_keys(kept) if multirun else ()))
    return [*_owns(kept), *(_written(one, forced) for one in kept), *others]


def _owns(overrides: Sequence[Override]) -> Iterator[str]:
    """`GROUP=own` for each group with a `_target_` and no file: another class has no use for a file's arguments."""
    keys = {one.key_or_group for one in overrides}
    groups = (group for group in settings.OPEN_GROUPS if f"{group}.{TARGET}" in keys and group not in keys)
    yield from (f"{group}={settings.OWN_FILE}" for group in groups)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The options among the arguments, as Hydra reads them.

    Raises:
        InputError: one can't be read.
    """
    return _split(arguments)[0]


def _split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the overrides among them."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        options, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; {_HELP}.") from error
    if unknown:
        raise InputError(f"{unknown[0]}: no such option; {_HELP}.")
    return options, list(options.overrides)


def _check_options(options: argparse.Namespace, multirun: bool) -> None:
    """Check what Hydra refuses with a traceback."""
    ways = {"--run": options.run, "--multirun": multirun, "--cfg": options.cfg, "--info": options.info}
    asked = [name for name, given in ways.items() if given]
    if len(asked) > 1:
        more = "; --cfg shows the setting of a single run" if options.cfg else ""
        raise InputError(f"{' and '.join(asked)}: expected one of them{more}.")
    if options.resolve and not (options.cfg or options.help):
        raise InputError("--resolve: is for the setting that is shown; expected --cfg job as well.")
    if options.config_dir is not None and not Path(options.config_dir).is_dir():
        raise InputError(f"--config-dir {options.config_dir}: there is no such folder.")


def _without(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    left = list(arguments)
    for one in overrides:
        left.remove(one)
    return left


def _read(text: str) -> Override:
    if not text.partition("=")[0].strip("+~ "):
        raise InputError(f"{text}: expected KEY=VALUE, as in seed=1, without a blank before the =; {_HELP}.")
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException as error:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text}: expected KEY=VALUE, as in seed=1; {_HELP}.") from error
        if re.search(r"[\[\](){}'\"]", value):
            raise InputError(
                f"{text}: the value can't be read; expected brackets and quotes to be closed, and a text with "
                "special characters in quotes."
            ) from error
        raise InputError(
            f"{text}: the value can't be read; expected quotes around it, within those of the shell: "
            f"\"{key}='{value}'\"."
        ) from error


def _check(override: Override, multirun: bool) -> None:
    text, key = override.input_line, override.key_or_group
    if key == _SEVERAL:
        _check_loggers(override)
        return
    value = override.value()
    is_group = key in settings.groups()
    if is_group and not (isinstance(value, list | str) or override.is_sweep_override() or override.is_delete()):
        raise InputError(f"{text}: expected one of {settings.choices(key)}.")
    if is_group and isinstance(value, list):
        several = f"{str(text).partition('=')[0]}={','.join(map(str, value))}"
        if multirun:
            raise InputError(f"{text}: expected names without brackets, {several}, for a study of each.")
        raise InputError(
            f"{text}: a run has one {key}; expected one name, or --multirun {several} for a study of each "
            f"(with {_BASIC} as well, a run of each)."
        )
    if not multirun and override.is_sweep_override():
        raise InputError(f"{text}: {_one_value(override, is_group)}.")


def _check_loggers(override: Override) -> None:
    text = str(override.input_line)
    if override.is_sweep_override():
        typed = text.partition("=")[2]
        raise InputError(f"{text}: a run has all of its loggers at once; expected {_SEVERAL}=[{typed}].")
    value: Any = override.value()
    if value is not None and not all(isinstance(name, str) for name in (value if isinstance(value, list) else [value])):
        raise InputError(f"{text}: expected one of {settings.choices(_SEVERAL)}, or several in brackets.")


def _one_value(override: Override, is_group: bool) -> str:
    """What to type instead of several values for one run."""
    key = override.key_or_group
    value = str(override.input_line).partition("=")[2]
    if is_group:
        return (
            f"a run has one {key}; expected one name, or --multirun as well for a study of each "
            f"(with {_BASIC} too, a run of each)"
        )
    if key == "seed":
        return f"expected one number; seeds=N trains N of them from it on, and --multirun {_BASIC} makes a run of each"
    if key in settings.lists():
        return f"expected a list in brackets, {key}=[{value}]"
    if not override.is_choice_sweep() or value.startswith("choice("):
        return "is for a sweep; expected one value, or --multirun as well"
    return (
        f"a run has one {key}; expected one value, --multirun as well, or quotes around a text with a comma: "
        f"\"{key}='{value}'\""
    )


def _swept_keys(overrides: Sequence[Override]) -> Iterator[str]:
    """What the keys begin with that belong to swept benchmarks or methods.

    Hydra composes what a sweep's jobs have in common without the swept groups, and would refuse `benchmark.iters=10` or
    `regularizer.fisher.examples=10` as unknown; with `++` it waits for the jobs' configurations, where the sweeper and
    the schema find what is really unknown.
    """
    for one in overrides:
        if one.is_sweep_override() and one.key_or_group in _SWEPT:
            yield f"{one.key_or_group}."


def _written(override: Override, forced: tuple[str, ...]) -> str:
    text = str(override.input_line)
    if override.key_or_group == _SEVERAL and override.value() is None:
        return f"{_SEVERAL}=[]"
    if override.key_or_group in settings.groups() and not override.is_delete():
        return text.lstrip("+")
    if override.is_delete() or not text.lstrip("+").startswith(forced):
        return text
    return f"++{text.lstrip('+')}"
