"""Sums over examples of a function of each example's gradient, without a loop over examples.

For one example n, let g_n be the gradient, with respect to the parameters, of a weighted sum of its logits. This
module computes sum_n phi(g_n) elementwise, where phi is the square (Fisher information) or the absolute value
(memory aware synapses). Both are multiplicative, phi(xy) = phi(x) phi(y), and that is what makes it fast: the weight
gradient of a linear layer is the outer product of the output's gradient d_n and the input a_n, so

    sum_n phi(d_n a_n^T) = phi(D)^T phi(A)

is one matrix product over the batch (Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799,
section 5, for the norm). Convolutions sum over positions l first, so their per-example gradients are formed, batched.
But where there are few positions, the square of the sum is multiplied out:

    sum_n (sum_l d_nl a_nl^T)^2 = sum_{l,m} (D_l * D_m)^T (A_l * A_m),

which are again products over the batch. With several weightings of the logits, D_l * D_m is summed over them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # of any number of dimensions, and of anyone's

from clsweep.curvature.coverage import Coverage, coverage_of
from clsweep.curvature.functional import FunctionalSum
from clsweep.curvature.phi import Phi
from clsweep.networks import Classifier, Head, layout_of
from clsweep.parameters import NamedTensors, contract_parameters

LogitWeights = Callable[[Tensor, Tensor], Iterable[Tensor]]

# Large enough for efficient matrix products; with convolutions, small enough for the patches to stay in the cache.
BATCH_SIZE = 2000
CONVOLUTION_BATCH_SIZE = 256
# Per-example gradients of a convolution that are formed at once: few enough to stay in a processor's cache.
CONVOLUTION_VALUES = 2**20
# A product over the batch for a pair of positions takes about a sixteenth of the time that it takes to form the
# per-example gradients for one weighting of the logits.
PAIRS_PER_WEIGHTING = 16
# Values in the patches of all convolutions that a batch may have, 4 bytes each.
PATCH_VALUES = 2**26


@dataclass(frozen=True)
class Visit:
    """What one layer saw in a forward pass: its input and output, first dimension the batch."""

    layer: nn.Module
    input: Tensor
    output: Tensor


class TakesGradients(Protocol):
    """One layer's sum for one batch."""

    def add(self, gradient: Tensor) -> None:
        """Take the gradient of one weighting of the logits, shaped as the layer's output."""


Sum = TypeVar("Sum", bound=TakesGradients)


def sum_over_examples(
    model: Classifier, inputs: Tensor, labels: Tensor, weights: LogitWeights, phi: Phi, batch_size: int | None = None
) -> NamedTensors:
    """Sum phi of every example's gradient, over the examples and over one or more weightings of the logits.

    Args:
        model: the network; it is put into eval mode, since in training mode batch normalization mixes examples.
        inputs: the examples, [N, ...].
        labels: their labels over the active classes, [N].
        weights: from a batch's detached logits [B, C] and labels [B], the weightings [B, C] of the logits whose
            gradients are taken, one after the other.
        phi: applied to every element of a gradient.
        batch_size: examples at once, by default a fast number; it doesn't change the result.

    Returns:
        By key, sum_n sum_k phi(gradient of sum_c weights_k[n, c] logits[n, c]), for every trained parameter.

    Raises:
        MethodError: an example's logits depend on the others in its batch.
    """
    model.eval()
    covered = coverage(model, inputs)
    names = {parameter: key for key, parameter in contract_parameters(model).items() if parameter.requires_grad}
    totals = {key: torch.zeros_like(parameter) for parameter, key in names.items()}

    def collect(layer_sum: LayerSum) -> None:
        for parameter, value in layer_sum.result():
            if parameter in names:
                totals[names[parameter]] += value.view_as(parameter)

    def layer_sum(visit: Visit, weightings: int) -> LayerSum:
        return sum_of_layer(visit, phi, weightings)

    others = FunctionalSum(model, covered.others, phi)
    sum_over_batches(model, inputs, labels, weights, covered, layer_sum, collect, others, batch_size)
    return totals | {names[covered.others[name]]: total for name, total in others.totals.items()}


def coverage(model: Classifier, inputs: Tensor) -> Coverage:
    """Which layers of a network, in eval mode, have a rule here; see `coverage_of`."""
    return coverage_of(model, inputs, _RULES)


def sum_over_batches(
    model: Classifier,
    inputs: Tensor,
    labels: Tensor,
    weights: LogitWeights,
    covered: Coverage,
    layer_sum: Callable[[Visit, int], Sum],
    collect: Callable[[Sum], None],
    others: FunctionalSum,
    batch_size: int | None = None,
) -> None:
    """For one batch after the other, give every covered layer's sum the gradients of the layer's outputs.

    Args:
        model: the network, in eval mode, since in training mode batch normalization mixes examples.
        inputs: the examples, [N, ...].
        labels: their labels over the active classes, [N].
        weights: see `sum_over_examples`.
        covered: the layers that have a rule.
        layer_sum: from what a layer saw and the number of weightings, the layer's sum for this batch.
        collect: called with each layer's sum once it has seen every weighting.
        others: the sums for the parameters outside these layers.
        batch_size: examples at once, by default a fast number.
    """
    batch_size, layout = batch_size or _batch_size(covered), layout_of(model)
    for start in range(0, len(inputs), batch_size):
        batch = slice(start, start + batch_size)
        examples = inputs[batch].contiguous(memory_format=layout)
        with _visits(covered) as visits, torch.enable_grad():
            logits = model(examples)
        weightings = list(weights(logits.detach(), labels[batch]))
        if not weightings:  # a single class: its probability is 1 whatever the parameters
            continue
        sums = [layer_sum(visit, len(weightings)) for visit in visits]
        outputs = [visit.output for visit in visits]
        for weighting in weightings:
            if outputs:
                with torch.enable_grad():  # not by grad_outputs, for which autograd imports sympy: most of a second
                    weighted = (weighting * logits).sum()
                gradients = torch.autograd.grad(weighted, outputs, retain_graph=True)
                for one, gradient in zip(sums, gradients, strict=True):
                    one.add(gradient)
                del gradients
            others.add(examples, weighting)
        for one in sums:
            collect(one)
        del logits, visits, outputs, sums


def visits_by_batch(
    model: Classifier, inputs: Tensor, covered: Coverage, batch_size: int | None = None
) -> Iterator[list[Visit]]:
    """What every covered layer sees, one batch after the other, without a gradient.

    Args:
        model: the network, in eval mode.
        inputs: the examples, [N, ...].
        covered: the layers to look at.
        batch_size: examples at once, by default a fast number.

    Yields:
        A visit for each of the layers.
    """
    layout = layout_of(model)
    for examples in inputs.split(batch_size or _batch_size(covered)):
        with _visits(covered) as visits, torch.no_grad():
            model(examples.contiguous(memory_format=layout))
        yield visits


def _batch_size(covered: Coverage) -> int:
    if not covered.patch_values:
        return BATCH_SIZE
    return max(1, min(CONVOLUTION_BATCH_SIZE, PATCH_VALUES // covered.patch_values))


@contextmanager
def _visits(covered: Coverage) -> Iterator[list[Visit]]:
    """Record the inputs and outputs of the covered layers during a forward pass."""
    visits: list[Visit] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        visits.append(Visit(layer, inputs[0].detach(), output))
        return output.clone() if layer in covered.overwritten else output

    handles = [layer.register_forward_hook(record) for layer in covered.layers]
    try:
        yield visits
    finally:
        for handle in handles:
            handle.remove()


class LayerSum:
    """One layer's sum for one batch: `add` one output gradient at a time, then take the `result`."""

    def __init__(self, visit: Visit, phi: Phi) -> None:
        self.layer = visit.layer
        self.input = visit.input
        self.phi = phi

    def add(self, gradient: Tensor) -> None:
        """Add the examples' gradients for one weighting of the logits; `gradient` is shaped as the layer's output."""
        raise NotImplementedError

    def result(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The layer's parameters with their sums."""
        raise NotImplementedError


class _LinearSum(LayerSum):
    """Linear layers: phi(D) is summed over the weightings first, so that the input is multiplied only once."""

    def __init__(self, visit: Visit, phi: Phi) -> None:
        super().__init__(visit, phi)
        self.outputs: Tensor | None = None

    def add(self, gradient: Tensor) -> None:
        """Add phi(D), [B, out]."""
        if self.outputs is None:
            self.outputs = self.phi(gradient)
        else:
            self.phi.add_to(self.outputs, gradient)

    def result(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [out, in] and bias [out]."""
        weight, bias = parameters_of(self.layer)
        assert self.outputs is not None
        yield weight, self.outputs.T @ self.phi(self.input)
        if bias is not None:
            yield bias, self.outputs.sum(0)


class _HeadSum(_LinearSum):
    """The head: as a linear layer, for the rows of the active outputs; the others get zero."""

    def result(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [outputs, in] and bias [outputs]."""
        assert isinstance(self.layer, Head)
        active = self.layer.active
        assert isinstance(active, range)
        for parameter, value in super().result():
            full = torch.zeros_like(parameter)
            full[active.start : active.stop] = value
            yield parameter, full


class _PerExampleSum(LayerSum):
    """Layers whose per-example gradients are formed for a batch, then summed."""

    def __init__(self, visit: Visit, phi: Phi) -> None:
        super().__init__(visit, phi)
        self.sums: dict[nn.Parameter, Tensor] = {}

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The layer's parameters with their examples' gradients [B, *parameter.shape], all at once or part by part."""
        raise NotImplementedError

    def add(self, gradient: Tensor) -> None:
        """Add phi of the per-example gradients."""
        for parameter, gradients in self.per_example(gradient):
            value = self.phi(gradients).sum(0)
            self.sums[parameter] = self.sums[parameter] + value if parameter in self.sums else value

    def result(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        yield from self.sums.items()


class _ConvolutionSum(_PerExampleSum):
    """2-d convolutions: a per-example gradient is a product over the positions, [out, L] × [L, in * kh * kw]."""

    def __init__(self, visit: Visit, phi: Phi) -> None:
        super().__init__(visit, phi)
        self.patches = patches_of(visit)

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [b, out, in * kh * kw], a few examples at a time, and bias [B, out]."""
        weight, bias = parameters_of(self.layer)
        positions = gradient.flatten(2)
        at_once = max(1, CONVOLUTION_VALUES // weight.numel())
        for d, patches in zip(positions.split(at_once), self.patches.split(at_once), strict=True):
            yield weight, d @ patches.transpose(1, 2)
        if bias is not None:
            yield bias, positions.sum(2)


class _FewPositionsSum(LayerSum):
    """2-d convolutions with few positions and the square: one product over the batch for each pair of positions."""

    def __init__(self, visit: Visit, phi: Phi) -> None:
        super().__init__(visit, phi)
        positions = visit.output[0, 0].numel()
        self.of_pairs = list(combinations_with_replacement(range(positions), 2))
        self.patches = patches_of(visit).permute(2, 0, 1).contiguous()
        shape = (len(self.of_pairs), *visit.output.shape[:2])
        self.pairs = visit.output.new_zeros(shape)
        self.bias = visit.output.new_zeros(visit.output.shape[1])

    def add(self, gradient: Tensor) -> None:
        """Add D_l * D_m for every pair of positions, [pairs, B, out]."""
        positions = gradient.flatten(2).permute(2, 0, 1).contiguous()
        for total, (first, second) in zip(self.pairs, self.of_pairs, strict=True):
            total.addcmul_(positions[first], positions[second])
        self.bias += positions.sum(0).square().sum(0)

    def result(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Weight [out, in * kh * kw] and bias [out]."""
        weight, bias = parameters_of(self.layer)
        total = self.pairs.new_zeros(self.pairs.shape[2], self.patches.shape[2])
        for pair, (first, second) in zip(self.pairs, self.of_pairs, strict=True):
            inputs = self.patches[first] * self.patches[second]
            total.addmm_(pair.T, inputs, alpha=1.0 if first == second else 2.0)
        yield weight, total.clamp_min(0)  # rounding: the terms of a square multiplied out have signs
        if bias is not None:
            yield bias, self.bias


def patches_of(visit: Visit) -> Tensor:
    """What a convolution's filters are multiplied with, [B, in * kh * kw, L]."""
    layer = visit.layer
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    return F.unfold(visit.input, layer.kernel_size, layer.dilation, layer.padding, layer.stride)


class _NormalizationSum(_PerExampleSum):
    """Normalization layers: scale and shift of the normalized input x."""

    def per_example(self, gradient: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Scale (sum over positions of d x) and shift (of d), [B, *parameter.shape]."""
        scale, shift = parameters_of(self.layer)
        yield scale, self._over_positions(gradient * self._normalized(), scale)
        if shift is not None:
            yield shift, self._over_positions(gradient, scale)

    def _normalized(self) -> Tensor:
        layer, values = self.layer, self.input
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(values, layer.normalized_shape, eps=layer.eps)
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(values, layer.num_groups, eps=layer.eps)
        assert isinstance(layer, _BatchNorm)
        return F.batch_norm(values, layer.running_mean, layer.running_var, eps=layer.eps)

    def _over_positions(self, values: Tensor, scale: Tensor) -> Tensor:
        if isinstance(self.layer, nn.LayerNorm):  # its parameters are the last dimensions
            return values.reshape(len(values), -1, *scale.shape).sum(1)
        return values.flatten(2).sum(2) if values.ndim > 2 else values


_RULES: dict[type[nn.Module], type[LayerSum]] = {
    Head: _HeadSum,
    nn.Linear: _LinearSum,
    nn.Conv2d: _ConvolutionSum,
    _BatchNorm: _NormalizationSum,
    nn.LayerNorm: _NormalizationSum,
    nn.GroupNorm: _NormalizationSum,
}


def sum_of_layer(visit: Visit, phi: Phi, weightings: int) -> LayerSum:
    """The fastest rule for a layer."""
    rule = _RULES[_kind(visit.layer)]
    if rule is _ConvolutionSum and phi.is_square:
        positions = visit.output[0, 0].numel()
        if positions * (positions + 1) // 2 <= PAIRS_PER_WEIGHTING * weightings:
            rule = _FewPositionsSum
    return rule(visit, phi)


def _kind(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(layer).__mro__ if kind in _RULES)


def parameters_of(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """A layer's weight and, where it has one, its bias."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    assert bias is None or isinstance(bias, nn.Parameter)
    return weight, bias
