"""Which of a network's outputs are active: those of the contexts that an example may come from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Which outputs are active: a range for every example alike, or an int64 tensor [B, active] with a row of outputs for
# each example (joint training over contexts with outputs of their own).
Outputs = range | Tensor


def select(logits: Tensor, outputs: Outputs) -> Tensor:
    """The active ones of all outputs: [B, active] from [B, n_outputs]."""
    if isinstance(outputs, Tensor):
        return logits.gather(1, outputs)
    return logits[:, outputs.start : outputs.stop]


class Head(nn.Linear):
    """A linear output layer that computes the active outputs only.

    Attributes:
        active: which; see `Outputs`.
    """

    def __init__(self, in_features: int, n_outputs: int) -> None:
        super().__init__(in_features, n_outputs)
        self.active: Outputs = range(n_outputs)

    @property
    def every(self) -> range:
        return range(self.out_features)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, active] from features [B, in_features]."""
        if isinstance(self.active, Tensor):
            return select(F.linear(features, self.weight, self.bias), self.active)
        outputs = slice(self.active.start, self.active.stop)
        return F.linear(features, self.weight[outputs], self.bias[outputs])


class Selection:
    """A forward hook that takes the active outputs of a network that gives them all.

    It belongs to the network's call, not to its layers: parameters keep their names, and a copy has one of its own.

    Attributes:
        active: which; see `Outputs`.
        every: all outputs.
    """

    def __init__(self, n_outputs: int) -> None:
        self.every = range(n_outputs)
        self.active: Outputs = self.every

    def __call__(self, model: nn.Module, inputs: object, logits: Tensor) -> Tensor:
        """Logits [B, active] from [B, n_outputs]."""
        return select(logits, self.active)


def outputs_of(model: nn.Module) -> Head | Selection:
    """What chooses an equipped network's outputs: its `active` can be read and set."""
    hooks = (hook for hook in model._forward_hooks.values() if isinstance(hook, Selection))
    found = next(hooks, None) or only_head(model)
    assert found is not None
    return found


def activate(model: nn.Module, outputs: Outputs) -> None:
    """Choose the outputs that an equipped network gives from now on."""
    outputs_of(model).active = outputs


def only_head(model: nn.Module) -> Head | None:
    """A network's only `Head`; with several of them no one is the network's output."""
    heads = [layer for layer in model.modules() if isinstance(layer, Head)]
    return heads[0] if len(heads) == 1 else None


def ends_in_head(model: nn.Module, examples: Tensor) -> bool:
    """Whether a network's `Head` chooses its outputs: in a part of the network, others may come after it.

    Args:
        model: the network, whose modes stay.
        examples: what it takes, [n, C, H, W].
    """
    head = only_head(model)
    if head is None:
        return False
    modes = [(module, module.training) for module in model.modules()]
    shown, head.active = head.active, range(1)
    try:
        with torch.no_grad():
            given = model.eval()(examples)
    except Exception:  # of a layer that gets fewer values than it takes; any other is told by whoever calls next
        return False
    finally:
        head.active = shown
        for module, training in modes:
            module.training = training
    return isinstance(given, Tensor) and given.shape[1:] == (1,)
