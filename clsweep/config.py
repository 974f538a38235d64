"""The setting of a run as typed dataclasses, and the checks of its values.

Values live in `conf/*.yaml`; the fields here have no defaults of their own except where a YAML file may leave them out.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, SI, DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from clsweep import architecture, optimizers, ranges
from clsweep.errors import InputError
from clsweep.hyperparameters import POSITIVE, STANDARD, Allowed, one_of
from clsweep.methods import new_method
from clsweep.optimizers import OptimizerSetting
from clsweep.paths import absolute, group_files, no_file, short
from clsweep.paths import config_dir as config_dir
from clsweep.ranges import FOLDER_NAME, at_least, or_null, within, written
from clsweep.targets import TARGET, Target, files

SCENARIOS = ("task", "domain", "class")
STREAM = "benchmark.stream"
SEARCH_DATA = "search.data"
STREAMS = ("sequential", "joint")
PRECISIONS = ("float32", "bf16")
ALL_LOGITS = "all"
LOGITS = ("active", ALL_LOGITS)
LAYOUTS = ("hwc", "chw")
EVERY_CONTEXT = "every_context"
# Streams that this package has, and what they need of the classes, which is checked before torch is imported.
_STREAMS = "clsweep.data.streams"
_SPLIT = f"{_STREAMS}.split"
_OF_ALL_CLASSES = (f"{_STREAMS}.permuted", f"{_STREAMS}.rotated")
GIVEN_TO_STREAMS = ("contexts", "classes_per_context", "seed", "input_shape")
OWN, SHIPPED = "custom", "custom_regularization"  # a method in a file, and the file that ships
_ITERS = "${.iters_by_budget.${budget}}"  # as conf/benchmark/*.yaml has it
_DATA = "CLSWEEP_DATA"
_METHOD = "regularizer"
OPEN_GROUPS, OWN_FILE = ("network", "optimizer"), "own"  # the file of a group for a class that has none
PRESETS = "protocol"  # the group of `PresetConfig`; what makes runs comparable is `clsweep.protocol`
_PART = Allowed(lambda value: 0 <= value < 1, "a number from 0 up to, not including, 1")
_NAME_OF_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
DEVICE = Allowed(lambda value: bool(_NAME_OF_DEVICE.fullmatch(value)), "auto, cpu, cuda or cuda:N (as in cuda:0)")
_SECONDS = Allowed(POSITIVE.holds, "a number of seconds above 0")
_SAVE_MODEL = Allowed(
    lambda value: isinstance(value, bool) or value == EVERY_CONTEXT, f"false, true or {EVERY_CONTEXT}"
)
_IDLE = " for one on each idle core (or for as many as the launcher runs at once)"


@dataclass
class PublishedConfig:
    """Published average accuracies, all at one strength that was not tuned, and how they were measured.

    `protocol` says what differs from the benchmark's own, by the names of `clsweep.protocol.Protocol`.
    `reg_strength` is null in a setting that was written down before its figures were known well enough to be shown.
    """

    protocol: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, float] = MISSING
    source: str = ""
    reg_strength: float | None = None
    setting: str = ""


@dataclass
class BenchmarkConfig:
    """One benchmark: how the contexts are made, and the training protocol (`conf/benchmark`).

    It needs a name, a stream, contexts and their classes, and `iters` or `iters_by_budget`. With `iters` alone, the
    full budget is the only one.
    """

    name: str = within(FOLDER_NAME)
    stream: dict[str, Any] = field(default_factory=dict)
    scenario: str = within(one_of(*SCENARIOS), SCENARIOS[0])
    contexts: int = within(at_least(1))
    classes_per_context: int = within(at_least(1))
    image_size: int | None = within(or_null(at_least(1)), None)
    normalize: bool = False
    iters_by_budget: dict[str, int] = field(default_factory=dict)
    iters: int = within(at_least(1), SI(_ITERS))
    epochs: int | None = within(or_null(at_least(1)), None)  # instead of iterations
    batch_size: int = within(written(1), 128)
    lr: float = 1e-3
    published: PublishedConfig | None = None


@dataclass
class DatasetConfig:
    """Where the images come from (`conf/dataset`)."""

    name: str = within(FOLDER_NAME)
    source: str = MISSING
    n_classes: int | None = MISSING
    root: str | None = None
    train: str | None = None
    test: str | None = None
    layout: str | None = within(or_null(one_of(*LAYOUTS)), None)
    resize: int | None = within(or_null(at_least(1)), None)


@dataclass
class PresetConfig:
    """What `protocol=NAME` (`conf/protocol`) gives a method, unless something else is typed.

    Attributes:
        name: of the preset.
        values: of every method's hyperparameters and options, as far as it has them.
        by_method: instead, or as well, for methods by their names.
    """

    name: str = MISSING
    values: dict[str, Any] = field(default_factory=dict)
    by_method: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, method: str) -> dict[str, Any]:
        """The values for a method, by the names that it has for them; it may lack some.

        Args:
            method: its name.
        """
        return _flat(self.values) | _flat(self.by_method.get(method, {}))


@dataclass
class RegularizerConfig:
    """A method (`conf/regularizer`); either `_target_` or `file` says where its code is.

    In YAML and on the command line the values stand beside the other keys: `regularizer.reg_strength=10`.

    Attributes:
        name: the method's.
        _target_: the dotted path of a built-in method's class.
        file: a Python file with the contract's two functions.
        tuned: values that were tuned for the benchmark (`conf/tuned`), by hyperparameter, and in `space` what a sweep
            searches on that benchmark.
        tuned_for: the beginning of the digest of the file that they are for.
        preset: values that override the tuned ones, where a run follows another protocol than ours.
        space: what a sweep searches, by hyperparameter, each a range in Hydra's syntax for sweeps; what isn't named
            here is the method's own.
        values: what is given of its hyperparameters and options, by name; `fisher.labels` is one.
    """

    name: str = within(FOLDER_NAME)
    _target_: str | None = None
    file: str | None = None
    tuned: dict[str, Any] = field(default_factory=dict)
    tuned_for: str | None = None
    preset: PresetConfig | None = None
    space: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def preset_values(self) -> dict[str, Any]:
        """What a preset gives this method, by the names that it has for them; it may lack some."""
        return {} if self.preset is None else self.preset.of(self.name)


@dataclass
class ContractConfig:
    """What a method is shown.

    Attributes:
        logits: active, or all: whether `model(x)` gives the logits of the active classes, or those of all.
    """

    logits: str = within(one_of(*LOGITS), LOGITS[0])


@dataclass
class WorkerConfig:
    """A worker's part in a sweep (`search.worker`), which the sweep passes to the processes that it starts.

    `number` counts the sweep's workers from 0; `studies` are the names of its studies. `sweep` is the process that the
    worker must not outlive; null where that process runs on another machine. `arguments` are the sweep's own, for a
    worker that is a job of one of Hydra's launchers; any other has them on its command line.
    """

    number: int = MISSING
    studies: list[str] = MISSING
    sweep: dict[str, Any] | None = None
    arguments: list[str] = field(default_factory=list)


ON_STREAM, ON_FIRST_CONTEXTS, ON_OTHER_DATA, NO_SEARCH = "stream", "first_contexts", "other_data", "defaults"
TUNED_ON = (ON_STREAM, ON_FIRST_CONTEXTS, ON_OTHER_DATA, NO_SEARCH)


@dataclass
class SearchConfig:
    """How a sweep searches (`conf/search`).

    `tune_on` is what hyperparameters are chosen on; `first_contexts` and `data` are what that needs. See
    `clsweep.sweeps.tuning`. In YAML and on the command line `data` is a data set's name or its values.

    `space` is what a study searches: ranges in Hydra's syntax, by the name of a hyperparameter of the method, or by any
    other key. A sweep puts it there; null: what the method says.
    """

    n_trials: int = within(at_least(1))
    tune_on: str = within(one_of(*TUNED_ON), ON_STREAM)
    first_contexts: int | None = within(or_null(at_least(2)), None)
    data: DatasetConfig | None = None
    timeout: float | None = within(or_null(_SECONDS), None)
    seeds: int = within(at_least(1))
    final_seeds: int = within(at_least(0))
    max_failures: int = within(at_least(1))
    storage: str | None = None
    sampler: str = MISSING
    sampler_options: dict[str, Any] | None = None
    pruner: str | None = None
    pruner_options: dict[str, Any] | None = None
    share_first_context: bool = True
    workers: int | None = within(or_null(at_least(1), _IDLE), None)
    dry_run: bool = False
    space: dict[str, str] | None = None
    worker: WorkerConfig | None = None


@dataclass
class Config:
    """The whole setting of one run (`conf/config.yaml`)."""

    benchmark: BenchmarkConfig = MISSING
    dataset: DatasetConfig = MISSING
    network: dict[str, Any] = MISSING  # see `clsweep.architecture`
    optimizer: dict[str, Any] = MISSING  # its `lr` is `benchmark.lr`; see `optimizer_setting`
    regularizer: RegularizerConfig = MISSING
    contract: ContractConfig = field(default_factory=ContractConfig)
    search: SearchConfig = MISSING
    seed: int = within(written(0))
    seeds: int | None = within(or_null(at_least(1)))
    seed_order: int | None = within(or_null(written(0)), None)  # see `clsweep.seeding.Seeds`
    seed_init: int | None = within(or_null(written(0)), None)
    seed_batches: int | None = within(or_null(written(0)), None)
    budget: str = MISSING
    stream: str = within(one_of(*STREAMS))
    first_contexts: int | None = within(or_null(at_least(1)), None)
    validation_fraction: float = within(_PART)
    precision: str = within(one_of(*PRECISIONS))
    device: str = within(DEVICE)
    threads: int | None = within(or_null(at_least(1)))
    evaluate_every: int | None = within(or_null(at_least(1)), None)
    figures: bool = MISSING
    resume: bool = True
    keep_checkpoints: bool = False
    tensorboard: bool = MISSING
    save_model: Any = within(_SAVE_MODEL, False)  # true, false or every_context
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def contexts_learned(self) -> int:
        """How many contexts a run learns: the first ones alone, or all that its benchmark has."""
        return self.first_contexts or self.benchmark.contexts

    @property
    def method(self) -> str:
        """The method's name in results and folders; joint training uses no regularizer."""
        return method_folder(self.stream, self.regularizer.name)

    @property
    def shown_name(self) -> str:
        """The method's name as printed and in studies: for a file of one's own, the file's name."""
        return shown_name(self.method, "" if self.stream == "joint" else self.regularizer.file or "")

    @property
    def shown_method(self) -> str:
        """The same and, where it is a file, which one."""
        own = self.regularizer.file is not None and self.stream != "joint"
        return f"{self.shown_name} ({Path(str(self.regularizer.file)).name})" if own else self.shown_name

    @property
    def optimizer_setting(self) -> OptimizerSetting:
        """The optimizer, with its learning rate."""
        return OptimizerSetting.of(self.optimizer, self.benchmark.lr)

    @property
    def effective_budget(self) -> str:
        """`budget`, or `custom` where `benchmark.epochs` or a `benchmark.iters` of its own says how long."""
        return self.budget if self.follows_budget and self.benchmark.epochs is None else "custom"

    @property
    def follows_budget(self) -> bool:
        """Whether `benchmark.iters` is what the budget says."""
        return self.benchmark.iters == self.benchmark.iters_by_budget[self.budget]


def method_folder(stream: str, regularizer: str) -> str:
    """The folder name of a run: the regularizer's name, or `joint`, where none is used."""
    return "joint" if stream == "joint" else regularizer


def shown_name(regularizer: str, file: str) -> str:
    """What a method is called: a file of one's own by the file's name, any other by its name in the configuration.

    Args:
        regularizer: its name in the configuration.
        file: where its code is; empty for a built-in method.
    """
    stem = Path(file).stem
    return stem if regularizer == OWN and stem not in ("", SHIPPED) else regularizer


def times(factor: float, number: float) -> float:
    """A product, an integer where it is whole, as a YAML file writes it: `${times:0.1,${benchmark.iters}}`."""
    product = factor * number
    return int(product) if product == int(product) else product


OmegaConf.register_new_resolver("method_folder", method_folder, replace=True)
OmegaConf.register_new_resolver("times", times, replace=True)


def typed_config_dir(hydra: Any) -> Path | None:
    """The folder of `--config-dir`, by Hydra's own part of the configuration."""
    sources = hydra.runtime.config_sources
    return next((Path(source.path) for source in sources if source.provider == "command-line"), None)


def _file(group: str, name: object) -> Path | None:
    """The file of a group with that name, if any."""
    return next((file for file in _files(group) if file.stem == name), None)


def _files(group: str) -> list[Path]:
    return group_files(group, typed_config_dir(HydraConfig.get()) if HydraConfig.initialized() else None)


def choices(group: str) -> str:
    """The names of a group's files, of those in `--config-dir`, too, with commas between them."""
    return ", ".join(sorted({file.stem for file in _files(group)}))


def missing_benchmark() -> InputError:
    """The error for a command line without a benchmark."""
    return InputError(f"No benchmark given: choose one with +benchmark=..., one of {choices('benchmark')}.")


def parse(composed: DictConfig) -> Config:
    """Turn a configuration composed by Hydra into a checked `Config`.

    Args:
        composed: the whole configuration; a `hydra` node in it is ignored.

    Returns:
        The typed setting, every interpolation resolved and every path absolute.

    Raises:
        InputError: a value is missing, unknown, of the wrong type or out of its range.
    """
    if wrong := listed(composed):
        raise wrong
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.set_struct(settings, False)
    try:
        if not _has_benchmark(settings):
            raise missing_benchmark()
        _check_preset(settings)
        _translate(settings)
        _gather(settings)
        _name_data(settings)
        merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
        _fill_budgets(merged.benchmark)
        _check_budget(merged)  # first: benchmark.iters interpolates it
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _as_input_error(error, settings) from error
    assert isinstance(config, Config)
    config = _with_one_rate(_with_absolute_paths(config))
    config = replace(config, network=architecture.complete(config.network))
    if config.tensorboard:
        config = replace(config, logger={**_named_logger("tensorboard"), **config.logger})
    check(config)
    return config


def _has_benchmark(composed: DictConfig) -> bool:
    """Whether a benchmark was chosen, or is written in a file: single values, as in `benchmark.iters=5`, are none."""
    return any(OmegaConf.select(composed, f"benchmark.{key}") is not None for key in ("name", "stream"))


def listed(node: Any) -> InputError | None:
    """The error for a group whose file is a list; None where there is none.

    Args:
        node: a node of the composed configuration.
    """
    root = node._get_root() if isinstance(node, Node) else None
    if not isinstance(root, DictConfig):
        return None
    for group in groups():
        given = root._get_node(group, validate_access=False)
        if isinstance(given, ListConfig) and group != "logger":
            choice = OmegaConf.select(root, "hydra.runtime.choices", default={}).get(group)
            typed = group if choice is None else f"{group}={choice}"
            return InputError(
                f"{typed}: its YAML file is a list; expected KEY: VALUE on each line, as in 'name: mine'."
            )
    return None


def _check_preset(composed: DictConfig) -> None:
    """Check that the published figures that a preset refers to are there: not every benchmark has them."""
    name = OmegaConf.select(composed, f"{_METHOD}.preset.name")
    published = ("benchmark.published.reg_strength", "benchmark.published.protocol.iters")
    if name is not None and any(OmegaConf.select(composed, key) is None for key in published):
        known = [file.stem for file in sorted((config_dir() / "benchmark").glob("*.yaml")) if _has_figures(file)]
        raise InputError(
            f"{PRESETS}={name}: benchmark={OmegaConf.select(composed, 'benchmark.name')} has no published figures, "
            f"whose protocol this is; expected one of {', '.join(known)}, or {' and '.join(published)} as well."
        )


def _has_figures(benchmark: Path) -> bool:
    return OmegaConf.select(OmegaConf.load(benchmark), "benchmark.published") is not None


def _check_budget(merged: Any) -> None:
    lengths = merged.benchmark.iters_by_budget
    more = "" if len(lengths) > 1 else f", or benchmark.iters=N, since benchmark={merged.benchmark.name} has no other"
    _require(merged.budget in lengths, "budget", merged.budget, f"one of {', '.join(lengths)}{more}")


def _fill_budgets(benchmark: DictConfig) -> None:
    """Where a benchmark says its iterations and no more, they are its full budget."""
    if benchmark.iters_by_budget:
        return
    if OmegaConf.is_interpolation(benchmark, "iters"):
        raise InputError(
            "benchmark.iters: is missing; expected an integer, or benchmark.iters_by_budget, as in '{full: 2000, "
            "quick: 200, smoke: 20}'."
        )
    benchmark.iters_by_budget = {"full": benchmark.iters}


def _translate(settings: DictConfig) -> None:
    """Read what was written down before streams and methods were classes and functions, such as a study's best.yaml."""
    kind = OmegaConf.select(settings, "benchmark.kind")
    if kind is not None:
        del settings.benchmark.kind
        settings.benchmark.stream = {TARGET: f"{_STREAMS}.{kind}"}
        for key in ("good_values", "spaces"):  # which the method's own values follow from
            settings.benchmark.pop(key, None)
        if OmegaConf.select(settings, "network.name") in files(architecture.KEY):
            settings.network.pop(TARGET, None)  # of the default network, beneath; `architecture.complete` goes by name
    if OmegaConf.select(settings, "regularizer.module", default=0) == 0:
        return
    method = settings.regularizer
    module = method.pop("module")
    if module is not None:
        if module != f"clsweep.regularizers.{method.name}":  # which is what was written down
            raise InputError(
                f"regularizer.module={module}: is no key of a method; expected the file with your two functions, "
                "regularizer=custom regularizer.file=FILE, or a class, regularizer._target_=MODULE.CLASS."
            )
        method[TARGET] = OmegaConf.select(OmegaConf.load(config_dir() / "regularizer" / f"{method.name}.yaml"), TARGET)
    for key in ("fisher", "floor_at_zero"):
        if not method.get(key):
            method.pop(key, None)


def _with_one_rate(config: Config) -> Config:
    node, lr = optimizers.one_rate(config.optimizer, config.benchmark.lr)
    return replace(config, optimizer=node, benchmark=replace(config.benchmark, lr=lr))


def _named_logger(name: str) -> dict[str, Any]:
    """What `logger=NAME` puts into the setting."""
    node = OmegaConf.to_container(OmegaConf.load(config_dir() / "logger" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def worker(composed: DictConfig) -> WorkerConfig | None:
    """A worker's part in a sweep, where a configuration says that it has one.

    Raises:
        InputError: it isn't what a sweep says.
    """
    given = OmegaConf.select(composed, "search.worker")
    if given is None:
        return None
    advice = "is set by a sweep for its workers; expected the command without it"
    if not isinstance(given, DictConfig):
        raise InputError(f"search.worker={_typed(given)}: {advice}.")
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WorkerConfig), given))
    except OmegaConfBaseException as error:
        raise InputError(f"search.worker: {advice} ({sentence(error)})") from error
    assert isinstance(made, WorkerConfig)
    return made


def _gather(settings: DictConfig) -> None:
    """Put a method's hyperparameters, which stand beside its other keys, into `regularizer.values`."""
    node = settings.get("regularizer")
    if not isinstance(node, DictConfig):
        return
    fixed = [one.name for one in fields(RegularizerConfig)]
    names = [str(key) for key in node if key not in fixed]
    own = OmegaConf.to_container(OmegaConf.masked_copy(node, names), resolve=True)
    for name in names:
        del node[name]
    node["values"] = {**(node.get("values") or {}), **_flat(own)}


def _name_data(settings: DictConfig) -> None:
    """Put the values of a data set in the place of its name in `search.data`; what is given beside the name wins.

    Its images are where those of the benchmark's own data set are, unless it says otherwise.
    """
    given = OmegaConf.select(settings, SEARCH_DATA)
    if given is None:
        return
    name = OmegaConf.select(given, "name") if isinstance(given, DictConfig) else given
    own = {"name": name} if not isinstance(given, DictConfig) else given
    file = _file("dataset", name)
    if not isinstance(name, str) or not (file or "source" in own):
        typed = name if name is not None else _typed(given)
        raise InputError(
            f"{SEARCH_DATA}={typed}: expected one of {choices('dataset')}, or values, as in "
            f"{SEARCH_DATA}='{{name: arrays, train: A.npz, test: B.npz}}'."
        )
    of_name = OmegaConf.load(file) if file else OmegaConf.create({"n_classes": None})
    root = OmegaConf.select(settings, "dataset.root")
    if "root" in of_name and root is not None:
        of_name.root = root
    settings.search.data = OmegaConf.merge(of_name, own)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def as_values(config: Config) -> dict[str, Any]:
    """The whole setting in plain dicts, as YAML and the command line have it; `from_values` reads it again."""
    values = asdict(config)
    regularizer = values["regularizer"]
    for name, value in regularizer.pop("values").items():
        *groups, last = name.split(".")
        node = regularizer
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return values


def has(composed: DictConfig, key: str) -> bool:
    """Whether a composed configuration has a key, even if its value is null."""
    node, _, name = key.rpartition(".")
    parent = OmegaConf.select(composed, node)
    return isinstance(parent, DictConfig) and name in parent


def _with_absolute_paths(config: Config) -> Config:
    regularizer, search = config.regularizer, config.search
    return replace(
        config,
        dataset=_with_absolute_files(config.dataset),
        regularizer=replace(regularizer, file=_absolute(regularizer.file)),
        search=search if search.data is None else replace(search, data=_with_absolute_files(search.data)),
    )


def _with_absolute_files(dataset: DatasetConfig) -> DatasetConfig:
    root, train, test = map(_absolute, (dataset.root, dataset.train, dataset.test))
    return replace(dataset, root=root, train=train, test=test)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(absolute(path))


def from_values(values: Mapping[str, Any]) -> Config:
    """The setting from its values, as `as_values` gives them.

    Raises:
        InputError: see `parse`.
    """
    return parse(OmegaConf.create(dict(values)))


def key_of(name: str) -> str:
    """The key of what is searched under a name: a method's hyperparameters are named without their group."""
    return name if "." in name else f"{_METHOD}.{name}"


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
    return [group, "values", rest] if group == _METHOD else [group, *rest.split(".")]


def _put(node: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    before = node.get(name) if isinstance(node, Mapping) else getattr(node, name)
    if rest:
        value = _put({} if before is None else before, rest, value)
    elif isinstance(before, float) and isinstance(value, int):
        value = float(value)
    return {**node, name: value} if isinstance(node, Mapping) else replace(node, **{name: value})


def to_yaml(config: Config) -> str:
    """The whole setting as YAML, every value in it; `parse` reads it again."""
    return OmegaConf.to_yaml(OmegaConf.create(as_values(config)))


def rerun_yaml(config: Config) -> str:
    """What repeats a run, wherever it is started, as YAML: the setting, and what was searched.

    Iterations that follow the budget refer to it, so that another `budget=` brings its own. The data sets' folder is
    CLSWEEP_DATA's, where that is set, else this run's. Groups that take arguments of anyone's classes begin with their
    file `own`, so that no argument of another class is left in them.
    """
    defaults = ["config", "_self_", *({f"override /{group}": OWN_FILE} for group in OPEN_GROUPS)]
    values = {"defaults": defaults, **as_values(config)}
    values["search"] = {"space": config.search.space, **_tuned_on(values["search"])}
    del values["dataset"]["root"]
    if config.dataset.root is not None:
        values["dataset"]["root"] = _root(config.dataset.root)
    if config.follows_budget:
        values["benchmark"]["iters"] = _ITERS
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _tuned_on(search: Mapping[str, Any]) -> dict[str, Any]:
    """What was tuned on, where it isn't the usual."""
    said = {name: search[name] for name in ("tune_on", "first_contexts", "data") if search[name] is not None}
    return {} if search["tune_on"] == ON_STREAM else said


def _root(root: str) -> str:
    folder = os.environ.get(_DATA)
    is_from_there = folder is not None and root == _absolute(folder)
    quoted = root.replace("\\", "\\\\").replace("'", "\\'")
    return f"${{oc.env:{_DATA},data}}" if is_from_there else f"${{oc.env:{_DATA},'{quoted}'}}"


@cache
def groups() -> tuple[str, ...]:
    """The groups that a run chooses files from: of `logger` any number, of the others one."""
    return (*(name for name in get_type_hints(Config) if (config_dir() / name).is_dir()), PRESETS)


@cache
def lists() -> tuple[str, ...]:
    """The keys whose values are lists."""
    typed = [key for key, kind in _keys(Config) if get_origin(kind) is list]
    written = {
        f"{group}.{name}"
        for group in groups()
        for values in files(group).values()
        for name, value in values.items()
        if isinstance(value, list)
    }
    return (*typed, *sorted(written))


def unknown_key(key: str) -> InputError:
    """The error for a key that no configuration has, with the closest one that exists.

    Args:
        key: dotted, as in `benchmark.itrs`.
    """
    known = [name for name, _ in _keys(Config)]
    if key == "benchmark.benchmark":
        return without_package(key)
    if key == "tuned":
        return InputError(
            f"{key}: expected '# @package {_METHOD}.{key}' as the first line of the YAML file in the folder {key}/."
        )
    if key in known:
        group = key.partition(".")[0]
        return InputError(
            f"{key}: not a key of the chosen {group}; expected another {group}=... or a key that --cfg job shows."
        )
    close = difflib.get_close_matches(key, [*known, *(f"{_METHOD}.{name}" for name in STANDARD)], n=1)
    advice = f"did you mean {close[0]}?" if close else "python -m clsweep --help lists the keys."
    return InputError(f"{key}: no such key here; {advice}")


def without_package(what: str) -> InputError:
    """The error for a benchmark's file that Hydra puts in the wrong place.

    Args:
        what: where it went wrong.
    """
    return InputError(f"{what}: expected '# @package _global_' as the first line of the benchmark's YAML file.")


def _keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that holds a value, with its type."""
    for name, kind in get_type_hints(schema).items():
        nested = next((part for part in (kind, *get_args(kind)) if is_dataclass(part)), None)
        if nested is None:
            yield f"{prefix}{name}", kind
        else:
            yield from _keys(nested, f"{prefix}{name}.")


def check(config: Config) -> None:
    """Check every value that can be checked before data is loaded or torch imported.

    Raises:
        InputError: naming the first key whose value is out of its range.
    """
    ranges.check(config)
    benchmark = config.benchmark
    if config.seeds is not None:
        refuse_repeats(config, "seeds", config.seeds)
        most = 10**ranges.DIGITS - config.seed
        _require(
            config.seeds <= most, "seeds", config.seeds, f"at most {most}, since they count from seed={config.seed}"
        )
    _check_stream(benchmark.stream)
    _check_epochs(config)
    _check_first_contexts(config)
    if config.benchmark.epochs is None:
        check_evaluation(config, config.benchmark.iters, f"the {config.benchmark.iters} iterations of each context")
    optimizers.check(config.optimizer, benchmark.lr)
    architecture.check(config.network)
    _check_file(config)
    _check_data("dataset", config.dataset)
    if config.search.data is not None:
        _check_data(SEARCH_DATA, config.search.data)
    if config.dataset.n_classes is not None:
        check_class_count(config, config.dataset.n_classes)
    _check_values(config.regularizer)
    if config.logger or config.callbacks:
        from clsweep.training import observers  # here, since it looks for classes

        observers.check(config)


def refuse_repeats(config: Config, key: str, count: int) -> None:
    """Refuse several seeds where no part of a run's seed follows them.

    Args:
        config: the setting.
        key: the one that asks for several seeds.
        count: how many.

    Raises:
        InputError: all runs would be the same.
    """
    parts = (config.seed_order, config.seed_init, config.seed_batches)
    if count > 1 and None not in parts:
        raise InputError(
            f"{key}={count}: the seed's parts seed_order, seed_init and seed_batches are all given, so that every run "
            f"would be the same; expected one of them left out, or {key}=1."
        )


def _check_epochs(config: Config) -> None:
    epochs = config.benchmark.epochs
    if epochs is not None and not config.follows_budget:
        raise epochs_contradicted("benchmark.iters", config.benchmark.iters, epochs)


def _check_first_contexts(config: Config) -> None:
    first, contexts = config.first_contexts, config.benchmark.contexts
    fewer = f"fewer than benchmark.contexts={contexts}, or null for all of them"
    _require(first is None or first < contexts, "first_contexts", first, fewer)


def epochs_contradicted(key: str, value: object, epochs: int) -> InputError:
    """The error for two keys that say how long training is."""
    return InputError(f"{key}={value}: contradicts benchmark.epochs={epochs}; expected one of them.")


def check_evaluation(config: Config, iters: int, length: str) -> None:
    """Check that every context is measured while it is learned, where that is asked for.

    Args:
        config: the setting.
        iters: the optimizer steps of the shortest context.
        length: the same in words.

    Raises:
        InputError: nothing, or less than what is asked for, would be measured.
    """
    every = config.evaluate_every
    if every is None:
        return
    if config.stream == "joint":
        raise InputError(
            f"evaluate_every={every}: with stream=joint nothing is learned after anything else, whose accuracy could "
            "fall meanwhile; expected it left out, or stream=sequential."
        )
    _require(every <= iters, "evaluate_every", every, f"an integer from 1 to {length}, or null")


def _check_values(regularizer: RegularizerConfig) -> None:
    """Check what is given of a method's hyperparameters; what only a file knows of them is seen when it is loaded."""
    given = {name: value for name, value in regularizer.values.items() if value is not None}
    for name in given.keys() & STANDARD.keys():
        STANDARD[name].checked(name, given[name])
    if regularizer._target_ is not None and given:
        from clsweep.methods.loading import load  # here, since it imports torch, which a run needs in any case

        load(regularizer)


def _check_file(config: Config) -> None:
    regularizer = config.regularizer
    if regularizer.file is None:
        return
    shown = short(Path(regularizer.file))
    _require(
        regularizer._target_ is None,
        "regularizer.file",
        shown,
        f"no file for the built-in method {regularizer.name} (regularizer=custom takes one)",
    )
    if config.stream != "joint" and not Path(regularizer.file).is_file():
        raise InputError(
            f"regularizer.file={shown}: {no_file(regularizer.file)}; expected a Python file with estimate_importance "
            f"and compute_regularization_loss (python -m clsweep {new_method.OPTION} my_idea.py writes one, for "
            "regularizer.file=my_idea.py) or a method that is there already, as in regularizer=ewc."
        )


def _check_data(key: str, dataset: DatasetConfig) -> None:
    """Check that a name of the group has the group's source (results show only the name), and that files are two."""
    file = _file("dataset", dataset.name)
    known = OmegaConf.create() if file is None else OmegaConf.load(file)
    source = OmegaConf.select(known, "source", throw_on_resolution_failure=False)
    if source not in (None, dataset.source):
        raise InputError(
            f"{key}.source={dataset.source}: dataset={dataset.name} is {source}; expected another {key}.name=... as "
            "well, which results have."
        )
    both = {Path(one).resolve() for one in (dataset.train, dataset.test) if one is not None}
    if len(both) == 1 and None not in (dataset.train, dataset.test):
        raise InputError(f"{key}.test={dataset.test}: is {key}.train, too; expected images that training hasn't seen.")


def _check_stream(node: Mapping[str, Any]) -> None:
    target = Target.of(STREAM, node)
    is_known = target.path in (_SPLIT, *_OF_ALL_CLASSES) and not target.arguments
    if not is_known:  # which takes importing it, and torch with it
        target.check("data", *GIVEN_TO_STREAMS)


def check_class_count(config: Config, n_classes: int) -> None:
    """Check that the data set has the classes that the contexts need.

    Args:
        config: the setting.
        n_classes: the number of classes in the data set.

    Raises:
        InputError: the contexts need more classes than there are.
    """
    benchmark = config.benchmark
    per_context, needed = benchmark.classes_per_context, classes_needed(benchmark)
    if needed is None or needed.holds(n_classes):
        return
    if benchmark.stream[TARGET] in _OF_ALL_CLASSES:
        raise InputError(
            f"benchmark.classes_per_context={per_context}: expected {n_classes}, since every context shows all classes "
            f"of dataset={config.dataset.name}."
        )
    most = n_classes // per_context
    advice = f"at most {most}" if most else f"benchmark.classes_per_context of at most {n_classes}"
    raise InputError(
        f"benchmark.contexts={benchmark.contexts} of {per_context} classes each need "
        f"{benchmark.contexts * per_context} classes, but dataset={config.dataset.name} has {n_classes}: "
        f"expected {advice}."
    )


def classes_needed(benchmark: BenchmarkConfig) -> Allowed | None:
    """How many classes a data set may have; None for a stream of one's own, which sees to it itself."""
    per_context, path = benchmark.classes_per_context, benchmark.stream[TARGET]
    if path in _OF_ALL_CLASSES:
        return Allowed(lambda count: count == per_context, f"{per_context}, since every context shows all classes")
    if path != _SPLIT:
        return None
    least = benchmark.contexts * per_context
    told = f"{least} or more, for benchmark.contexts={benchmark.contexts} of {per_context} classes each"
    return Allowed(lambda count: count >= least, told)


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{key}={value}: expected {expected}.")


def _as_input_error(error: OmegaConfBaseException, given: DictConfig) -> InputError:
    """What is wrong with the values `given`, in terms of what may be typed."""
    key = str(error.full_key or _list_for_values(given)).partition("[")[0]  # of a list, not of its element
    if isinstance(error, ConfigKeyError) and key:
        return unknown_key(key)
    if not (isinstance(error, ValidationError | MissingMandatoryValue) or not error.full_key) or not key:
        return InputError(sentence(error))
    value = OmegaConf.select(given, key)
    kinds = dict(_keys(Config))
    below = [one for one in kinds if one.startswith(f"{key}.")]
    if key not in kinds and not below and key not in groups():  # a name within a dict
        return InputError(sentence(error))
    expected = f"values of {', '.join(below)}" if below else _expected(kinds[key])
    if key in groups():
        expected = f"one of {choices(key)}"
    if isinstance(error, MissingMandatoryValue):
        return InputError(f"{key}: is missing; expected {expected}.")
    return InputError(f"{key}={_typed(value)}: expected {expected}.")


def _list_for_values(given: DictConfig) -> str:
    """The key that has a list in the place of values by name, which OmegaConf doesn't say; empty where none has."""
    kinds = dict(_keys(Config))
    names = (key for key, kind in kinds.items() if dict in (get_origin(part) for part in (kind, *get_args(kind))))
    return next((key for key in names if isinstance(OmegaConf.select(given, key), ListConfig)), "")


def _typed(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, ListConfig):
        return f"[{','.join(map(_typed, value))}]"
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
