"""Kronecker factors of the Fisher information, and the quadratic penalty that they define.

Let a be a linear layer's input, with a 1 appended where the layer has a bias, and g the gradient of log p(y | x) with
respect to its output. An example's gradient with respect to [W b] is g a^T, and the layer's block of the Fisher
information is

    F = E[g g^T ⊗ a a^T] ≈ G ⊗ A,    G = E[g g^T],  A = E[a a^T]

(Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015), so that a
change D of [W b] costs 1/2 <D, G D A>, whose gradient G D A is what the value needs, too.

Convolutions are linear layers over patches, whose gradient is a sum over the positions l. With derivatives that are
uncorrelated between positions, and statistics that are the same at all L of them ("KFC": Grosse & Martens, "A
Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016),

    F ≈ sum_l E[g_l g_l^T] ⊗ E[a_l a_l^T] ≈ G ⊗ A,    G = (1/L) E[sum_l g_l g_l^T],  A = E[sum_l a_l a_l^T].

Which of the two is divided by L, as there G is, doesn't change the product; that exactly one is makes the product the
layer's Fisher information, on one scale with the other layers'. The penalty needs that; an optimizer, which damps each
layer, would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.data import TensorDataset

from clsweep.curvature.coverage import Coverage
from clsweep.curvature.fisher import FisherOptions, selected
from clsweep.curvature.functional import FunctionalSum
from clsweep.curvature.per_example import (
    LayerSum,
    Visit,
    coverage,
    parameters_of,
    patches_of,
    sum_of_layer,
    sum_over_batches,
    visits_by_batch,
)
from clsweep.curvature.phi import Square
from clsweep.networks import Classifier, Head
from clsweep.parameters import NamedTensors, contract_parameters

# A layer's trained parameters, weight before bias, in the order of the columns of [W b].
Keys = tuple[str, ...]
_BETWEEN = "."  # which stands in no key, as anything else may: the names in a ModuleDict are its author's


def joined(keys: Keys) -> str:
    """A layer's keys as one text, by which what a method keeps of the layer is packed."""
    return _BETWEEN.join(keys)


def separated(text: str) -> Keys:
    """The keys that `joined` made one text."""
    return tuple(text.split(_BETWEEN))


@dataclass(frozen=True)
class Factors:
    """One layer's curvature G ⊗ A.

    Attributes:
        inputs: A, [columns, columns]: one column for each input and, where there is a trained bias, one for the 1.
        outputs: G, [out, out]; rows and columns of inactive outputs are zero.
    """

    inputs: Tensor
    outputs: Tensor

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of G ⊗ A, shaped as [W b]: [out, columns]."""
        return torch.outer(self.outputs.diagonal(), self.inputs.diagonal())

    def plus(self, other: Factors) -> Factors:
        """The Kronecker product with the partial traces of a sum of two.

        A sum S of Kronecker products G_t ⊗ A_t is none itself. (sum_t tr(A_t) G_t) ⊗ (sum_t tr(G_t) A_t) / tr(S) has
        its partial traces: the same total curvature for every output and for every input. It is S where S is a
        Kronecker product, in particular for repeated contexts, and partial traces add up, so that adding one by one,
        in any order, is adding all at once.
        """
        traces = [(one.inputs.trace(), one.outputs.trace()) for one in (self, other)]
        (own_a, own_g), (other_a, other_g) = traces
        scale = (own_a * own_g + other_a * other_g).clamp_min(torch.finfo(own_a.dtype).tiny).rsqrt()
        return Factors(
            (own_g * scale) * self.inputs + (other_g * scale) * other.inputs,
            (own_a * scale) * self.outputs + (other_a * scale) * other.outputs,
        )


Curvature = dict[Keys, Factors]


def as_plain(curvature: Curvature) -> dict[str, NamedTensors]:
    """The factors as plain tensors, under their joined keys."""
    return {joined(keys): {"inputs": one.inputs, "outputs": one.outputs} for keys, one in curvature.items()}


def of_plain(factors: Mapping[str, NamedTensors]) -> Curvature:
    """The factors that `as_plain` made plain."""
    return {separated(keys): Factors(**one) for keys, one in factors.items()}


def kronecker_fisher(
    model: Classifier,
    dataset: TensorDataset,
    options: FisherOptions = FisherOptions(),  # noqa: B008 - it is frozen
    batch_size: int | None = None,
) -> tuple[Curvature, NamedTensors]:
    """The Fisher information of a context: Kronecker factors of linear and convolutional layers, else its diagonal.

    A layer has factors where it is used once, for examples in rows (see `clsweep.curvature.coverage`).

    Args:
        model: the network.
        dataset: the context's training examples; `dataset.tensors` are the inputs [N, ...] and labels [N].
        options: as for `diagonal_fisher`.
        batch_size: examples at once, by default a fast number; it doesn't change the result.

    Returns:
        The factors of each linear or convolutional layer, and by key the diagonals for the other layers' parameters,
        shaped as these, all averaged over the examples. What is not trained is left out.

    Raises:
        MethodError: an example's logits depend on the others in its batch.
    """
    inputs, labels, weights = selected(dataset, options)
    names = _trained(model)
    model.eval()
    covered = coverage(model, inputs)
    totals = {layer: _FactorTotals(layer, names) for layer in _factored(covered)}
    by_rule = [p for layer in covered.layers if layer not in totals for p in layer.parameters(recurse=False)]
    diagonals = {names[p]: torch.zeros_like(p) for p in by_rule if p in names}
    others = FunctionalSum(model, covered.others, Square())

    def layer_sum(visit: Visit, weightings: int) -> _FactorSum | LayerSum:
        if visit.layer in totals:
            return _FactorSum(visit, totals[visit.layer])
        return sum_of_layer(visit, Square(), weightings)

    def collect(done: _FactorSum | LayerSum) -> None:
        if isinstance(done, LayerSum):
            for p, value in done.result():
                if p in names:
                    diagonals[names[p]] += value.view_as(p)

    sum_over_batches(model, inputs, labels, weights, covered, layer_sum, collect, others, batch_size)
    diagonals |= {names[covered.others[name]]: total for name, total in others.totals.items()}
    curvature = {total.keys: total.mean(len(inputs)) for total in totals.values()}
    return curvature, {key: value / len(inputs) for key, value in diagonals.items()}


@dataclass(frozen=True)
class InputStatistics:
    """What the inputs of a network's layers were in a context.

    Attributes:
        covariances: A = E[sum_l a_l a_l^T] of each linear and convolutional layer, [columns, columns] as in `Factors`.
        others: the keys of the trained parameters outside these layers.
    """

    covariances: dict[Keys, Tensor]
    others: tuple[str, ...]


def input_statistics(model: Classifier, dataset: TensorDataset, batch_size: int | None = None) -> InputStatistics:
    """The uncentred covariances of the layers' inputs, A of their Kronecker factors: nothing is differentiated.

    Args:
        model: the network.
        dataset: the context's training examples; at most 60,000 of them are used, as for the Fisher information.
        batch_size: examples at once, by default a fast number; it doesn't change the result.

    Raises:
        MethodError: an example's logits depend on the others in its batch.
    """
    inputs, _, _ = selected(dataset, FisherOptions())
    names = _trained(model)
    model.eval()
    covered = coverage(model, inputs)
    totals = {layer: _InputTotals(layer, names) for layer in _factored(covered)}
    for visits in visits_by_batch(model, inputs, covered, batch_size):
        for visit in visits:
            if visit.layer in totals:
                totals[visit.layer].add_inputs(_input_rows(visit))
    of_layers = {key for total in totals.values() for key in total.keys}
    return InputStatistics(
        {total.keys: total.inputs / len(inputs) for total in totals.values()},
        tuple(key for key in names.values() if key not in of_layers),
    )


def _trained(model: Classifier) -> dict[nn.Parameter, str]:
    return {p: key for key, p in contract_parameters(model).items() if p.requires_grad}


def _factored(covered: Coverage) -> list[nn.Module]:
    return [layer for layer in covered.layers if isinstance(layer, nn.Linear | nn.Conv2d)]


def _input_rows(visit: Visit) -> Tensor:
    """What a layer's weights are multiplied with, [B * L, in * kh * kw]."""
    return patches_of(visit).transpose(1, 2).flatten(0, 1) if isinstance(visit.layer, nn.Conv2d) else visit.input


class _InputTotals:
    """One layer's A, summed over examples.

    Args:
        layer: linear or convolutional.
        names: the trained parameters' keys.

    Attributes:
        keys: of the layer's trained parameters.
    """

    def __init__(self, layer: nn.Module, names: Mapping[nn.Parameter, str]) -> None:
        weight, bias = parameters_of(layer)
        self.has_weight, self.has_bias = weight in names, bias in names
        trained = [p for p in (weight, bias) if p is not None and p in names]
        self.keys: Keys = tuple(names[p] for p in trained)
        columns = as_matrix(trained).shape[1]
        self.inputs = weight.new_zeros(columns, columns)

    def add_inputs(self, rows: Tensor) -> None:
        """Add a batch's sum of a a^T; `rows` are the inputs or patches, [B * L, in * kh * kw]."""
        parts = [rows] if self.has_weight else []
        if self.has_bias:
            parts.append(rows.new_ones(len(rows), 1))
        columns = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        self.inputs.addmm_(columns.T, columns)


class _FactorTotals(_InputTotals):
    """One layer's factors, summed over examples."""

    def __init__(self, layer: nn.Module, names: Mapping[nn.Parameter, str]) -> None:
        super().__init__(layer, names)
        weight, _ = parameters_of(layer)
        self.outputs = weight.new_zeros(len(weight), len(weight))
        self.positions = 1

    def add_gradients(self, rows: Tensor, active: slice) -> None:
        """Add a batch's sum of g g^T for one weighting of the logits; `rows` are [B * L, active]."""
        self.outputs[active, active].addmm_(rows.T, rows)

    def mean(self, n: int) -> Factors:
        """A and G over `n` examples."""
        return Factors(self.inputs / n, self.outputs / (n * self.positions))


class _FactorSum:
    """One layer's share of a batch: adds one output gradient at a time to the layer's totals."""

    def __init__(self, visit: Visit, totals: _FactorTotals) -> None:
        self.totals = totals
        self.active = _active_outputs(visit.layer)
        if isinstance(visit.layer, nn.Conv2d):
            totals.positions = visit.output[0, 0].numel()
        totals.add_inputs(_input_rows(visit))

    def add(self, gradient: Tensor) -> None:
        """Add the sum of g g^T; `gradient` is shaped as the layer's output."""
        rows = gradient if gradient.ndim == 2 else gradient.permute(0, 2, 3, 1).flatten(0, 2)
        self.totals.add_gradients(rows, self.active)


def _active_outputs(layer: nn.Module) -> slice:
    if not isinstance(layer, Head):
        return slice(None)
    assert isinstance(layer.active, range)
    return slice(layer.active.start, layer.active.stop)


def as_matrix(tensors: Iterable[Tensor]) -> Tensor:
    """[W b], [out, columns], from a layer's parameters: weight [out, ...] and bias [out], or one of them."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)


def as_parameters(matrix: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """The columns of a matrix [out, columns] shaped as the parameters that `as_matrix` puts into one."""
    shapes = [tensor.shape for tensor in like]
    parts = matrix.split([shape[1:].numel() for shape in shapes], 1)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class _KroneckerSquares(torch.autograd.Function):
    """sum over layers of <D, G D A>.

    The half gradient G D A is what the value is made of: autograd would compute as many products again.
    """

    @staticmethod
    def forward(ctx: Any, factors: list[Factors], anchors: list[list[Tensor]], *parameters: Tensor) -> Tensor:
        values, ctx.half_gradients = [], []
        remaining = iter(parameters)
        for one, its_anchors in zip(factors, anchors, strict=True):
            change = as_matrix([next(remaining) - anchor for anchor in its_anchors])
            half_gradient = one.outputs @ change @ one.inputs
            values.append(torch.dot(change.flatten(), half_gradient.flatten()))
            ctx.half_gradients += as_parameters(half_gradient, its_anchors)
        return torch.stack(values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Out of place, since autograd may call this twice for one forward (retain_graph).
        return None, None, *torch._foreach_mul(ctx.half_gradients, 2 * upstream[0])


def kronecker_squares(model: Classifier, curvature: Curvature, anchors: NamedTensors) -> Tensor:
    """The sum over layers of <D, G D A>, with D = [W b] minus its anchor.

    Args:
        model: the network.
        curvature: the factors, by the keys of the parameters in [W b].
        anchors: by key.

    Returns:
        A differentiable scalar; 0 where there are no factors.
    """
    parameters = contract_parameters(model)
    if not curvature:
        return next(iter(parameters.values())).new_zeros((), requires_grad=True)
    value: Tensor = _KroneckerSquares.apply(
        list(curvature.values()),
        [[anchors[key] for key in keys] for keys in curvature],
        *(parameters[key] for keys in curvature for key in keys),
    )
    return value
