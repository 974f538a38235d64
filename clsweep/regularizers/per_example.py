"""Sums over examples of a function of each example's gradient, without a loop over examples.

For one example n, let g_n be the gradient, with respect to the parameters, of a weighted sum of its logits. This
module computes sum_n phi(g_n) elementwise, where phi is the square (Fisher information) or the absolute value
(memory aware synapses). Both are multiplicative, phi(xy) = phi(x) phi(y), and that is what makes it fast: the weight
gradient of a linear layer is the outer product of the output's gradient d_n and the input a_n, so

    sum_n phi(d_n a_n^T) = phi(D)^T phi(A)

is one matrix product over the batch (Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799,
section 5, for the norm). Convolutions sum over positions first, so their per-example gradients are formed, batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clsweep.contract import NamedTensors, contract_parameters
from clsweep.errors import RunError
from clsweep.networks import Classifier, Head

Phi = Callable[[Tensor], Tensor]
LogitWeights = Callable[[Tensor, Tensor], Iterable[Tensor]]

# Large enough for efficient matrix products.
BATCH_SIZE = 256
# Per-example gradients of a convolution that are formed at once: few enough to stay in a processor's cache.
CONVOLUTION_VALUES = 2**20


@dataclass(frozen=True)
class _Visit:
    """What one layer saw in a forward pass: its input and output, first dimension the batch."""

    layer: nn.Module
    input: Tensor
    output: Tensor


def sum_over_examples(
    model: Classifier, inputs: Tensor, labels: Tensor, weights: LogitWeights, phi: Phi, batch_size: int = BATCH_SIZE
) -> NamedTensors:
    """Sum phi of every example's gradient, over the examples and over one or more weightings of the logits.

    Args:
        model: the network; it is put into eval mode, since in training mode batch normalization mixes examples.
        inputs: the examples, [N, ...].
        labels: their labels over the active classes, [N].
        weights: from a batch's detached logits [B, C] and labels [B], the weightings [B, C] of the logits whose
            gradients are taken, one after the other.
        phi: an elementwise function with phi(xy) = phi(x) phi(y) and phi >= 0.
        batch_size: examples at once; it doesn't change the result.

    Returns:
        By key, sum_n sum_k phi(gradient of sum_c weights_k[n, c] logits[n, c]), for every trained parameter.

    Raises:
        RunError: a trained parameter belongs to a layer of a kind that is not supported here.
    """
    model.eval()
    names = {parameter: key for key, parameter in contract_parameters(model).items() if parameter.requires_grad}
    totals = {key: torch.zeros_like(parameter) for parameter, key in names.items()}
    layers = [layer for layer in model.modules() if any(p in names for p in layer.parameters(recurse=False))]
    _check_supported(layers)
    for start in range(0, len(inputs), batch_size):
        batch = slice(start, start + batch_size)
        with _visits(layers) as visits, torch.enable_grad():
            logits = model(inputs[batch])
        sums = [_RULES[_kind(visit.layer)](visit) for visit in visits]
        for weighting in weights(logits.detach(), labels[batch]):
            outputs = [visit.output for visit in visits]
            gradients = torch.autograd.grad(logits, outputs, grad_outputs=weighting, retain_graph=True)
            for layer_sum, gradient in zip(sums, gradients, strict=True):
                layer_sum.add(gradient, phi)
        for layer_sum in sums:
            for parameter, value in layer_sum.result(phi):
                if parameter in names:
                    totals[names[parameter]] += value.view_as(parameter)
        del logits, visits, sums
    return totals


@contextmanager
def _visits(layers: list[nn.Module]) -> Iterator[list[_Visit]]:
    """Record the inputs and outputs of `layers` during a forward pass."""
    visits: list[_Visit] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        visits.append(_Visit(layer, inputs[0].detach(), output))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield visits
    finally:
        for handle in handles:
            handle.remove()
    if len({id(visit.layer) for visit in visits}) < len(visits):
        raise RunError("a layer is used twice in one forward pass: its per-example gradients are not supported.")


class _LayerSum:
    """One layer's sum for one batch: `add` an output gradient at a time, then take the `result`."""

    def __init__(self, visit: _Visit) -> None:
        self.layer = visit.layer
        self.input = visit.input

    def add(self, gradient: Tensor, phi: Phi) -> None:
        """Add the examples' gradients for one weighting of the logits; `gradient` is shaped as the layer's output."""
        raise NotImplementedError

    def result(self, phi: Phi) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The layer's parameters with their sums."""
        raise NotImplementedError


class _LinearSum(_LayerSum):
    """Linear layers: phi(D) is summed over the weightings first, so that the input is multiplied only once."""

    def __init__(self, visit: _Visit) -> None:
        super().__init__(visit)
        if visit.output.ndim != 2:
            raise RunError("a linear layer over more than one position is not supported by per-example gradients.")
        self.outputs = torch.zeros_like(visit.output)

    def add(self, gradient: Tensor, phi: Phi) -> None:
        """Add phi(D), [B, out]."""
        self.outputs += phi(gradient)

    def result(self, phi: Phi) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [out, in] and bias [out]."""
        weight, bias = _of_layer(self.layer)
        yield weight, self.outputs.T @ phi(self.input)
        if bias is not None:
            yield bias, self.outputs.sum(0)


class _HeadSum(_LinearSum):
    """The head: as a linear layer, for the rows of the active outputs; the others get zero."""

    def result(self, phi: Phi) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [outputs, in] and bias [outputs]."""
        assert isinstance(self.layer, Head)
        active = self.layer.active
        if isinstance(active, Tensor):
            raise RunError("per-example gradients need the same active outputs for every example.")
        for parameter, value in super().result(phi):
            full = torch.zeros_like(parameter)
            full[active.start : active.stop] = value
            yield parameter, full


class _PerExampleSum(_LayerSum):
    """Layers whose per-example gradients are formed for a batch, then summed."""

    def __init__(self, visit: _Visit) -> None:
        super().__init__(visit)
        self.sums: dict[nn.Parameter, Tensor] = {}

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The layer's parameters with their examples' gradients [B, *parameter.shape], all at once or part by part."""
        raise NotImplementedError

    def add(self, gradient: Tensor, phi: Phi) -> None:
        """Add phi of the per-example gradients."""
        for parameter, gradients in self.per_example(gradient):
            value = phi(gradients).sum(0)
            self.sums[parameter] = self.sums[parameter] + value if parameter in self.sums else value

    def result(self, phi: Phi) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The sums so far."""
        yield from self.sums.items()


class _ConvolutionSum(_PerExampleSum):
    """2-d convolutions: a per-example gradient is a product over the positions, [out, L] × [L, in * kh * kw]."""

    def __init__(self, visit: _Visit) -> None:
        super().__init__(visit)
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or layer.groups != 1:
            raise RunError("per-example gradients of convolutions need numeric zero padding and groups=1.")
        self.patches = F.unfold(self.input, layer.kernel_size, layer.dilation, layer.padding, layer.stride)

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [b, out, in * kh * kw], a few examples at a time, and bias [B, out]."""
        weight, bias = _of_layer(self.layer)
        positions = gradient.flatten(2)
        at_once = max(1, CONVOLUTION_VALUES // weight.numel())
        for d, patches in zip(positions.split(at_once), self.patches.split(at_once), strict=True):
            yield weight, d @ patches.transpose(1, 2)
        if bias is not None:
            yield bias, positions.sum(2)


class _NormalizationSum(_PerExampleSum):
    """Normalization layers: scale and shift of the normalized input x."""

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Scale (sum over positions of d x) and shift (of d), [B, *parameter.shape]."""
        scale, shift = _of_layer(self.layer)
        yield scale, self._over_positions(gradient * self._normalized(), scale)
        if shift is not None:
            yield shift, self._over_positions(gradient, scale)

    def _normalized(self) -> Tensor:
        layer, values = self.layer, self.input
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(values, layer.normalized_shape, eps=layer.eps)
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(values, layer.num_groups, eps=layer.eps)
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        return F.batch_norm(values, layer.running_mean, layer.running_var, eps=layer.eps)

    def _over_positions(self, values: Tensor, scale: Tensor) -> Tensor:
        if isinstance(self.layer, nn.LayerNorm):  # its parameters are the last dimensions
            return values.reshape(len(values), -1, *scale.shape).sum(1)
        return values.flatten(2).sum(2) if values.ndim > 2 else values


_RULES: dict[type[nn.Module], type[_LayerSum]] = {
    Head: _HeadSum,
    nn.Linear: _LinearSum,
    nn.Conv2d: _ConvolutionSum,
    nn.BatchNorm1d: _NormalizationSum,
    nn.BatchNorm2d: _NormalizationSum,
    nn.LayerNorm: _NormalizationSum,
    nn.GroupNorm: _NormalizationSum,
}


def _kind(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(layer).__mro__ if kind in _RULES)


def _check_supported(layers: list[nn.Module]) -> None:
    for layer in layers:
        if not any(kind in _RULES for kind in type(layer).__mro__):
            supported = ", ".join(kind.__name__ for kind in _RULES)
            raise RunError(
                f"per-example gradients are not supported for {type(layer).__name__}; expected layers of {supported}."
            )


def _of_layer(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """A layer's weight and, where it has one, its bias."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    assert bias is None or isinstance(bias, nn.Parameter)
    return weight, bias
