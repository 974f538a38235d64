"""Which of a network's parameters are heads: those that some outputs need and the others don't.

What the layers are, and how the outputs are put together from them, doesn't matter: the gradients tell, of the logits
of either group of outputs with respect to every parameter. A softmax cares for the differences of logits alone, so that
it is differences that are differentiated: a network that normalizes its logits, by `log_softmax`, has heads, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clsweep.networks import Classifier, layout_of, outputs_of
from clsweep.parameters import contract_parameters

_EXAMPLES = 32  # a unit has as many chances to be on


def head_parameters(model: Classifier, inputs: Tensor, outputs: Collection[int]) -> list[str]:
    """The trained parameters that outputs beyond some need, with no element that these need, too.

    Args:
        model: the network, in eval mode.
        inputs: some examples, [N, ...].
        outputs: those that are to have no part in it.

    Returns:
        Their keys.
    """
    chooser = outputs_of(model)
    others = [one for one in chooser.every if one not in outputs]
    if not others:
        return []
    trained = {key: p for key, p in contract_parameters(model).items() if p.requires_grad}
    some = inputs[torch.arange(_EXAMPLES, device=inputs.device) % len(inputs)]
    shown, chooser.active = chooser.active, chooser.every
    try:
        with _units_on_and_off(model), torch.enable_grad():
            logits = model(some.contiguous(memory_format=layout_of(model)))
            sums = [(_differences(logits, group) * logits).sum() for group in (sorted(outputs), others)]
            # While the units are so: a checkpointed part is computed once more here.
            of = list(trained.values())
            found = [torch.autograd.grad(one, of, retain_graph=True, allow_unused=True) for one in sums]
    finally:
        chooser.active = shown
    return [key for key, *gradients in zip(trained, *found, strict=True) if _is_apart(*gradients)]


def _differences(logits: Tensor, group: list[int]) -> Tensor:
    """Weights of a group's logits, others for each example, [N, n_outputs]: whole numbers, whose sum is exactly zero.

    A single output has no difference to any other: its weight is one.
    """
    count = len(group)
    turns = torch.arange(len(logits))[:, None] + torch.arange(count)
    weights = torch.zeros(logits.shape)
    weights[:, group] = (2.0 * (turns % count) - (count - 1)) if count > 1 else 1.0
    return weights.to(logits)


def _is_apart(before: Tensor | None, others: Tensor | None) -> bool:
    """Whether the others' gradient is there, and zero wherever the one before isn't; NaN isn't zero."""
    if others is None or not others.any():
        return False
    return before is None or not ((before != 0) & (others != 0)).any()


@contextmanager
def _units_on_and_off(model: nn.Module) -> Iterator[None]:
    """Multiply what layers with parameters give with random numbers of either sign, a layer's always the same.

    A unit that is off for these examples, such as a ReLU's, would hide what depends on it.
    """
    source = torch.Generator().manual_seed(0)
    drawn: dict[tuple[nn.Module, torch.Size], Tensor] = {}

    def scaled(layer: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        key = layer, output.shape
        if key not in drawn:
            drawn[key] = torch.randn(output.shape, generator=source)
        return output * drawn[key].to(output)

    layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
    handles = [layer.register_forward_hook(scaled) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
