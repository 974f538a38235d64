"""What every network is given before it is trained, whoever wrote it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from clsweep.networks.outputs import Head, Selection, ends_in_head, only_head


class OwnParameters:
    """A network's `named_parameters` that doesn't keep the network alive, as the bound method would.

    The network holds it in `param_list`: a bound method there would close a cycle, and a network in a cycle stays in
    memory, with all that a method has put on it, until Python happens to look for cycles. A copy gets one of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name, as PyTorch has it."""
        return self._alive().named_parameters()

    def __reduce__(self) -> tuple[type[OwnParameters], tuple[nn.Module]]:
        return OwnParameters, (self._alive(),)  # copied or pickled with the network, it is the new one's

    def _alive(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise ReferenceError("the network of this param_list is gone: keep the network itself")
        return model


class Classifier(nn.Module):
    """Any network as a run and a method see it, once `equip` and the learner have put on it what is listed here.

    A type for annotations, which no network derives from. `model(x)` gives the logits of the active outputs.

    Attributes:
        head: the output layer of the networks here; those of others need not have one.
        param_list: zero-argument callables that yield `(name, parameter)`.
        reg_strength: the configured strength of the penalty; a method may overwrite it.
        gamma: the configured decay of carried importance.
        epsilon: the configured damping.

    They and the dicts `_custom_*` below are the regularizers' contract (see `clsweep.methods.contract`).
    """

    head: Head
    param_list: list[Callable[[], Iterator[tuple[str, nn.Parameter]]]]
    reg_strength: float
    gamma: float
    epsilon: float
    _custom_W: dict[str, Tensor]  # noqa: N815 - the contract's name
    _custom_p_old: dict[str, Tensor]
    _custom_importance: dict[str, Tensor]
    _custom_prev_params: dict[str, Tensor]


BATCH = "_custom_batch"  # what a file's method finds the step's batch under

# What a run and methods put on a network, which may have no attribute of its own by these names.
RESERVED = tuple(name for name in Classifier.__annotations__ if name not in ("head", "param_list"))


def equip(model: nn.Module, n_outputs: int, examples: Tensor | None = None) -> Classifier:
    """Give a network what a run needs of it, whoever wrote it.

    Args:
        model: a network that gives [B, n_outputs], or ends in a `Head`.
        n_outputs: the outputs over all contexts.
        examples: what it takes, [n, C, H, W]; None: a `Head` in it is known to be its output.

    Returns:
        The same network; all of its outputs are active. A `param_list` of its own stays.
    """
    made = cast("Classifier", model)
    if not hasattr(model, "param_list"):
        made.param_list = [OwnParameters(model)]
    if only_head(model) is None or not (examples is None or ends_in_head(model, examples)):
        model.register_forward_hook(Selection(n_outputs))
    return made


def layout_of(model: nn.Module) -> torch.memory_format:
    """The layout of inputs that a network computes fastest with: what its class says as `memory_format`."""
    layout = getattr(type(model), "memory_format", None)
    return layout if isinstance(layout, torch.memory_format) else torch.contiguous_format
