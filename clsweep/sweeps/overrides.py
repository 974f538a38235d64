"""A sweep's command line: which studies it asks for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.core.override_parser.types import Sweep as SweptValues
from omegaconf import DictConfig
from optuna.distributions import FloatDistribution

from clsweep import config as settings
from clsweep import config_files, optimizers, space
from clsweep.config import Config, RegularizerConfig, SearchConfig
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD, unknown
from clsweep.methods.loading import Loaded, load
from clsweep.paths import absolute, config_dir
from clsweep.space import range_values
from clsweep.sweeps import role, storage, tuning
from clsweep.sweeps.checking import check_search
from clsweep.sweeps.plan import HELD_OUT, StudyPlan, searched, study_name
from clsweep.targets import TARGET
from clsweep.training.first_context import FOLDER as FIRST_CONTEXTS
from clsweep.training.run import pick_device

_METHOD = "regularizer"
_OTHER_KEYS = {f"{_METHOD}.{one.name}" for one in fields(RegularizerConfig)}
# Where a key may stand whose values are searched: what else there is decides what is measured, or nothing at all.
_SEARCHABLE = re.compile(rf"({_METHOD}|network|optimizer)\..+|benchmark\.(lr|iters|epochs|batch_size)")


class Commands:
    """The overrides of a sweep, taken apart.

    An interval is searched, whatever its key, and so are all swept values of hyperparameters, and the values of any
    other key in `tag(search, choice(...))`. All other swept values, such as several benchmarks or methods, make one
    study for each of their combinations. Where several methods are swept, a key that only some of them have, such as
    `regularizer.file`, applies only to these.

    Args:
        composed: the configuration of the command without the overrides, Hydra's own part in it.
        loader: composes a study's configuration.
        arguments: the overrides.

    Attributes:
        ranges: what is searched, by name, as it was typed.
        notes: what the user should know of it, in sentences.

    Raises:
        InputError: what is given an interval can't be searched, or none of several methods has a key.
    """

    def __init__(self, composed: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
        self._composed = composed
        self._loader = loader
        self.ranges: dict[str, str] = {}
        self.notes: list[str] = []
        self._fixed: dict[str, str] = {}
        alternatives: dict[str, list[str]] = {}
        ranged: dict[str, Override] = {}
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        for override in parsed:
            name = _hyperparameter(override)
            if _is_searched(override, name):
                self._search(override, ranged)
                continue
            if name is not None and override.value() is not None:  # null is as if it were not given
                self._fixed[name] = _typed(override)
            value = override.value()
            if isinstance(value, ChoiceSweep) and not value.simple_form:  # and no glob(...)
                self.notes.append(
                    f"{_typed(override)}: makes a study of each value; tag(search, choice(...)) searches them in one"
                )
            alternatives[override.get_key_element()] = _alternatives(override)
        owners = _owners(parsed, loader)
        combinations = (dict(zip(alternatives, one, strict=True)) for one in itertools.product(*alternatives.values()))
        self.combinations = [list(one) for one in dict.fromkeys(_of_its_method(one, owners) for one in combinations)]

    def _search(self, override: Override, ranged: dict[str, Override]) -> None:
        name = _name(override)
        if name in ranged:
            raise InputError(f"{_typed(override)}: contradicts {_typed(ranged[name])}; expected one of them.")
        ranged[name] = override
        self.ranges[name] = str(override.input_line).partition("=")[2]

    def configs(self) -> Iterator[Config]:
        """The setting of each study, with what is searched in `search.space`.

        Raises:
            InputError: one is wrong, or a range is given for a hyperparameter that no method uses.
        """
        used: set[str] = set()
        asked: list[SearchConfig] = []
        without_use: set[str] | None = None
        for combination in self.combinations:
            search, config, unused_values = self._config(combination)
            asked.append(search)
            used |= set(config.search.space or {})
            without_use = unused_values if without_use is None else without_use & unused_values
            yield config
        self.notes += [
            f"{typed}: none of the chosen methods has {name}"
            for name, typed in self._fixed.items()
            if name in (without_use or ())
        ]
        typed = dict.fromkeys(one.lstrip("+") for combination in self.combinations for one in combination)
        tuning.refuse_unused(asked, self.ranges, list(typed))
        unused = set(self.ranges) - used
        if unused:
            name = min(unused)
            theirs = ", ".join(sorted(name for name in used if "." not in name)) or "none of them"
            given = f"{settings.key_of(name)}={self.ranges[name]}"
            raise InputError(f"{given}: none of the chosen methods uses {name}; expected a range for {theirs}.")

    def _config(self, combination: list[str]) -> tuple[SearchConfig, Config, set[str]]:
        """How a study was asked to search, its setting, and the values given that its method doesn't have."""
        composed = self._loader.load_sweep_config(self._composed, [*combination, *self._first_values(combination)])
        config_files.refuse_overruled(composed)
        config = settings.parse(composed)
        if config.seeds is not None:
            raise InputError(
                f"seeds={config.seeds}: is for runs that aren't tuned; expected search.seeds={config.seeds}, which "
                "judges every trial by the mean over as many, or the command without --multirun."
            )
        if not config.resume:
            raise InputError(
                "resume=false: a sweep always goes on with the trials that are there; expected resume=true, and "
                "another hydra.sweep.dir=FOLDER to start over."
            )
        for key in ("seeds", "final_seeds"):
            settings.refuse_repeats(config, f"search.{key}", getattr(config.search, key))
        if "Slurm" not in self._composed.hydra.launcher._target_:  # its jobs run on other machines
            pick_device(config.device)
        way = tuning.way_of(config.search)
        if way.searches and config.validation_fraction == 0 and _is_typed("validation_fraction", combination):
            raise InputError(
                "validation_fraction=0: leaves nothing to judge a trial by; expected a number above 0 and below 1, or "
                f"it left out for {HELD_OUT}."
            )
        regularizer = way.regularizer(config.regularizer)
        method = load(regularizer)
        written = _written(config, method, self._fixed)
        ranges = searched(config, method, written | self.ranges, self._fixed.keys() | regularizer.preset_values.keys())
        _refuse_followers(composed, ranges)
        if config.stream != "joint":
            _check_preset(method, ranges)
            self.notes += [note for note in method.cautions() if note not in self.notes]
        way.check(config)
        search = way.search(replace(config.search, space=ranges))
        unused = set() if config.stream == "joint" else set(method.resolved.unused)
        return config.search, replace(config, regularizer=method.config, search=search), unused

    def _first_values(self, combination: list[str]) -> list[str]:
        """Overrides for searched keys without a first value, as a class's arguments may be; see `space.first`."""
        apart = {name: text for name, text in self.ranges.items() if "." in name and not name.startswith(f"{_METHOD}.")}
        if not apart:
            return []
        composed = self._loader.load_sweep_config(self._composed, combination)
        lacking = {name: text for name, text in apart.items() if not settings.has(composed, name)}
        return [f"++{name}={space.first(distribution)}" for name, distribution in space.parse(lacking).items()]


def _refuse_followers(composed: DictConfig, ranges: Mapping[str, str]) -> None:
    """Refuse a value that refers to a searched one: only the search's own values change from trial to trial.

    Raises:
        InputError: there is one.
    """
    ends = {name: [space.value(end) for end in space.ends(one)] for name, one in space.parse(ranges).items()}
    for number in (0, -1):  # one of them is another value than there is
        for key, text in settings.followers(composed, {name: own[number] for name, own in ends.items()}).items():
            raise InputError(
                f"{key}={text}: refers to a searched value, and would stay the same in all trials; expected a value of "
                "its own, or a value for what it refers to."
            )


def _is_typed(key: str, combination: Sequence[str]) -> bool:
    return any(one.lstrip("+").partition("=")[0] == key for one in combination)


def _written(config: Config, method: Loaded, fixed: Collection[str]) -> dict[str, str]:
    """The ranges of `search.space`, as a study's `best.yaml` has them, but for what is given a value.

    Raises:
        InputError: one is of a hyperparameter that the method doesn't have.
    """
    ranges = config.search.space or {}
    for name in ranges:
        if "." not in name and name not in method.declared:
            raise unknown(name, method.declared, config.shown_method)
    return {name: text for name, text in ranges.items() if name not in fixed}


def _check_preset(method: Loaded, ranges: Mapping[str, str]) -> None:
    """Refuse a preset that gives all that would be searched a value, so that nothing is left to search.

    Raises:
        InputError: it does.
    """
    preset = method.config.preset
    if preset is None or ranges or not method.spaces:
        return
    name, text = next(iter(method.spaces.items()))
    raise InputError(
        f"{settings.PRESETS}={preset.name}: gives {', '.join(method.spaces)} of {method.config.name} a value, so that "
        "nothing is left to be searched; expected hydra/sweeper=basic for runs as they are, or a range as well, "
        f"{settings.key_of(name)}='{text}'."
    )


def _hyperparameter(override: Override) -> str | None:
    """The hyperparameter that an override may be of, by its name: an option's values are no numbers."""
    key = override.key_or_group
    group, _, name = key.partition(".")
    if group != _METHOD or "." in name or not name or key in _OTHER_KEYS:
        return None
    is_choice = override.is_choice_sweep() and isinstance(override.value(), ChoiceSweep)
    chosen = override.value().list if is_choice else []  # type: ignore[union-attr]
    are_numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in chosen)
    return name if are_numbers else None


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
    """Whether a method has the key: in its file in the group `regularizer`, or as one of those that it declares.

    The standard hyperparameters are for all, and a file of one's own declares what it likes; what is wrong with a
    method that isn't there, Hydra says.
    """
    path, name = f"{_METHOD}/{method}", key.partition(".")[2]
    sources = [source for source in loader.get_sources() if source.available() and source.is_config(path)]
    files = [source.load_config(path).config for source in sources]
    if name in STANDARD or not files or any(name in file for file in files):
        return True
    targets = [file["_target_"] for file in files if "_target_" in file]
    if not targets:
        return "." not in name and key not in _OTHER_KEYS
    return name in load(RegularizerConfig(name=method, _target_=targets[0])).declared


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
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        return [f"{key}={value}" for value in range_values(str(override.input_line), sweep)]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _is_searched(override: Override, hyperparameter: str | None) -> bool:
    """Whether a sweep's values are searched; otherwise each makes a study.

    Raises:
        InputError: they can't be.
    """
    if not override.is_sweep_override():
        return False
    if hyperparameter is not None:
        return True
    value = override.value()
    tags = value.tags if isinstance(value, SweptValues) else set()
    if not override.is_interval_sweep() and space.SEARCH not in tags:
        return False
    key = override.key_or_group
    if key == "seed":
        raise _several_seeds(override)
    if key.endswith(f".{TARGET}"):
        raise InputError(f"{_typed(override)}: a {TARGET} isn't searched; expected {key}=a,b for a study of each.")
    if not _SEARCHABLE.fullmatch(key):
        raise InputError(
            f"{_typed(override)}: {key} decides what a trial is, or what it is judged by, so that its values can't be "
            f"compared in one search; expected {key}=a,b for a study of each."
        )
    return True


def _name(override: Override) -> str:
    """What is searched goes by its key, a method's hyperparameters by their names; the learning rate has two keys."""
    key = override.key_or_group
    group, _, name = key.partition(".")
    if key == optimizers.ALIAS:
        return f"{optimizers.KEY}.lr"
    return name if group == _METHOD and "." not in name else key


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
        notes: what the user should know of it, in sentences.
    """

    plans: list[StudyPlan]
    folder: Path
    arguments: list[str]
    command: list[str]
    notes: list[str] = field(default_factory=list)

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
    commands = Commands(composed, loader, arguments)
    configs = list(commands.configs())
    folder = absolute(composed.hydra.sweep.dir)
    is_default = folder == absolute(composed.hydra.sweeper.folder)
    shared = folder / FIRST_CONTEXTS
    if len(configs) == 1 and not is_default:  # a single study has a folder that was named to itself
        plans = [StudyPlan(configs[0], folder, shared)]
    else:
        plans = [StudyPlan(config, folder / study_name(config), shared) for config in configs]
    own = composed.hydra.overrides.hydra
    place = f"hydra.sweep.dir={role.typed(str(folder))}"  # as it is: it may hold the time
    command = ["--multirun", *_files(composed), *own, *arguments, place]
    return Sweep(plans, folder, list(arguments), command, commands.notes)


def refuse_folders(composed: DictConfig) -> None:
    """Refuse folders that a sweep doesn't use.

    Args:
        composed: the configuration of the command, Hydra's own part in it.

    Raises:
        InputError: one was typed.
    """
    for override in composed.hydra.overrides.hydra:
        if override.lstrip("+").startswith(("hydra.run.dir=", "hydra.sweep.subdir=")):
            raise InputError(
                f"{override}: has no effect on a sweep, which names the folders of its studies and runs; expected "
                "hydra.sweep.dir=FOLDER for all of them."
            )


def _files(composed: DictConfig) -> list[str]:
    """The options that say where the configuration's files are."""
    folders = {source.provider: source.path for source in composed.hydra.runtime.config_sources}
    options = ["--config-name", composed.hydra.job.config_name]
    if folders.get("main") not in (None, str(config_dir())):
        options += ["--config-path", folders["main"]]
    if "command-line" in folders:
        options += ["--config-dir", folders["command-line"]]
    return options


def check(plans: Sequence[StudyPlan]) -> None:
    """Check the studies that were read, before anything is made.

    Raises:
        InputError: the sampler or the pruner is wrong, or two studies are the same.
    """
    for plan in plans:
        _check_space(plan)
        check_search(plan.config.search, plan.space, plan.steps)
    names = [plan.name for plan in plans]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{twice[0]}: two of the swept values make the same study; expected to sweep benchmarks, methods and other "
            "values that change a result."
        )


def _check_space(plan: StudyPlan) -> None:
    """Check the searched values that are no hyperparameters, which `space.parse` has checked.

    Raises:
        InputError: one is out of its key's range, or of another type.
    """
    for name, distribution in plan.space.items():
        if "." not in name:
            continue
        given = f"{settings.key_of(name)}={plan.ranges[name]}"
        has_integers = type(settings.value_of(plan.config, name)) is int
        if has_integers and isinstance(distribution, FloatDistribution):
            raise InputError(f"{given}: is searched in integers; expected int(interval(low, high)).")
        for end in space.ends(distribution):
            try:
                settings.from_values(settings.as_values(plan.with_point({name: end})))
            except InputError as error:
                raise InputError(f"{given}: {error}") from error
