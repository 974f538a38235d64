"""A network of one's own is tried on two examples, so that its mistakes show before it is trained."""

from __future__ import annotations

import inspect
import sys
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from clsweep.errors import InputError, kind_of, named, place, with_article
from clsweep.networks.equipment import RESERVED
from clsweep.targets import TARGET, Target

# How torch.compile marks a function that it has made of another one; `torch.compiler.disable` leaves both marks.
_COMPILED, _DISABLED = "_torchdynamo_orig_callable", "_torchdynamo_disable"


def check(target: Target, model: nn.Module, input_shape: tuple[int, int, int], n_outputs: int, batch_size: int) -> None:
    """Check that a network can be trained.

    Args:
        target: whose network it is.
        model: the network as it is made, on its device, in training mode.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        batch_size: the examples of a step.

    Raises:
        InputError: it can't.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise _refused(target, "has no parameter that is trained; expected at least one")
    for name in RESERVED:
        if hasattr(model, name):
            raise _refused(
                target, f"has {with_article(name)} of its own, where methods look for theirs; expected another name"
            )
    listed = getattr(model, "param_list", [])
    if not isinstance(listed, list) or not all(map(callable, listed)):
        raise _refused(
            target,
            "has a param_list of its own that is no list of functions; expected [self.named_parameters], or none",
        )
    _check_real(target, model)
    before = dict(model.named_parameters())
    inputs = torch.rand(2, *input_shape, device=parameters[0].device)
    logits = given(target, model, inputs[: min(2, batch_size)])
    _check_logits(target, logits, (min(2, batch_size), n_outputs))
    if not logits.requires_grad:
        raise _refused(target, "gives logits that depend on none of its parameters; expected some that can be trained")
    _check_gradients(target, model, logits)
    model.eval()
    _check_logits(target, given(target, model, inputs), (2, n_outputs))
    _check_made_before(target, model, before)


def given(target: Target, model: nn.Module, inputs: Tensor) -> Any:
    """What a network gives for some examples [n, C, H, W].

    Raises:
        InputError: it raised.
    """
    try:
        return model(inputs)
    except Exception as error:
        raise _refused(
            target,
            f"raised {_told(error, model)}, given examples of shape {tuple(inputs.shape)}; expected a "
            f"network of [B, {', '.join(map(str, inputs.shape[1:]))}]{_given_by_name(target, 'input_shape')}",
        ) from error


def refuse_opaque(target: Target, model: nn.Module) -> None:
    """Refuse what methods can't look into: TorchScript takes no hooks, and compiled code passes over later ones.

    Raises:
        InputError: a part of the network, or the whole, is such a module.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            kind, by = "a TorchScript module", "torch.jit"
        elif _is_compiled(module):
            kind, by = "a compiled module", "torch.compile"
        else:
            continue
        is_kind = f"{name} is {kind}" if name else f"makes {kind}"
        raise _refused(target, f"{is_kind}, which methods can't look into; expected it as it is without {by}")


def _is_compiled(module: nn.Module) -> bool:
    """Whether it is compiled, or one of its methods is; a function that is no method may be."""
    of_class = [one for kind in type(module).__mro__ for one in vars(kind).values()]
    own = [
        one for name, one in vars(module).items() if name == "forward" or inspect.ismethod(_marks(one).get(_COMPILED))
    ]
    return any(_COMPILED in _marks(one) and _DISABLED not in _marks(one) for one in of_class + own)


def _marks(one: object) -> dict[str, Any]:
    return vars(one) if isinstance(one, FunctionType) else {}


def _told(error: Exception, model: nn.Module) -> str:
    file = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    return f"{named(error)}{place(error, file)}"


def _check_real(target: Target, model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if p.requires_grad and p.is_complex():
            raise _refused(target, f"has a complex parameter {name}; expected real ones (torch.view_as_real)")


def _check_made_before(target: Target, model: nn.Module, before: dict[str, nn.Parameter]) -> None:
    """Check that the first examples have made no parameter: the optimizer has been given its own before."""
    for name, p in model.named_parameters():
        if p is not before.get(name):
            raise _refused(
                target,
                f"makes {name} when it is called, which would never be trained; expected it in `__init__`, or a layer "
                "that waits for its first examples, such as nn.LazyLinear",
            )


def _check_gradients(target: Target, model: nn.Module, logits: Tensor) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        gradients = torch.autograd.grad(logits.sum(), list(trained.values()), allow_unused=True)
    except Exception as error:
        raise _refused(
            target, f"gives logits whose gradient raised {_told(error, model)}; expected some that can be trained"
        ) from error
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is not None and gradient.layout != torch.strided:
            raise _refused(target, f"gives {name} a sparse gradient; expected sparse=False")


def _check_logits(target: Target, logits: object, expected: tuple[int, int]) -> None:
    what = f"expected a tensor {list(expected)} of logits{_given_by_name(target, 'n_outputs')}"
    if not isinstance(logits, Tensor):
        raise _refused(target, f"gives {kind_of(logits)}; {what}")
    if logits.shape != expected:
        raise _refused(target, f"gives {list(logits.shape)} for {expected[0]} examples; {what}")
    if not logits.is_floating_point():
        raise _refused(target, f"gives {logits.dtype}; {what}")
    if logits.isnan().any():
        raise _refused(target, "gives logits that are NaN for examples of numbers from 0 to 1; expected numbers")


def _given_by_name(target: Target, name: str) -> str:
    return f" ({name} is given where its signature has it)"


def _refused(target: Target, what: str) -> InputError:
    return InputError(f"{target.key}.{TARGET}={target.path}: {what}.")
