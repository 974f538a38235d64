"""Writing a run's network while it is trained."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from clsweep import process, tensor_files
from clsweep.config import EVERY_CONTEXT, Config
from clsweep.data.contexts import Stream
from clsweep.errors import InputError, named
from clsweep.networks import Classifier, outputs_of
from clsweep.paths import short
from clsweep.training.saved.description import DESCRIPTION_FILE, MODEL_FILE, Description, file_after
from clsweep.training.saved.reading import Saved

_EXAMPLES: Final = 16  # that a network which is read again is tried on
_ROUNDING: Final = 1e-4


def check(config: Config, folder: Path | None) -> None:
    """Check that there is a place for the networks that a setting asks for.

    Raises:
        InputError: there is none.
    """
    if config.save_model is False:
        return
    if folder is None:
        raise InputError(f"{_typed(config)}: there is no folder to keep the network in; expected folder=... as well.")
    if (folder / MODEL_FILE).exists() and not (folder / DESCRIPTION_FILE).exists():
        raise InputError(
            f"{_typed(config)}: {short(folder / MODEL_FILE)} is there already and no run's; expected another folder."
        )


def are_there(config: Config, folder: Path) -> bool:
    """Whether a finished run has left the networks that a setting asks for.

    Args:
        config: the setting.
        folder: the run's.
    """
    if config.save_model is False:
        return True
    count = config.contexts_learned
    kept = range(1, count + 1) if config.save_model == EVERY_CONTEXT and config.stream != "joint" else ()
    return all((folder / name).is_file() for name in (MODEL_FILE, *(file_after(number, count) for number in kept)))


def refuse_without(config: Config, folder: Path) -> None:
    """Refuse a finished run that hasn't left the networks that a setting asks for.

    Raises:
        InputError: it hasn't.
    """
    if not are_there(config, folder):
        raise InputError(
            f"{_typed(config)}: the run in {short(folder)} is finished without it; expected another folder, or "
            "resume=false to start over."
        )


def remove(folder: Path) -> None:
    """Remove the networks that a run has kept."""
    if (folder / DESCRIPTION_FILE).exists():  # else a model.pt there is no run's
        for path in (folder / MODEL_FILE, folder / DESCRIPTION_FILE, *folder.glob("model_after_*.pt")):
            path.unlink(missing_ok=True)


def _typed(config: Config) -> str:
    return f"save_model={EVERY_CONTEXT if config.save_model == EVERY_CONTEXT else 'true'}"


class Keeper:
    """Keeps a run's network, as its setting says.

    Args:
        config: the run's setting.
        stream: its contexts.
        model: its network, before a method has seen it.
        folder: where the files go; None: the setting asks for none.

    Raises:
        InputError: the network's state can't be kept so that it is read without unpickling.
    """

    def __init__(self, config: Config, stream: Stream, model: Classifier, folder: Path | None) -> None:
        self._model = model
        self._outputs = outputs_of(model)  # now: a method may put a second network on it
        self._stream = stream
        self._folder = folder
        self._wanted = config.save_model
        if self._wanted is False:
            return
        self._description = Description.of(config, stream)
        state = model.state_dict()
        self._names = list(state)
        _check_plain(state, _typed(config))

    def keep(self, learned: int) -> None:
        """Write the network after a context, where those of every context are asked for.

        Args:
            learned: how many contexts have been learned and measured.

        Raises:
            OSError: it can't be written.
        """
        if self._wanted == EVERY_CONTEXT and learned > 0:
            self._write(file_after(learned, len(self._stream.contexts)))

    def finish(self) -> None:
        """Write the network at the end of the run, where it is asked for, and try it.

        Its active outputs are then those of the context learned last, also where the run had nothing left to learn.

        Raises:
            OSError: it can't be written.
        """
        if self._wanted is not False:
            self._outputs.active = range(*self._description.active[-1])
            self._try(self._write(MODEL_FILE))

    def _write(self, name: str) -> Path:
        assert self._folder is not None
        self._description.write(self._folder)
        tensor_files.write(self._state(), self._folder / name)
        return self._folder / name

    def _state(self) -> dict[str, Any]:
        """The network's own state, on the CPU; what a method has added has other names."""
        state = self._model.state_dict()
        return {name: _alone(state[name]) for name in self._names}

    def _try(self, file: Path) -> None:
        """Read the network again, and say where it isn't what was trained."""
        try:
            again = Saved.of(file.parent).network(next(self._model.parameters()).device)
            if self._is_same(again):
                return
            problem = (
                "the network gives other outputs than in the run, as it is kept without what lies outside its "
                "parameters and buffers, such as a method's hooks; accuracy.csv was measured with that"
            )
        except Exception as error:  # of the network's own code, too: the run is finished whatever happens here
            problem = f"the network can't be tried again ({named(error)})"
        replace(self._description, is_whole=False).write(file.parent)
        process.say("clsweep", f"{short(file)}: {problem}.")

    def _is_same(self, again: nn.Module) -> bool:
        """Whether another network gives what the run's does, for a few examples."""
        part = self._stream.contexts[-1].test
        inputs, _ = part.take(torch.arange(min(len(part), _EXAMPLES), device=part.rows.device))
        training = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            with torch.no_grad():
                was, now = self._model(inputs), again(inputs)
        finally:
            for module, mode in training:
                module.training = mode
        return was.shape == now.shape and bool((was - now).abs().max() <= _ROUNDING * was.abs().max())


def _alone(value: Any) -> Any:
    """A tensor on the CPU, without what else is in its memory: that would be written, too."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _check_plain(state: Mapping[str, Any], typed: str) -> None:
    """Check that what is no plain tensor in a state is read without unpickling."""
    for name, value in state.items():
        if type(value) is Tensor:
            continue
        written = io.BytesIO()
        try:
            torch.save(value, written)
            written.seek(0)
            torch.load(written, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{typed}: the network's state has {name}, which is {type(value).__name__} and can't be read without "
                "running code; expected tensors and plain containers."
            ) from error
