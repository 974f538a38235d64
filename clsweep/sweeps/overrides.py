"""A sweep's command line: which studies it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from omegaconf import DictConfig

from clsweep import config as settings
from clsweep.config import Config, RegularizerConfig, SearchConfig
from clsweep.errors import InputError
from clsweep.methods.loading import load
from clsweep.paths import absolute
from clsweep.sweeps import role, storage
from clsweep.sweeps.checking import check_search
from clsweep.sweeps.plan import StudyPlan, searched, study_name
from clsweep.sweeps.space import range_values
from clsweep.training.run import pick_device

_METHOD = "regularizer"
_OTHER_KEYS = {f"{_METHOD}.{one.name}" for one in fields(RegularizerConfig)}


class Commands:
    """The overrides of a sweep, taken apart.

    Values that are swept of the hyperparameters are searched; every other swept value, such as several benchmarks or
    methods, makes one study for each of its combinations. Where several methods are swept, a key that only some of them
    have, such as `regularizer.file`, is for these.

    Args:
        composed: the configuration of the command without the overrides, Hydra's own part in it.
        loader: composes a study's configuration.
        arguments: the overrides.

    Raises:
        InputError: an interval is given for what is not a hyperparameter, or none of several methods has a key.
    """

    def __init__(self, composed: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
        self._composed = composed
        self._loader = loader
        self.ranges: dict[str, str] = {}
        self._fixed: set[str] = set()
        alternatives: dict[str, list[str]] = {}
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        for override in parsed:
            name = _hyperparameter(override.key_or_group)
            if name is not None and override.is_sweep_override():
                self.ranges[name] = str(override.input_line).partition("=")[2]
                continue
            if name is not None:
                self._fixed.add(name)
            alternatives[override.get_key_element()] = _alternatives(override)
        owners = _owners(parsed, loader)
        combinations = (dict(zip(alternatives, one, strict=True)) for one in itertools.product(*alternatives.values()))
        self.combinations = [list(one) for one in dict.fromkeys(_of_its_method(one, owners) for one in combinations)]

    def configs(self) -> Iterator[Config]:
        """The setting of each study, with what is searched in `regularizer.space`.

        Raises:
            InputError: one is wrong, or a range is given for a hyperparameter that no method uses.
        """
        used: set[str] = set()
        for combination in self.combinations:
            config = self._config(combination)
            used |= set(config.regularizer.space)
            yield config
        unused = set(self.ranges) - used
        if unused:
            name = min(unused)
            raise InputError(
                f"regularizer.{name}={self.ranges[name]}: none of the chosen methods uses {name}; expected a range for "
                f"{', '.join(sorted(used)) or 'none of them'}."
            )

    def _config(self, combination: list[str]) -> Config:
        composed = self._loader.load_sweep_config(self._composed, combination)
        config = settings.parse(composed)
        if config.seeds is not None:
            raise InputError(
                f"seeds={config.seeds}: is for runs that aren't tuned; expected search.seeds={config.seeds}, which "
                "judges every trial by the mean over as many, or the command without --multirun."
            )
        if "Slurm" not in self._composed.hydra.launcher._target_:  # its jobs run on other machines
            pick_device(config.device)
        regularizer = config.regularizer
        method = load(regularizer)
        ranges = searched(config, method, self.ranges, self._fixed)
        return replace(config, regularizer=replace(method.config, space=ranges))


def _hyperparameter(key: str) -> str | None:
    """The hyperparameter that a key may be of, by its name."""
    return key.removeprefix(f"{_METHOD}.") if key.startswith(f"{_METHOD}.") and key not in _OTHER_KEYS else None


def _owners(overrides: Sequence[Override], loader: ConfigLoader) -> dict[str, set[str]]:
    """Of the methods that are swept, those that have a key: by the key as the command line has it."""
    methods = [
        str(name)
        for override in overrides
        if override.key_or_group == _METHOD and override.is_discrete_sweep()
        for name in override.sweep_string_iterator()
    ]
    owners = {}
    for override in overrides:
        key = override.key_or_group
        if methods and key.startswith(f"{_METHOD}."):
            owners[override.get_key_element()] = {name for name in methods if _has(loader, name, key)}
            if not owners[override.get_key_element()]:
                raise settings.unknown_key(key)
    return owners


def _has(loader: ConfigLoader, method: str, key: str) -> bool:
    """Whether the method's file in the group `regularizer` has the key; what is wrong with no such file, Hydra says."""
    path = f"{_METHOD}/{method}"
    sources = [source for source in loader.get_sources() if source.available() and source.is_config(path)]
    name = key.split(".")[1]
    return not sources or any(name in source.load_config(path).config for source in sources)


def _of_its_method(combination: dict[str, str], owners: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The overrides, by key, without those of keys that other methods have and this one lacks."""
    method = combination.get(_METHOD, "").partition("=")[2]
    return tuple(one for key, one in combination.items() if key not in owners or method in owners[key])


def _alternatives(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.key_or_group == "seed":
        raise _several_seeds(override)
    if not override.is_discrete_sweep():
        raise InputError(
            f"{_typed(override)}: only hyperparameters, such as {_METHOD}.reg_strength, have intervals; expected "
            f"values such as {override.key_or_group}=a,b."
        )
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        return [f"{key}={value}" for value in range_values(str(override.input_line), sweep)]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _typed(override: Override) -> str:
    return str(override.input_line).lstrip("+")


def _several_seeds(override: Override) -> InputError:
    """The error for seeds that are swept, which would make a study of each."""
    n = len(list(override.sweep_string_iterator())) if override.is_discrete_sweep() else "N"
    return InputError(
        f"{_typed(override)}: would tune anew for each seed; expected seeds={n} without --multirun for plain runs, "
        f"search.seeds={n} to tune by the mean over seeds, or hydra/sweeper=basic for a run of each."
    )


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is asked for.

    Attributes:
        plans: its studies.
        folder: the sweep folder.
        arguments: its overrides, but for those of Hydra's own keys.
        command: its whole command line, wherever it is typed.
    """

    plans: list[StudyPlan]
    folder: Path
    arguments: list[str]
    command: list[str]

    @property
    def search(self) -> SearchConfig:
        """How it searches; the same for all studies."""
        return self.plans[0].config.search

    @cached_property
    def url(self) -> str:
        """The storage's."""
        return storage.url(self.search.storage, self.folder)


def read(composed: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> Sweep:
    """The sweep of a command line.

    Args:
        composed: the configuration of the command without its overrides, Hydra's own part in it.
        loader: composes a study's.
        arguments: the overrides, but for those of Hydra's own keys.

    Raises:
        InputError: an override or a space is wrong.
    """
    configs = list(Commands(composed, loader, arguments).configs())
    folder = absolute(composed.hydra.sweep.dir)
    is_default = folder == absolute(composed.hydra.sweeper.folder)
    if len(configs) == 1 and not is_default:  # a single study has a folder that was named to itself
        plans = [StudyPlan(configs[0], folder)]
    else:
        plans = [StudyPlan(config, folder / study_name(config)) for config in configs]
    own = composed.hydra.overrides.hydra
    place = f"hydra.sweep.dir={role.typed(str(folder))}"  # as it is: it may hold the time
    return Sweep(plans, folder, list(arguments), ["--multirun", *_files(composed), *own, *arguments, place])


def _files(composed: DictConfig) -> list[str]:
    """The options that say where the configuration's files are."""
    folders = {source.provider: source.path for source in composed.hydra.runtime.config_sources}
    options = ["--config-name", composed.hydra.job.config_name]
    if folders.get("main") not in (None, str(settings.config_dir())):
        options += ["--config-path", folders["main"]]
    if "command-line" in folders:
        options += ["--config-dir", folders["command-line"]]
    return options


def check(plans: Sequence[StudyPlan]) -> None:
    """Check what is wrong with studies that were read, before anything is made.

    Raises:
        InputError: the sampler or the pruner is wrong, or two studies are the same.
    """
    for plan in plans:
        check_search(plan.config.search, plan.space, len(plan.seeds) * plan.contexts)
    names = [plan.name for plan in plans]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{twice[0]}: two of the swept values make the same study; expected to sweep benchmarks, methods and other "
            "values that change a result."
        )
