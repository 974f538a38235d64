"""What the values of a setting must be to each other, and to what is there: files, classes, streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clsweep import architecture, optimizers, ranges
from clsweep.config.choosing import file_of
from clsweep.config.schema import (
    GIVEN_TO_STREAMS,
    OF_ALL_CLASSES,
    SEARCH_DATA,
    SPLIT,
    STREAM,
    BenchmarkConfig,
    Config,
    DatasetConfig,
    RegularizerConfig,
)
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD, Allowed
from clsweep.methods import new_method
from clsweep.paths import no_file, short
from clsweep.targets import TARGET, Target, files


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
        require(
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
    require(first is None or first < contexts, "first_contexts", first, fewer)


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
    require(every <= iters, "evaluate_every", every, f"an integer from 1 to {length}, or null")


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
    require(
        regularizer._target_ is None,
        "regularizer.file",
        shown,
        f"no file for the built-in method {regularizer.name} (regularizer=custom takes one)",
    )
    require(
        regularizer.name not in files("regularizer"),
        "regularizer.name",
        regularizer.name,
        f"no built-in method's name for regularizer.file={shown}, which results would show under it: "
        "regularizer=custom, or another name",
    )
    if config.stream != "joint" and not Path(regularizer.file).is_file():
        raise InputError(
            f"regularizer.file={shown}: {no_file(regularizer.file)}; expected a Python file with estimate_importance "
            f"and compute_regularization_loss (python -m clsweep {new_method.OPTION} my_idea.py writes one, for "
            "regularizer.file=my_idea.py) or a method that is there already, as in regularizer=ewc."
        )


def _check_data(key: str, dataset: DatasetConfig) -> None:
    """Check that a name of the group has the group's source (results show only the name), and that files are two."""
    file = file_of("dataset", dataset.name)
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
    is_known = target.path in (SPLIT, *OF_ALL_CLASSES) and not target.arguments
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
    if benchmark.stream[TARGET] in OF_ALL_CLASSES:
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
    if path in OF_ALL_CLASSES:
        return Allowed(lambda count: count == per_context, f"{per_context}, since every context shows all classes")
    if path != SPLIT:
        return None
    least = benchmark.contexts * per_context
    told = f"{least} or more, for benchmark.contexts={benchmark.contexts} of {per_context} classes each"
    return Allowed(lambda count: count >= least, told)


def require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{key}={value}: expected {expected}.")
