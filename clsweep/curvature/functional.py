"""Gradients of single examples for any network: `torch.func` computes a batch of them without knowing the layers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clsweep.curvature.phi import Phi
from clsweep.errors import named
from clsweep.networks import Classifier

log = logging.getLogger(__name__)

# The most gradient values that are formed at once, and the most examples: their activations take memory, too.
VALUES = 2**24
MOST_EXAMPLES = 256


@contextmanager
def _whatever_is_slow() -> Iterator[None]:
    """Without PyTorch's warnings that an operation is taken example by example."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


class FunctionalSum:
    """Sums over examples of phi of the gradients of some of a network's parameters.

    Where `torch.func` can't take the network, such as one that decides by the values that it computes, the examples go
    through it one by one.

    Args:
        model: the network, in eval mode.
        parameters: those to differentiate by, by their names in the network.
        phi: applied to every element of a gradient.

    Attributes:
        totals: the sums so far, by name.
    """

    def __init__(self, model: Classifier, parameters: Mapping[str, nn.Parameter], phi: Phi) -> None:
        self.totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._model = model
        self._parameters = dict(parameters)
        self._phi = phi
        self._at_once = max(1, min(MOST_EXAMPLES, VALUES // max(1, sum(p.numel() for p in parameters.values()))))
        self._by_one = False

    def add(self, inputs: Tensor, weighting: Tensor) -> None:
        """Add the examples of a batch.

        Args:
            inputs: [B, ...].
            weighting: of their logits, [B, C]; the gradient is that of the weighted sum.
        """
        if not self._parameters:
            return
        for some, weights in zip(inputs.split(self._at_once), weighting.split(self._at_once), strict=True):
            if not self._by_one:
                self._by_one = not self._batched(some, weights)
            if self._by_one:
                self._one_by_one(some, weights)

    def _batched(self, inputs: Tensor, weighting: Tensor) -> bool:
        """Add a few examples together; False where `torch.func` can't."""

        def weighted(parameters: dict[str, Tensor], example: Tensor, weights: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._model, parameters, (example.unsqueeze(0),))
            return (weights * logits.squeeze(0)).sum()

        values = {name: p.detach() for name, p in self._parameters.items()}
        try:
            # `grad` has a graph of its own. Attention goes in plain products: `vmap` takes its fused kernels example by
            # example.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _whatever_is_slow():
                of_each = vmap(grad(weighted), in_dims=(None, 0, 0), randomness="different")
                gradients = of_each(values, inputs, weighting)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            log.warning("gradients of examples one by one, which takes long, since torch.func raised %s", named(error))
            return False
        for name, value in gradients.items():
            self.totals[name] += self._phi(value).sum(0)
        return True

    def _one_by_one(self, inputs: Tensor, weighting: Tensor) -> None:
        parameters = list(self._parameters.values())
        for example, weights in zip(inputs.split(1), weighting.split(1), strict=True):
            with torch.enable_grad():
                weighted = (weights * self._model(example)).sum()
            gradients = torch.autograd.grad(weighted, parameters, allow_unused=True)
            for name, value in zip(self._parameters, gradients, strict=True):
                if value is not None:
                    self._phi.add_to(self.totals[name], value)
