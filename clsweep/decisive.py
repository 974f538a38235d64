"""What decides a run's result, written beside it as `setting.json`: a run resumes only if all of it is the same.

By inclusion, as in `clsweep.protocol`: figures, loggers, threads and the device are not in it. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from clsweep import sources
from clsweep.config import Config
from clsweep.data.identity import DIGEST
from clsweep.methods.files import MethodFile, read
from clsweep.methods.functions import Functions
from clsweep.protocol import Protocol
from clsweep.results.writing import write_text
from clsweep.targets import TARGET, Target

FILE: Final = "setting.json"
_METHOD: Final = "regularizer"
_BESIDE: Final = ("stream", "seed")
_AFTER_THE_FIRST: Final = "first_contexts"  # how many contexts follow
_NOTHING: Final = "nothing"
_SHOWN: Final = 3


def decisive(config: Config, file: MethodFile | Functions | None = None) -> dict[str, Any]:
    """What decides the result of a run, by key; atoms, as JSON has them.

    Args:
        config: the run's setting.
        file: the method's, where it was read already, or an object that has the functions.

    Raises:
        InputError: the method's file can't be read.
    """
    found = Protocol.of(config).parts | {name: getattr(config, name) for name in _BESIDE}
    if config.stream != "joint":  # which is trained without a method
        found |= _method(config, file)
    made: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return made


def _method(config: Config, file: MethodFile | Functions | None) -> dict[str, Any]:
    method = config.regularizer
    found: dict[str, Any] = {_METHOD: method.name}
    if file is None and method.file is not None:
        file = read(method.file)
    if file is not None:
        found["the content of the method's file"] = file.digest("sha256")[:DIGEST]
    if method._target_ is not None:
        found[f"{_METHOD}.{TARGET}"] = method._target_
        found["the method's code"] = sources.digest([Target.of(_METHOD, {TARGET: method._target_})])
    tuned = {name: value for name, value in method.tuned.items() if name != "space"}
    values = tuned | method.preset_values | method.values
    return found | {f"{_METHOD}.{name}": value for name, value in values.items()}


def of_training(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The part of it that decides what the first context learns: without the method and later contexts."""
    fields = [name for name in Protocol.__dataclass_fields__ if name != _AFTER_THE_FIRST]
    return {name: setting[name] for name in (*fields, *_BESIDE)}


def write(folder: Path, setting: Mapping[str, Any]) -> None:
    """Write what decides a run's result into its folder."""
    write_text(json.dumps(setting, indent=1), folder / FILE)


def differences(folder: Path, setting: Mapping[str, Any]) -> str | None:
    """How the run in a folder differs from this one, in words.

    Args:
        folder: the run's.
        setting: what decides this one's result.

    Returns:
        Empty where it doesn't; None where the folder doesn't say.
    """
    try:
        there = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(there, dict):
        return None
    names = [name for name in {**setting, **there} if there.get(name) != setting.get(name)]
    if _METHOD in names:  # which its values, and its code, follow from
        names = [_METHOD, *(name for name in names if name in Protocol.__dataclass_fields__)]
    told = [f"{name}: {_shown(there, name)} there, {_shown(setting, name)} now" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(told) + more


def _shown(setting: Mapping[str, Any], name: str) -> str:
    value = setting.get(name)
    return _NOTHING if value in (None, "") else str(value)
