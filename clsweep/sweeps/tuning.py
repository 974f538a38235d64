"""What hyperparameters are chosen on: `search.tune_on`.

Final runs are the same whatever is chosen here: the whole stream, all training data, fresh seeds. Trials learn:

- The whole stream, judged on validation data at its end. This is usual, and looks at contexts that the learner hasn't
  seen (Lee et al., "Hyperparameter Selection in Continual Learning", 2024, arXiv 2404.06466).
- The first contexts alone, which a learner may see before it begins (Chaudhry et al., "Efficient Lifelong Learning with
  A-GEM", ICLR 2019: three contexts, which are left out of the evaluation there).
- The same benchmark made of another data set (Cha & Cho, "Hyperparameters in Continual Learning: A Reality Check",
  2024, arXiv 2403.09066).
- Nothing: the default values that the method declares, with no look at the benchmark.

What was tuned for the benchmark (`conf/tuned`: values, and ranges around them) comes from its whole stream. So it is
where a search on the whole stream begins, and no other: those begin at the declared values, in the declared ranges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Final

import torch

from clsweep.config import (
    NO_SEARCH,
    ON_FIRST_CONTEXTS,
    ON_OTHER_DATA,
    ON_STREAM,
    PRESETS,
    SEARCH_DATA,
    Config,
    DatasetConfig,
    RegularizerConfig,
    SearchConfig,
    classes_needed,
    key_of,
)
from clsweep.data import identity
from clsweep.data.context_cache import ContextCache
from clsweep.errors import InputError

_USUAL_COUNT: Final = 3  # of Chaudhry et al.
_KEY: Final = "search.tune_on"
# `dataset` where a sentence names the key; a path that has it follows an equals sign or a slash.
_OF_DATASET: Final = re.compile(
    rf"(?<![^\s(])dataset(?==|\.(?:{'|'.join(one.name for one in fields(DatasetConfig))})\b)"
)
_NEEDED_BY: Final = {"first_contexts": ON_FIRST_CONTEXTS, "data": ON_OTHER_DATA}

_OF_TRIALS: Final = {
    f"search.{name}"
    for name in ("n_trials", "timeout", "seeds", "sampler", "sampler_options", "pruner", "pruner_options")
}


class Way:
    """What trials are judged on; this one is the validation data of the whole stream.

    Attributes:
        searches: whether there are trials at all.
    """

    searches: ClassVar[bool] = True

    @property
    def shown(self) -> str:
        """How results and the terminal show it: the value of `search.tune_on`, and what that needs."""
        return ON_STREAM

    @property
    def word(self) -> str:
        """How it is called in a study's name, which is a folder's, too; empty for the usual one."""
        return ""

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it another study than the usual one; empty for that."""
        return {}

    def search(self, search: SearchConfig) -> SearchConfig:
        """How a sweep searches, without what another way needs."""
        return replace(search, first_contexts=None, data=None)

    def trial(self, config: Config) -> Config:
        """The setting of a trial's run.

        Args:
            config: that of the benchmark, with the trial's values.
        """
        return config

    def regularizer(self, regularizer: RegularizerConfig) -> RegularizerConfig:
        """The method that the study begins with, with what may be known of the benchmark."""
        return regularizer

    def dataset_digest(self, own: str | None) -> str | None:
        """The digest of the data that trials learn; `own` is that of the benchmark's data."""
        return own

    def check(self, config: Config) -> None:
        """Check what can be checked before data is loaded.

        Raises:
            InputError: the benchmark can't be tuned this way.
        """

    def check_data(self, config: Config, streams: ContextCache, device: torch.device) -> None:
        """Check that what trials learn fits the benchmark.

        Args:
            config: of a final run.
            streams: makes the contexts.
            device: where they go.

        Raises:
            InputError: it doesn't, or one of the two isn't there.
        """


class _Ignorant(Way):
    """A way that knows nothing of the benchmark's whole stream."""

    def regularizer(self, regularizer: RegularizerConfig) -> RegularizerConfig:
        return replace(regularizer, tuned={})


@dataclass(frozen=True)
class FirstContexts(_Ignorant):
    """The first contexts of the benchmark's own stream.

    Attributes:
        count: how many.
    """

    count: int

    @property
    def shown(self) -> str:
        return f"{ON_FIRST_CONTEXTS} {self.count}"

    @property
    def word(self) -> str:
        return f"tuned_on_first_{self.count}_contexts"

    @property
    def identity(self) -> dict[str, Any]:
        return {_KEY: ON_FIRST_CONTEXTS, "count": self.count}

    def search(self, search: SearchConfig) -> SearchConfig:
        return replace(search, first_contexts=self.count, data=None)

    def trial(self, config: Config) -> Config:
        return replace(config, first_contexts=self.count)

    def check(self, config: Config) -> None:
        most = config.contexts_learned - 1
        if most < 2:
            raise InputError(
                f"{_KEY}={ON_FIRST_CONTEXTS}: needs a stream of three contexts or more, and this one has "
                f"{config.contexts_learned}; expected another {_KEY}."
            )
        if self.count > most:
            raise InputError(
                f"search.first_contexts={self.count}: isn't a part of the {config.contexts_learned} contexts of "
                f"benchmark={config.benchmark.name}; expected {'2' if most == 2 else f'2 to {most}'}."
            )


@dataclass(frozen=True)
class OtherData(_Ignorant):
    """The benchmark made of another data set.

    Attributes:
        data: which.
    """

    data: DatasetConfig

    @cached_property
    def _digest(self) -> str:
        """Of its files, as they are when the sweep begins."""
        return identity.digest(self.data)

    @property
    def shown(self) -> str:
        return " ".join(one for one in (ON_OTHER_DATA, self.data.name, self._digest) if one)

    @property
    def word(self) -> str:
        return f"tuned_on_{self.data.name}"

    @property
    def identity(self) -> dict[str, Any]:
        return {_KEY: ON_OTHER_DATA, "data": self.data.name, "digest": self._digest}

    def search(self, search: SearchConfig) -> SearchConfig:
        return replace(search, first_contexts=None, data=self.data)

    def trial(self, config: Config) -> Config:
        return replace(config, dataset=self.data)

    def dataset_digest(self, own: str | None) -> str | None:
        return self._digest

    def check(self, config: Config) -> None:
        own, digest = config.dataset, identity.digest(config.dataset)
        if digest == self._digest and (digest or own.name == self.data.name):
            raise InputError(
                f"{SEARCH_DATA}={self.data.name}: is the benchmark's own data set; expected another one, or "
                f"{_KEY}={ON_STREAM}."
            )
        if self.data.n_classes is not None:
            self._check_classes(config, self.data.n_classes)

    def _check_classes(self, config: Config, n_classes: int) -> None:
        needed = classes_needed(config.benchmark)
        if needed is not None and not needed.holds(n_classes):
            raise InputError(f"{SEARCH_DATA}={self.data.name}: has {n_classes} classes; expected {needed.expected}.")

    def check_data(self, config: Config, streams: ContextCache, device: torch.device) -> None:
        try:
            self._check_classes(config, streams.images(self.data).n_classes)
            other = streams(self.trial(config), device).input_shape
        except InputError as error:
            raise InputError(_of_search_data(str(error), self.data.name)) from error
        own = streams(config, device).input_shape
        if other != own:
            shapes = ["x".join(map(str, shape)) for shape in (other, own)]
            raise InputError(
                f"{SEARCH_DATA}={self.data.name}: its images are {shapes[0]} as a network gets them, and those of "
                f"dataset={config.dataset.name} are {shapes[1]}; expected images of the same shape."
            )


def _of_search_data(sentence: str, name: str) -> str:
    """A sentence on the benchmark's data set, `dataset`, as one on `search.data`, whose values are typed in one."""
    told = _OF_DATASET.sub(SEARCH_DATA, sentence)
    if f"{SEARCH_DATA}." not in told:
        return told
    return f"{told.removesuffix('.')} (its values are typed in one: {SEARCH_DATA}='{{name: {name}, KEY: VALUE}}')."


class Defaults(_Ignorant):
    """No search: the values that the method declares, and what is typed."""

    searches = False

    @property
    def shown(self) -> str:
        return NO_SEARCH

    @property
    def word(self) -> str:
        return "default_values"

    @property
    def identity(self) -> dict[str, Any]:
        return {_KEY: NO_SEARCH}

    def check(self, config: Config) -> None:
        preset = config.regularizer.preset
        if preset is not None and config.stream != "joint":
            raise InputError(
                f"{PRESETS}={preset.name}: gives {config.regularizer.name} values that are not its defaults; expected "
                f"another {_KEY} than {NO_SEARCH}, or no {PRESETS}."
            )
        if config.search.final_seeds == 0:
            raise InputError(
                f"search.final_seeds=0: leaves nothing to be done, since {_KEY}={NO_SEARCH} makes final runs alone; "
                "expected 1 or more."
            )


def _other_data(search: SearchConfig) -> Way:
    if search.data is None:
        raise InputError(
            f"{_KEY}={ON_OTHER_DATA}: needs a data set; expected {SEARCH_DATA}=NAME as well, or values, as in "
            f"{SEARCH_DATA}='{{name: arrays, train: A.npz, test: B.npz}}'."
        )
    return OtherData(search.data)


_WAYS: Final[dict[str, Callable[[SearchConfig], Way]]] = {
    ON_STREAM: lambda search: Way(),
    ON_FIRST_CONTEXTS: lambda search: FirstContexts(search.first_contexts or _USUAL_COUNT),
    ON_OTHER_DATA: _other_data,
    NO_SEARCH: lambda search: Defaults(),
}


def way_of(search: SearchConfig) -> Way:
    """What a setting's hyperparameters are chosen on.

    Raises:
        InputError: it needs a data set, and there is none.
    """
    return _WAYS[search.tune_on](search)


def refuse_unused(asked: Sequence[SearchConfig], ranges: Mapping[str, str], typed: Sequence[str]) -> None:
    """Refuse what none of a command's studies is tuned on, or searches.

    Args:
        asked: how each study was asked to search.
        ranges: what was typed to be searched, by name.
        typed: the overrides.

    Raises:
        InputError: no study has a use for `search.first_contexts` or `search.data`, or it is said how to search where
            nothing is searched.
    """
    for name, way in _NEEDED_BY.items():
        given = next((value for one in asked if (value := getattr(one, name)) is not None), None)
        if given is not None and all(one.tune_on != way for one in asked):
            shown = given.name if isinstance(given, DatasetConfig) else given
            raise InputError(f"search.{name}={shown}: is for {_KEY}={way}; expected that as well, or no search.{name}.")
    if any(one.tune_on != NO_SEARCH for one in asked):
        return
    for one in typed:
        if one.partition("=")[0] in _OF_TRIALS:
            raise InputError(
                f"{one}: is for trials, but {_KEY}={NO_SEARCH} makes final runs alone; expected it left out, or "
                f"another {_KEY}."
            )
    if ranges:
        name, text = next(iter(ranges.items()))
        raise InputError(
            f"{key_of(name)}={text}: would be searched, but {_KEY}={NO_SEARCH} searches nothing; expected one value, "
            f"or another {_KEY}."
        )
