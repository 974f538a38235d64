"""One study: a method on a benchmark, what is searched, and what makes its trials comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from clsweep.config import HYPERPARAMETERS, STREAM, Config, with_values
from clsweep.data.arrays import CHANNELS_FIRST, reads_channels_first
from clsweep.methods import files as method_files
from clsweep.methods.files import MethodFile
from clsweep.sweeps import space
from clsweep.sweeps.space import Point, Space
from clsweep.targets import Target

HELD_OUT = 0.1
FIRST_FINAL_SEED = 1_000
_ALGORITHM = "blake2b"  # of the digests of files
# What decides a trial's results, beside the files' contents, the seeds, the validation data and what is searched. A key
# that isn't named here never changes a study's name, so that one more in the configuration leaves all studies in place.
_COMPARED: dict[str, tuple[str, ...]] = {
    "benchmark": (
        "name",
        "scenario",
        "contexts",
        "classes_per_context",
        "image_size",
        "normalize",
        "iters",
        "batch_size",
        "lr",
    ),
    "dataset": ("name", "source"),
    "network": ("name", "hidden", "channels"),
}
_COMPARED_OF_REGULARIZER = ("name", "module", "floor_at_zero")
_COMPARED_OF_FISHER = ("labels", "examples")


@dataclass(frozen=True)
class StudyPlan:
    """One study.

    Attributes:
        config: the setting of a trial; the hyperparameters that are searched hold their default values.
        folder: where its files and its runs' folders go.
    """

    config: Config
    folder: Path

    @cached_property
    def method_file(self) -> MethodFile | None:
        """The file of a method that is one, as it is when the sweep begins: it is there to be edited meanwhile."""
        regularizer = self.config.regularizer
        joint = self.config.stream == "joint"  # trained without a regularizer
        return None if joint or regularizer.file is None else method_files.read(regularizer.file)

    @cached_property
    def space(self) -> Space:
        """What is searched, by hyperparameter."""
        return space.parse(self.config.regularizer.space)

    @cached_property
    def name(self) -> str:
        """Benchmark, method and eight characters of a hash of what makes results comparable; the same on every machine.

        The hash covers the protocol, the network, the data set (the content of arrays of one's own), the method (the
        content of a file of one's own and of the modules that belong to it), the hyperparameters that are not searched,
        the seeds and the validation data.
        """
        text = json.dumps(_comparable(self), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        return f"{self.config.benchmark.name}-{self.config.method}-{digest}"

    @property
    def default(self) -> Point:
        """The method's good values of the hyperparameters that are searched."""
        return {name: getattr(self.config.regularizer, name) for name in self.space}

    @property
    def n_trials(self) -> int:
        """How many finished trials the study has in the end: `search.n_trials`, or a finite space's size."""
        points = space.grid(self.space)
        wanted = self.config.search.n_trials
        return wanted if points is None else min(wanted, len(points))

    @property
    def seeds(self) -> list[int]:
        """The seeds of a trial."""
        return [self.config.seed + number for number in range(self.config.search.seeds)]

    @property
    def final_seeds(self) -> list[int]:
        """The fresh seeds that the best setting is trained with."""
        first = self.config.seed + FIRST_FINAL_SEED
        return [first + number for number in range(self.config.search.final_seeds)]

    @property
    def contexts(self) -> int:
        """How many contexts a run has."""
        return self.config.benchmark.contexts

    @property
    def validation_fraction(self) -> float:
        """The part of each context's training data that a trial is judged on."""
        return self.config.validation_fraction or HELD_OUT

    def trial_config(self, point: Point, seed: int) -> Config:
        """The setting of one run of a trial, with validation data held out."""
        return self._run_config(point, seed, self.validation_fraction)

    def final_config(self, point: Point, seed: int) -> Config:
        """The setting of one final run, on all training data."""
        return self._run_config(point, seed, 0.0)

    def _run_config(self, point: Point, seed: int, validation_fraction: float) -> Config:
        regularizer = with_values(self.config.regularizer, point)
        search = replace(self.config.search, storage=None)  # its URL may hold a password, and this is written down
        return replace(
            self.config, regularizer=regularizer, search=search, seed=seed, validation_fraction=validation_fraction
        )


def study_name(config: Config) -> str:
    """The name of the study that a setting belongs to; see `StudyPlan.name`.

    Args:
        config: the setting.

    Returns:
        A name that also serves as a folder's.
    """
    return StudyPlan(config, Path()).name


def _comparable(plan: StudyPlan) -> dict[str, Any]:
    config, values = plan.config, asdict(plan.config)
    made: dict[str, Any] = {group: _only(values[group], names) for group, names in _COMPARED.items()}
    stream = Target.of(STREAM, config.benchmark.stream)
    made["benchmark"]["kind"] = stream.described.removeprefix("clsweep.data.streams.")  # as it was called before
    if reads_channels_first(config.dataset):  # said or seen; came after studies had their names
        made["dataset"]["layout"] = CHANNELS_FIRST
    optimizer = config.optimizer_setting
    told = [optimizer.described, optimizer.schedule_described, optimizer.reset]
    if told != ["adam", "", False]:  # likewise
        made["optimizer"] = told
    method = [] if plan.method_file is None else [plan.method_file.digest(_ALGORITHM)]
    data = [_digest(file) for file in (config.dataset.train, config.dataset.test) if file is not None]
    return made | {
        "regularizer": {} if config.stream == "joint" else _method(values["regularizer"]),
        "stream": config.stream,
        "precision": config.precision,
        "files": method + data,
        "seeds": plan.seeds,
        "validation_fraction": plan.validation_fraction,
        "searched": {name: _kind(distribution) for name, distribution in plan.space.items()},
    }


def _method(regularizer: Mapping[str, Any]) -> dict[str, Any]:
    """What makes results of a method comparable, but for its file and what is searched."""
    fixed = [name for name in HYPERPARAMETERS if name not in regularizer["space"]]
    fisher = regularizer["fisher"]
    made = _only(regularizer, (*_COMPARED_OF_REGULARIZER, *fixed))
    return made | {"fisher": None if fisher is None else _only(fisher, _COMPARED_OF_FISHER)}


def _only(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _kind(distribution: BaseDistribution) -> Any:
    """What Optuna keeps fixed in a study: an interval may be moved, the choices may not change."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    scale = "log" if getattr(distribution, "log", False) else "linear"
    return f"{scale}, integers" if isinstance(distribution, IntDistribution) else scale


def _digest(file: str) -> str:
    path = Path(file)
    if not path.is_file():
        return ""  # loading it says what is wrong
    with path.open("rb") as content:
        return hashlib.file_digest(content, _ALGORITHM).hexdigest()


def searched(config: Config, used: tuple[str, ...], ranges: Mapping[str, str], fixed: set[str]) -> dict[str, str]:
    """The ranges that a study searches.

    Args:
        config: its setting.
        used: the hyperparameters that the method says it uses.
        ranges: those given on the command line, by hyperparameter.
        fixed: the hyperparameters that the command line gives one value.

    Returns:
        Ranges by hyperparameter; none for joint training.
    """
    if config.stream == "joint":
        return {}
    own = config.regularizer.space
    return {
        name: ranges.get(name, own[name])
        for name in HYPERPARAMETERS
        if name in own and name in used and name not in fixed
    }
