"""Files for `--config-dir FOLDER --config-name NAME`, such as a study's `best.yaml`, which are run again."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import config_repository
from hydra._internal.core_plugins import file_config_source
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from clsweep import config as settings
from clsweep import optimizers
from clsweep.errors import InputError, named
from clsweep.paths import short

_READER = file_config_source.__file__  # Hydra imports its plugins anew, so that functions can't be compared


def _resolved() -> str:
    folder = settings.typed_config_dir(HydraConfig.get()) if HydraConfig.initialized() else None
    if folder is None:
        raise ValueError("a path in it is relative to --config-dir, which is not given")
    return str(folder)


OmegaConf.register_new_resolver("config_dir", _resolved, replace=True)


def beside(path: Path) -> str:
    """How a path reads in such a file, so that it is found from the file's folder, wherever that is.

    Args:
        path: relative to that folder.
    """
    return "${config_dir:}/" + str(path).replace("${", "\\${")


def misread(error: Exception) -> InputError | None:
    """What is wrong with a YAML file that Hydra couldn't read; None where the error isn't of reading one.

    Args:
        error: not yet one of Hydra's own.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = [(one.f_code.co_filename, one.f_code.co_name) for one in frames]
    reading = [one for one, place in zip(frames, places, strict=True) if place == (_READER, "load_config")]
    if not reading:  # what it does with the file's list of defaults says which file, but not where
        is_hydras = isinstance(error, ValueError) and places[-1][0] == config_repository.__file__
        return InputError(f"{str(error).rstrip('.')}; expected '- GROUP: NAME' on each line.") if is_hydras else None
    file = short(Path(reading[-1].f_locals["full_path"]))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line = error.problem_mark.line + 1
        return InputError(f"{file}, line {line}: {error.problem}; expected YAML, 'KEY: VALUE', indented by blanks.")
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return InputError(f"{file}, line {line}: isn't UTF-8; expected the file saved in that encoding.")
    return InputError(f"{file}: can't be read ({named(error)}); expected YAML, 'KEY: VALUE' on each line.")


def refuse_overruled(composed: DictConfig) -> None:
    """Refuse what a file, or another name for it, overrules.

    Hydra merges such a file after the groups that are chosen on the command line.

    Args:
        composed: the configuration, with Hydra's own part in it.

    Raises:
        InputError: an override would have no effect, or a group's file is a list.
    """
    if wrong := settings.listed(composed):
        raise wrong
    typed: Any = OmegaConf.to_container(composed.hydra.overrides.task, resolve=False)
    given = dict(one.lstrip("+").split("=", 1) for one in typed if "=" in one)
    _refuse_unknown_tuned(composed, given.get("tuned", "null"))
    _refuse_two_rates(composed, given)
    epochs = OmegaConf.select(composed, "benchmark.epochs")
    if epochs is not None and "budget" in given:
        raise settings.epochs_contradicted("budget", given["budget"], epochs)
    folder = settings.typed_config_dir(composed.hydra)
    name = str(composed.hydra.job.config_name).removesuffix(".yaml")  # Hydra takes both
    file = None if folder is None else folder / f"{name}.yaml"
    if file is None or not file.is_file():
        return
    own = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    for key, value in given.items():
        group = "benchmark" if key == settings.PRESETS else key  # a preset goes by the benchmark's published figures
        part = own.get(group) if isinstance(own, dict) else None
        if isinstance(part, dict) and "name" in part:
            values = "" if key == settings.PRESETS else f"values of that, {key}.KEY=VALUE, or "
            raise InputError(
                f"{key}={value}: {file.name} has a whole {group} of its own, which comes after it; expected {values}"
                f"a command without --config-name {name}."
            )
    _refuse_budget(own, given, file)


def _refuse_unknown_tuned(composed: DictConfig, name: str) -> None:
    """Tuned values that are asked for by name must be there; Hydra passes over them, as not every method has some."""
    sources = [source for source in composed.hydra.runtime.config_sources if source.schema == "file"]
    if name == "null" or "," in name or any((Path(one.path) / "tuned" / f"{name}.yaml").is_file() for one in sources):
        return
    raise InputError(f"tuned={name}: there is no such file; expected BENCHMARK/METHOD, as in tuned=split_mnist/si.")


def _refuse_two_rates(composed: DictConfig, given: dict[str, str]) -> None:
    """`benchmark.lr` has no effect where `optimizer.lr`, its other name, has a value of its own."""
    alias, name = optimizers.ALIAS, f"{optimizers.KEY}.lr"
    if alias not in given:
        return
    rates = [OmegaConf.select(composed, key) for key in (alias, name)]
    if None not in rates and rates[0] != rates[1]:
        raise InputError(
            f"{alias}={given[alias]}: is another name for {name}, which is {rates[1]} here; expected one of them."
        )


def _refuse_budget(own: object, given: dict[str, str], file: Path) -> None:
    """A budget changes iterations that follow it, and not those that are written in the file."""
    if not isinstance(own, dict) or "budget" not in given or "benchmark.iters" in given:
        return
    benchmark = own.get("benchmark", {})
    iters, by_budget = benchmark.get("iters"), benchmark.get("iters_by_budget", {})
    if isinstance(iters, int) and given["budget"] in by_budget:
        raise InputError(
            f"budget={given['budget']}: {file.name} has benchmark.iters={iters}, which was given for it and follows no "
            f"budget; expected benchmark.iters={by_budget[given['budget']]} as well."
        )
