"""One study: a method on a benchmark, what is searched, and what makes its trials comparable."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from clsweep import defaults, naming, space
from clsweep.config import Config, value_of, with_values
from clsweep.hyperparameters import DEFAULT, TUNED
from clsweep.methods import files as method_files
from clsweep.methods.files import MethodFile
from clsweep.methods.loading import Loaded, code_digest, tuned_for
from clsweep.protocol import Protocol
from clsweep.space import Point, Space, Value
from clsweep.sweeps import tuning
from clsweep.sweeps.tuning import Way

HELD_OUT = 0.1
FIRST_FINAL_SEED = 1_000
_MOST_WORDS = 4
_OF_METHOD = "regularizer."


@dataclass(frozen=True)
class StudyPlan:
    """One study.

    Attributes:
        config: the setting of a trial; what is searched holds its default values.
        folder: where its files and its runs' folders go.
        shared: the folder of what the sweep's studies share; None: nothing.
    """

    config: Config
    folder: Path
    shared: Path | None = None

    @property
    def first_contexts(self) -> Path | None:
        """Where runs share their first contexts; None where they don't, or where each trial would have another one."""
        of_training = [one for name, one in self.space.items() if "." in name and not name.startswith(_OF_METHOD)]
        few = all(isinstance(one, CategoricalDistribution) for one in of_training)
        return self.shared if self.config.search.share_first_context and few else None

    @cached_property
    def method_file(self) -> MethodFile | None:
        """The file of a method that is one, as it is when the sweep begins: it may be edited meanwhile."""
        regularizer = self.config.regularizer
        joint = self.config.stream == "joint"  # trained without a regularizer
        return None if joint or regularizer.file is None else method_files.read(regularizer.file)

    @cached_property
    def space(self) -> Space:
        """What is searched, by name."""
        return space.parse(self.ranges)

    @property
    def ranges(self) -> dict[str, str]:
        """The same in Hydra's syntax."""
        own = self.config.search.space
        return self.config.regularizer.space if own is None else own

    @property
    def searched(self) -> str:
        """What is searched, as it is printed; empty for nothing."""
        return ", ".join(f"{name} {text}" for name, text in self.ranges.items()) if self.way.searches else ""

    @cached_property
    def name(self) -> str:
        """Benchmark, method, what differs from the usual in a few words, and eight characters; the same everywhere.

        The characters are a digest of what makes trials comparable: the protocol, the method (the content of a file of
        one's own and of the modules that belong to it), the hyperparameters that are not searched, the seeds, and what
        is tuned on, where that isn't the whole stream.
        """
        return self._named(self.way)

    @cached_property
    def name_on_stream(self) -> str:
        """The name of the study that differs in nothing but being tuned on the whole stream.

        All that differ in nothing but what they are tuned on have the same, and share their final runs.
        """
        return self._named(Way())

    @property
    def name_of_finals(self) -> str:
        """The name of the study that the final runs are in: one for all that differ in what they are tuned on."""
        return f"{self.name_on_stream}-final"

    def _named(self, way: Way) -> str:
        text = json.dumps(_comparable(self) | way.identity, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        words = [*([way.word] if way.word else []), *_words(self)[:_MOST_WORDS]]
        parts = [self.config.benchmark.name, self.config.shown_name, *words, digest]
        return "-".join(re.sub(r"[^A-Za-z0-9_.+-]+", "_", part) for part in parts)

    @cached_property
    def way(self) -> Way:
        """What its hyperparameters are chosen on."""
        return tuning.way_of(self.config.search)

    @cached_property
    def protocol(self) -> Protocol:
        """What all trials on the whole stream would have in common.

        What is searched has a value that doesn't depend on the setting's own.
        """
        return Protocol.of(self.standing_for_all())

    @cached_property
    def searched_fields(self) -> set[str]:
        """The fields of the protocol that trials differ in."""
        return set(self.protocol.differences(Protocol.of(self.standing_for_all(2))))

    def standing_for_all(self, number: int = 1) -> Config:
        """The setting of a trial with a fixed value of each searched key: a choice by its place, else the number.

        A method's hyperparameters stay as they are, since they are in no protocol.
        """
        point = {
            name: one.choices[min(number, len(one.choices)) - 1] if isinstance(one, CategoricalDistribution) else number
            for name, one in self.space.items()
            if "." in name
        }
        config = self.with_point(point)  # type: ignore[arg-type]
        return replace(config, validation_fraction=self.validation_fraction)

    @property
    def default(self) -> Point:
        """The setting's own values of what is searched; a method's hyperparameters have its defaults, tuned or not."""
        return {name: space.searched_value(one, value_of(self.config, name)) for name, one in self.space.items()}

    @property
    def default_is_searched(self) -> bool:
        """Whether the default values lie in what is searched: others are not tried."""
        return space.contains(self.space, self.default)

    @property
    def first_points(self) -> list[Point]:
        """What is tried before the sampler proposes anything: the default values, and all of a small grid."""
        if not self.way.searches:
            return []
        points = space.grid(self.space)
        whole = [] if points is None or len(points) > self.n_trials else list(points)
        return [*([self.default] if self.default_is_searched else []), *whole]

    @property
    def default_origin(self) -> str:
        """Where the default values come from: `TUNED` where any of the method's was tuned for the benchmark."""
        regularizer = self.config.regularizer
        tuned = tuned_for(regularizer, self.method_file)
        shared = tuned.keys() & regularizer.values.keys()
        return TUNED if any(tuned[name] == regularizer.values[name] for name in shared) else DEFAULT

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The values of the method's hyperparameters, but for the options of a group."""
        return {name: value for name, value in self.config.regularizer.values.items() if "." not in name}

    @property
    def n_trials(self) -> int:
        """How many finished trials the study has in the end: `search.n_trials`, or a finite space's size."""
        if not self.way.searches:
            return 0
        points = space.grid(self.space)
        wanted = self.config.search.n_trials
        return wanted if points is None else min(wanted, len(points))

    @property
    def seeds(self) -> list[int]:
        return [self.config.seed + number for number in range(self.config.search.seeds)]

    @property
    def final_seeds(self) -> list[int]:
        """The fresh seeds that the best setting is trained with."""
        first = self.config.seed + FIRST_FINAL_SEED
        return [first + number for number in range(self.config.search.final_seeds)]

    @property
    def most_final_runs(self) -> int:
        """How many final runs there are if the best values aren't the default ones."""
        return len(self.final_seeds) * (2 if self.space and self.way.searches else 1)

    @property
    def contexts(self) -> int:
        """How many contexts a trial's run learns."""
        return self.way.trial(self.config).contexts_learned

    @property
    def steps(self) -> int:
        """How often a trial reports: after each context of each seed."""
        return len(self.seeds) * self.contexts

    @property
    def validation_fraction(self) -> float:
        """The part of each context's training data that a trial is judged on."""
        return self.config.validation_fraction or HELD_OUT

    def trial_config(self, point: Point, seed: int) -> Config:
        """The setting of one run of a trial, with validation data held out."""
        return self.way.trial(self._run_config(point, seed, self.validation_fraction))

    def final_config(self, point: Point, seed: int) -> Config:
        """The setting of one final run, on all training data."""
        return self._run_config(point, seed, 0.0)

    def trial_protocol(self, point: Point) -> str:
        """The digest of the protocol of a trial's runs; found once for all trials that differ in their method alone."""
        of_training = {name: one for name, one in point.items() if "." in name and not name.startswith(_OF_METHOD)}
        found = frozenset(of_training.items())
        if found not in self._trial_protocols:
            config, own = self.trial_config(point, self.seeds[0]), self.protocol.dataset_digest
            self._trial_protocols[found] = Protocol.of(config, self.way.dataset_digest(own)).digest
        return self._trial_protocols[found]

    @cached_property
    def _trial_protocols(self) -> dict[frozenset[tuple[str, Value]], str]:
        return {}

    @property
    def final_protocol(self) -> str:
        """The digest of the protocol of final runs, whatever the search chooses; see `searched_fields`."""
        return replace(self.protocol, validation_fraction=0.0).digest_where_searched(self.searched_fields)

    def _run_config(self, point: Point, seed: int, validation_fraction: float) -> Config:
        config = self.with_point(point)
        search = replace(config.search, storage=None)  # its URL may hold a password, and this is written down
        return replace(config, search=search, seed=seed, validation_fraction=validation_fraction)

    def with_point(self, point: Point) -> Config:
        """The setting with the values of a point."""
        return with_values(self.config, {name: space.value(one) for name, one in point.items()})


def study_name(config: Config) -> str:
    """The name of the study that a setting belongs to; see `StudyPlan.name`.

    Args:
        config: the setting.

    Returns:
        A name that also serves as a folder's.
    """
    return StudyPlan(config, Path()).name


def _comparable(plan: StudyPlan) -> dict[str, Any]:
    return {
        "protocol": plan.protocol.digest,
        "method": _method(plan),
        "seeds": plan.seeds,
        "searched": {name: _kind(distribution) for name, distribution in plan.space.items()},
    }


def _method(plan: StudyPlan) -> dict[str, Any]:
    """What makes results of a method comparable, but for what is searched: named one by one, as in `Protocol`."""
    regularizer = plan.standing_for_all().regularizer
    if plan.config.stream == "joint":
        return {"name": plan.config.method}
    return {
        "name": regularizer.name,
        "target": regularizer._target_,
        "code": code_digest(regularizer),
        "file": None if plan.method_file is None else plan.method_file.digest("blake2b"),
        "fixed": {name: value for name, value in regularizer.values.items() if name not in plan.space},
    }


def _words(plan: StudyPlan) -> list[str]:
    """What tells a study from the usual one of its benchmark and method, in short words."""
    config = plan.config
    usual = replace(defaults.protocol(config), validation_fraction=HELD_OUT)
    fixed = replace(plan.protocol, **{name: getattr(usual, name) for name in plan.searched_fields})
    words = naming.words(fixed, usual, config.benchmark.iters_by_budget)
    if config.seed:
        words.append(f"seed{config.seed}")
    if len(plan.seeds) > 1:
        words.append(f"seeds{len(plan.seeds)}")
    return words


def _kind(distribution: BaseDistribution) -> Any:
    """What Optuna keeps fixed in a study: an interval may be moved, the choices may not change."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    scale = "log" if getattr(distribution, "log", False) else "linear"
    return f"{scale}, integers" if isinstance(distribution, IntDistribution) else scale


def searched(config: Config, method: Loaded, ranges: Mapping[str, str], fixed: set[str]) -> dict[str, str]:
    """The ranges that a study searches.

    Args:
        config: its setting.
        method: its method.
        ranges: those given on the command line, by name.
        fixed: the hyperparameters that the command line gives one value.

    Returns:
        Ranges by name; for joint training without those of a method.

    Raises:
        InputError: a range reaches beyond what the hyperparameter may be.
    """
    others = {name: text for name, text in ranges.items() if "." in name}
    if config.stream == "joint":
        return {name: text for name, text in others.items() if not name.startswith(_OF_METHOD)}
    both = method.spaces | {name: text for name, text in ranges.items() if name in method.declared}
    chosen = {name: text for name, text in both.items() if name in ranges or name not in fixed}
    space.check(chosen, method.declared)
    return chosen | {
        name: text
        for name, text in others.items()
        if not name.startswith(_OF_METHOD) or name.removeprefix(_OF_METHOD) in method.declared
    }
