"""A saved network, built and measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from clsweep import defaults, networks, own, sources, tensor_files
from clsweep.config import ALL_LOGITS, EVERY_CONTEXT, Config, RegularizerConfig
from clsweep.data import contexts, datasets, identity
from clsweep.errors import InputError, named
from clsweep.methods.loading import load
from clsweep.networks import Classifier
from clsweep.paths import short
from clsweep.results.metrics import Cell
from clsweep.seeding import Seeds, derived_seed
from clsweep.targets import TARGET, Target
from clsweep.training.learner import Learner
from clsweep.training.loop import evaluate
from clsweep.training.saved.description import DESCRIPTION_FILE, MODEL_FILE, Description, file_after, targets_of

MOVED: Final = ("dataset.root", "dataset.train", "dataset.test")  # what may have moved since the run


@dataclass(frozen=True)
class Saved:
    """A network that a run has kept.

    Attributes:
        folder: the run's.
        description: what `model.json` says of it.
        learned: how many contexts had been learned.
        file: its `state_dict`.
    """

    folder: Path
    description: Description
    learned: int
    file: Path

    @classmethod
    def of(cls, folder: Path, after: int | None = None) -> Self:
        """The network in a run's folder.

        Args:
            folder: the run's, absolute.
            after: how many contexts had been learned; None: all.

        Raises:
            InputError: it isn't there.
        """
        description = Description.read(folder)
        n_contexts = len(description.active)
        learned = n_contexts if after is None else after
        if learned not in range(1, n_contexts + 1) or isinstance(learned, bool):
            expected = " or ".join(map(str, range(1, n_contexts + 1))) if n_contexts < 3 else f"1 to {n_contexts}"
            raise InputError(f"after={after}: {short(folder)} is a run of {n_contexts} contexts; expected {expected}.")
        file = folder / (MODEL_FILE if learned == n_contexts else file_after(learned, n_contexts))
        if not file.is_file():
            numbers = range(1, n_contexts + 1)
            there = [number for number in numbers if (folder / file_after(number, n_contexts)).is_file()]
            others = f"after={' or '.join(map(str, there))}, or " if there else ""
            wanted = "a finished run" if learned == n_contexts else f"a run made with save_model={EVERY_CONTEXT}"
            raise InputError(f"{short(file)}: isn't there; expected {others}{wanted}.")
        return cls(folder, description, learned, file)

    @cached_property
    def note(self) -> str | None:
        """What to know of the network, in a sentence."""
        if self.description.is_whole:
            return None
        return (
            f"{short(self.file)}: in the run the network had more than its parameters and buffers, such as a method's "
            "hooks, and gave other outputs than this one; accuracy.csv was measured with that."
        )

    def network(self, device: torch.device) -> Classifier:
        """The network, in eval mode.

        Args:
            device: where it goes.

        Raises:
            InputError: the file is damaged or doesn't fit, or the network's code isn't what was trained.
        """
        description = self.description
        state = tensor_files.read(self.file)
        network, _ = targets_of(description.setting)
        with self._trained_code(network):
            seed = derived_seed(Seeds.of_values(description.setting).init, "parameters")
            model = networks.build(description.setting["network"], description.input_shape, description.n_outputs, seed)
        self._fill(model, state)
        networks.activate(model, range(*description.active[self.learned - 1]))
        return model.to(device).eval()

    def measured(self, device: torch.device, moved: Mapping[str, Any]) -> list[Cell]:
        """Its accuracies, as the run measured them.

        Args:
            device: where it is computed.
            moved: values of keys of `MOVED`, where the data have moved since the run.

        Raises:
            InputError: the data aren't there or aren't the run's; see `network`, too.
        """
        description = self.description
        values = {**description.setting, "dataset": dict(description.setting["dataset"])}
        for key, value in moved.items():
            values["dataset"][key.partition(".")[2]] = value
        with self._trained_code(*targets_of(values)):
            config = defaults.completed(values)
            self._check_data(config)
            stream = contexts.build(datasets.load(config.dataset), config, device)
        if (stream.input_shape, stream.n_outputs) != (description.input_shape, description.n_outputs):
            raise InputError(
                f"dataset={config.dataset.name}: gives {stream.n_outputs} outputs for examples of "
                f"{list(stream.input_shape)}; expected the {description.n_outputs} for {list(description.input_shape)} "
                f"that {short(self.file)} has."
            )
        nothing = load(RegularizerConfig("none", "clsweep.methods.none.NoPenalty")).method
        learner = Learner(
            self.network(device),
            nothing,
            config.optimizer_setting,
            config.precision,
            shows_all=config.contract.logits == ALL_LOGITS,
        )
        return evaluate(learner, stream, self.learned)

    def _check_data(self, config: Config) -> None:
        found, expected = identity.digest(config.dataset), self.description.dataset_digest
        if found and found != expected:
            raise InputError(
                f"dataset={config.dataset.name}: isn't what the network was trained on (its digest is {found}, and was "
                f"{expected}); expected the files of then, or {', '.join(MOVED)} with where they are."
            )

    @contextmanager
    def _trained_code(self, *targets: Target) -> Iterator[None]:
        """Let targets be the code that was trained: what Python finds by their names now, else the run's copies.

        Raises:
            InputError: neither is.
        """
        if self._changed(targets) is None:
            yield
            return
        with own.found_first_in(self.folder):
            changed = self._changed(targets)
            if changed is not None:
                raise InputError(
                    f"{changed.key}.{TARGET}={changed.path}: neither what is found by that name nor the copy "
                    f"in {short(self.folder)} is the code that was trained; expected the copy as the run left it."
                )
            yield

    def _changed(self, targets: tuple[Target, ...]) -> Target | None:
        """The first target whose code isn't what the run had."""
        digests = self.description.code_digests
        return next((one for one in targets if sources.digest([one]) != digests.get(one.key)), None)

    def _fill(self, model: nn.Module, state: object) -> None:
        """Put a state into the network."""
        expected = model.state_dict()
        problem = _misfit(expected, state)
        if problem is None:
            assert isinstance(state, dict)
            try:
                model.load_state_dict(state)
                return
            except Exception as error:  # the network's own code may say what it likes
                problem = named(error)
        raise InputError(f"{short(self.file)}: doesn't fit the network of {DESCRIPTION_FILE}: {problem}.")


def _misfit(expected: Mapping[str, Any], state: object) -> str | None:
    if not isinstance(state, dict):
        return f"it holds {type(state).__name__}; expected a state_dict"
    for name in (*expected, *state):
        if name not in state:
            return f"it has no {name}"
        if name not in expected:
            return f"it has {name}, which the network hasn't"
        kinds = [
            f"{tuple(one.shape)} {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
            for one in (state[name], expected[name])
        ]
        if kinds[0] != kinds[1]:
            return f"{name} is {kinds[0]}; expected {kinds[1]}"
    return None
