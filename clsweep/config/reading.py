"""From a configuration that Hydra has composed to a checked setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clsweep import architecture, optimizers
from clsweep.config.checking import check, require
from clsweep.config.choosing import choices, file_of, groups
from clsweep.config.schema import (
    METHOD,
    OUR_STREAMS,
    PRESETS,
    SEARCH_DATA,
    Config,
    DatasetConfig,
    RegularizerConfig,
    WorkerConfig,
    flat,
)
from clsweep.config.wording import as_input_error, as_typed, sentence
from clsweep.errors import InputError
from clsweep.paths import absolute, config_dir
from clsweep.targets import TARGET, files


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
        raise as_input_error(error, settings) from error
    assert isinstance(config, Config)
    config = _with_one_rate(_with_absolute_paths(config))
    config = replace(config, network=architecture.complete(config.network))
    if config.tensorboard:
        config = replace(config, logger={**_named_logger("tensorboard"), **config.logger})
    check(config)
    return config


def from_values(values: Mapping[str, Any]) -> Config:
    """The setting from its values, as `as_values` gives them.

    Raises:
        InputError: see `parse`.
    """
    return parse(OmegaConf.create(dict(values)))


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
        raise InputError(f"search.worker={as_typed(given)}: {advice}.")
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WorkerConfig), given))
    except OmegaConfBaseException as error:
        raise InputError(f"search.worker: {advice} ({sentence(error)})") from error
    assert isinstance(made, WorkerConfig)
    return made


def _has_benchmark(composed: DictConfig) -> bool:
    """Whether a benchmark was chosen, or is written in a file: single values, as in `benchmark.iters=5`, are none."""
    return any(OmegaConf.select(composed, f"benchmark.{key}") is not None for key in ("name", "stream"))


def missing_benchmark() -> InputError:
    """The error for a command line without a benchmark."""
    return InputError(f"No benchmark given: choose one with +benchmark=..., one of {choices('benchmark')}.")


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
    name = OmegaConf.select(composed, f"{METHOD}.preset.name")
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
    require(merged.budget in lengths, "budget", merged.budget, f"one of {', '.join(lengths)}{more}")


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
        settings.benchmark.stream = {TARGET: f"{OUR_STREAMS}.{kind}"}
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


def _gather(settings: DictConfig) -> None:
    """Put a method's hyperparameters, which stand beside its other keys, into `regularizer.values`."""
    node = settings.get("regularizer")
    if not isinstance(node, DictConfig):
        return
    fixed = [one.name for one in fields(RegularizerConfig)]
    names = [str(key) for key in node if key not in fixed]
    own = {name: _resolved(node[name]) for name in names}  # in its place: it may refer to other keys
    for name in names:
        del node[name]
    node["values"] = {**(node.get("values") or {}), **flat(own)}


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value


def _name_data(settings: DictConfig) -> None:
    """Put the values of a data set in the place of its name in `search.data`; what is given beside the name wins.

    Its images are where those of the benchmark's own data set are, unless it says otherwise.
    """
    given = OmegaConf.select(settings, SEARCH_DATA)
    if given is None:
        return
    name = OmegaConf.select(given, "name") if isinstance(given, DictConfig) else given
    own = {"name": name} if not isinstance(given, DictConfig) else given
    file = file_of("dataset", name)
    if not isinstance(name, str) or not (file or "source" in own):
        typed = name if name is not None else as_typed(given)
        raise InputError(
            f"{SEARCH_DATA}={typed}: expected one of {choices('dataset')}, or values, as in "
            f"{SEARCH_DATA}='{{name: arrays, train: A.npz, test: B.npz}}'."
        )
    of_name = OmegaConf.load(file) if file else OmegaConf.create({"n_classes": None})
    root = OmegaConf.select(settings, "dataset.root")
    if "root" in of_name and root is not None:
        of_name.root = root
    settings.search.data = OmegaConf.merge(of_name, own)


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
