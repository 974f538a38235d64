"""Which of a network's layers have a rule for the gradients of single examples that is right for them.

A rule knows a kind of layer, and relies on its using each parameter once, on its own input. Whether a layer does so in
this network is observed: a few examples go through it, in batches of two sizes, and the graph of their logits says
where each parameter was used. What isn't certain is left to `clsweep.curvature.functional`, which knows no layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clsweep.errors import MethodError, RunError
from clsweep.networks import Classifier, Convolution, layout_of, outputs_of
from clsweep.parameters import contract_parameters

_BY_RULE = ("weight", "bias")
_FEW = (3, 2)  # examples
_TOLERANCE = 1e-3  # between an example's logits in two batches, relative to the largest: rounding is far below


@dataclass(frozen=True)
class Coverage:
    """How each trained parameter's gradients of single examples are found.

    Attributes:
        layers: those with a rule, in the network's order.
        overwritten: those of them whose output something in the network overwrites.
        others: the trained parameters outside these layers, by their names in the network.
        patch_values: how many values the patches of all convolutions among `layers` have for one example.
    """

    layers: list[nn.Module]
    overwritten: frozenset[nn.Module]
    others: dict[str, nn.Parameter]
    patch_values: int


@dataclass
class _Use:
    """How a layer was used in one pass."""

    calls: int = 0
    fits: bool = True
    node: Any = None
    output: Tensor | None = None
    version: int = 0
    patch_values: int = field(default=0)

    @property
    def is_overwritten(self) -> bool:
        return self.output is not None and self.output._version != self.version


def coverage_of(model: Classifier, inputs: Tensor, kinds: Collection[type[nn.Module]]) -> Coverage:
    """Watch a few examples go through a network.

    Args:
        model: the network, in eval mode.
        inputs: some examples, [N, ...].
        kinds: the layers that there are rules for.

    Raises:
        MethodError: an example's logits depend on the others in its batch, so that it has no gradient of its own.
        RunError: each example has active outputs of its own, as in joint training.
    """
    if isinstance(outputs_of(model).active, Tensor):
        raise RunError("gradients of single examples need the same active outputs for every example.")
    trained = {p for p in contract_parameters(model).values() if p.requires_grad}
    plain = [layer for layer in model.modules() if is_plain(layer, kinds) and trained & _own(layer)]
    uses: list[dict[nn.Module, _Use]] = []
    logits: list[Tensor] = []
    counts: list[Counter[nn.Parameter]] = []
    nodes: list[set[Any]] = []
    for n in _FEW:
        some = inputs[torch.arange(n, device=inputs.device) % len(inputs)].contiguous(memory_format=layout_of(model))
        with _watched(plain, n) as seen, torch.enable_grad():
            logits.append(model(some))
        uses.append(seen)
        found, used = _graph(logits[-1])
        nodes.append(found)
        counts.append(used)
    _check_independent(*logits)
    layers = [
        layer
        for layer in plain
        if all(
            use[layer].calls == 1
            and use[layer].fits
            and use[layer].node in found
            and all(used[p] == 1 for p in _own(layer) if p.requires_grad)
            for use, found, used in zip(uses, nodes, counts, strict=True)
        )
    ]
    covered = {p for layer in layers for p in _own(layer)}
    return Coverage(
        layers,
        frozenset(layer for layer in layers if any(use[layer].is_overwritten for use in uses)),
        {name: p for name, p in model.named_parameters() if p in trained and p not in covered},
        sum(uses[0][layer].patch_values for layer in layers),
    )


def _own(layer: nn.Module) -> set[nn.Parameter]:
    return set(layer.parameters(recurse=False))


def is_plain(layer: nn.Module, kinds: Collection[type[nn.Module]]) -> bool:
    """Whether a layer does what its kind does, with a weight and a bias of its own, and nobody's hooks."""
    kind: Any = type(layer)
    own = dict(layer.named_parameters(recurse=False))
    known = {_forward(one) for one in (*kinds, Convolution) if issubclass(kind, one)}
    if _forward(kind) not in known or "forward" in vars(layer) or "weight" not in own or own.keys() - _BY_RULE:
        return False
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if isinstance(layer, nn.Conv2d):
        plain = kind._conv_forward is nn.Conv2d._conv_forward and layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str)
    return True


def _forward(kind: Any) -> object:
    return kind.forward


@contextmanager
def _watched(layers: list[nn.Module], n: int) -> Iterator[dict[nn.Module, _Use]]:
    """Note how layers are used in one pass of `n` examples."""
    uses = {layer: _Use() for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        use = uses[layer]
        use.calls += 1
        use.fits = bool(inputs) and all(isinstance(one, Tensor) and len(one) == n for one in (inputs[0], output))
        if not use.fits:
            return
        use.fits = not isinstance(layer, nn.Linear) or output.ndim == 2
        use.node, use.output, use.version = output.grad_fn, output, output._version
        if isinstance(layer, nn.Conv2d):
            use.patch_values = layer.weight[0].numel() * output[0, 0].numel()

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _graph(logits: Tensor) -> tuple[set[Any], Counter[nn.Parameter]]:
    """The nodes that logits came from, and how often each parameter was used on the way."""
    found, used = {logits.grad_fn}, Counter[nn.Parameter]()
    waiting = [logits.grad_fn]
    while waiting:
        for node, _ in getattr(waiting.pop(), "next_functions", ()):
            if hasattr(node, "variable"):
                used[node.variable] += 1
            elif node is not None and node not in found:
                found.add(node)
                waiting.append(node)
    return found, used


def _check_independent(more: Tensor, fewer: Tensor) -> None:
    difference = (more[: len(fewer)] - fewer).detach().abs().max()
    if difference > _TOLERANCE * more.detach().abs().max():
        raise MethodError(
            "the network's logits of an example are others in another batch, in eval mode: it has no gradient of its "
            "own, which this method needs; expected a network that looks at each example alone (batch normalization "
            "does with running averages) and draws no random numbers there."
        )
