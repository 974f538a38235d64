"""The setting of a run as typed dataclasses, each value with its range.

Values live in `conf/*.yaml`; the fields here have no defaults of their own except where a YAML file may leave them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, SI, OmegaConf

from clsweep.hyperparameters import POSITIVE, Allowed, one_of
from clsweep.optimizers import OptimizerSetting
from clsweep.ranges import FOLDER_NAME, at_least, or_null, within, written

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
OUR_STREAMS = "clsweep.data.streams"
SPLIT = f"{OUR_STREAMS}.split"
OF_ALL_CLASSES = (f"{OUR_STREAMS}.permuted", f"{OUR_STREAMS}.rotated")
GIVEN_TO_STREAMS = ("contexts", "classes_per_context", "seed", "input_shape")
CUSTOM_BUDGET = "custom"  # iterations of one's own, or epochs
OWN, SHIPPED = "custom", "custom_regularization"  # a method in a file, and the file that ships
ITERS = "${.iters_by_budget.${budget}}"  # as conf/benchmark/*.yaml has it
METHOD = "regularizer"
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
    iters: int = within(at_least(1), SI(ITERS))
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
        return flat(self.values) | flat(self.by_method.get(method, {}))


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
        return self.budget if self.follows_budget and self.benchmark.epochs is None else CUSTOM_BUDGET

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


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def times(factor: float, number: float) -> float:
    """A product, an integer where it is whole, as a YAML file writes it: `${times:0.1,${benchmark.iters}}`."""
    product = factor * number
    return int(product) if product == int(product) else product


OmegaConf.register_new_resolver("method_folder", method_folder, replace=True)
OmegaConf.register_new_resolver("times", times, replace=True)
