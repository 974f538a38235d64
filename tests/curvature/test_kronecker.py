"""Kronecker factors and their penalty against naive loops over examples, labels and positions, in float64."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from naive import (
    ACTIVE,
    BATCH,
    EXAMPLES,
    NETWORKS,
    RELATIVE,
    assert_same,
    make,
    moved,
    naive_factors,
    naive_fisher,
    naive_sum,
)
from tiny import CONTEXTS, Featured, attached, examples, finished, learner, method, network, trained
from tiny import dataset as tiny_dataset
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.curvature.fisher import FisherOptions, diagonal_fisher
from clsweep.curvature.kronecker import (
    Curvature,
    Factors,
    as_parameters,
    input_statistics,
    kronecker_fisher,
    kronecker_squares,
)
from clsweep.errors import RunError
from clsweep.methods.base import Finished
from clsweep.methods.kfac_ewc import KfacEWC
from clsweep.networks import Classifier, Head, activate, equip
from clsweep.parameters import NamedTensors, contract_parameters, snapshot

# ---- the naive versions


def naive_squares(model: Classifier, curvature: Curvature, anchors: NamedTensors) -> Tensor:
    """The sum over layers of vec(D)^T (G ⊗ A) vec(D), with the Kronecker product written out."""
    parameters = contract_parameters(model)
    total = torch.zeros((), dtype=torch.float64)
    for keys, factors in curvature.items():
        parts = [(parameters[key] - anchors[key]).flatten(1) for key in keys if parameters[key].ndim > 1]
        parts += [(parameters[key] - anchors[key]).unsqueeze(1) for key in keys if parameters[key].ndim == 1]
        change = torch.cat(parts, 1).flatten()
        total = total + change @ torch.kron(factors.outputs, factors.inputs) @ change
    return total


def assert_same_factors(ours: Curvature, expected: Curvature) -> None:
    assert set(ours) == set(expected)
    for part in ("inputs", "outputs"):
        assert_same(
            {"+".join(keys): getattr(ours[keys], part) for keys in expected},
            {"+".join(keys): getattr(factors, part) for keys, factors in expected.items()},
        )


def gradients(value: Tensor, model: Classifier) -> NamedTensors:
    parameters = {key: p for key, p in contract_parameters(model).items() if p.requires_grad}
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {key: torch.zeros_like(p) if g is None else g for (key, p), g in zip(parameters.items(), found, strict=True)}


def kfac_ewc(model: Classifier) -> KfacEWC:
    """A method that has seen nothing yet."""
    made = attached(method("kfac_ewc"), model)
    assert isinstance(made, KfacEWC)
    return made


def diagonal(made: KfacEWC) -> NamedTensors:
    """The whole diagonal that a method carries, by key."""
    parameters = contract_parameters(made.model)
    whole = dict(made.diagonal)
    for keys, factors in made.curvature.items():
        parts = as_parameters(factors.diagonal, [parameters[key] for key in keys])
        assert whole.keys().isdisjoint(keys)
        whole |= dict(zip(keys, parts, strict=True))
    return whole


# ---- the factors


@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_factors_equal_the_loop_over_examples_labels_and_positions(network: str, active: range) -> None:
    model, dataset = make(network, active)
    ours, _ = kronecker_fisher(model, dataset, batch_size=BATCH)
    assert_same_factors(ours, naive_factors(model, dataset))


@pytest.mark.parametrize("network", NETWORKS)
def test_empirical_factors_equal_the_loop_over_examples(network: str) -> None:
    model, dataset = make(network, ACTIVE["one of several heads"])
    ours, _ = kronecker_fisher(model, dataset, FisherOptions(labels="empirical"), BATCH)
    assert_same_factors(ours, naive_factors(model, dataset, empirical=True))


@pytest.mark.parametrize("batch_size", [1, 5, EXAMPLES, 100])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_batch_size_does_not_change_the_factors(network: str, batch_size: int) -> None:
    model, dataset = make(network, range(6))
    ours, diagonals = kronecker_fisher(model, dataset, batch_size=batch_size)
    expected, expected_diagonals = kronecker_fisher(model, dataset, batch_size=BATCH)
    assert_same_factors(ours, expected)
    assert_same(diagonals, expected_diagonals)


def test_sampled_factors_approach_the_exact_ones() -> None:
    model, dataset = make("mlp", ACTIVE["one of several heads"])
    repeated = TensorDataset(*(tensor.repeat(400, *[1] * (tensor.ndim - 1)) for tensor in dataset.tensors))
    sampled, _ = kronecker_fisher(model, repeated, FisherOptions(labels="sampled"))
    for keys, expected in naive_factors(model, dataset).items():
        assert not torch.equal(sampled[keys].outputs, expected.outputs)
        assert (sampled[keys].outputs - expected.outputs).norm() / expected.outputs.norm() < 0.1


def test_the_number_of_examples_can_be_limited() -> None:
    model, dataset = make("cnn", range(6))
    torch.manual_seed(1)
    chosen = torch.randperm(EXAMPLES)[:3]
    torch.manual_seed(1)
    ours, _ = kronecker_fisher(model, dataset, FisherOptions(examples=3))
    assert_same_factors(ours, naive_factors(model, TensorDataset(*(tensor[chosen] for tensor in dataset.tensors))))


def test_other_layers_have_the_diagonal_fisher() -> None:
    model, dataset = make("normalized", ACTIVE["one of several heads"])
    curvature, diagonals = kronecker_fisher(model, dataset, batch_size=BATCH)
    expected = diagonal_fisher(model, dataset, batch_size=BATCH)
    factored = {key for keys in curvature for key in keys}
    assert factored | set(diagonals) == set(expected)
    assert all("norm" in key for key in diagonals)
    assert_same(diagonals, {key: value for key, value in expected.items() if "norm" in key})


def test_a_linear_layers_curvature_is_exact_for_a_single_example() -> None:
    """With one input there is nothing that A and G could vary together in."""
    model, dataset = make("mlp", range(6))
    one = TensorDataset(*(tensor[:1] for tensor in dataset.tensors))
    made = kfac_ewc(model)
    made.end_context(finished(model, one))
    assert_same(diagonal(made), diagonal_fisher(model, one))


def test_inactive_outputs_have_no_curvature() -> None:
    model, dataset = make("mlp", ACTIVE["one of several heads"])
    outputs = kronecker_fisher(model, dataset)[0]["head__weight", "head__bias"].outputs
    assert not outputs[[0, 1, 5]].any()
    assert not outputs[:, [0, 1, 5]].any()
    assert outputs[2:5, 2:5].all()


def test_a_single_class_has_no_curvature() -> None:
    model, dataset = make("cnn", range(3, 4))
    curvature, diagonals = kronecker_fisher(model, dataset)
    assert not any(factors.outputs.any() for factors in curvature.values())
    assert not any(value.any() for value in diagonals.values())
    joined = {keys: factors.plus(factors) for keys, factors in curvature.items()}
    assert all(factors.diagonal.isfinite().all() for factors in joined.values())


def test_what_is_frozen_has_no_curvature() -> None:
    model, dataset = make("cnn", range(6))
    model.get_submodule("norms").requires_grad_(False)
    whole, _ = kronecker_fisher(model, dataset)
    for frozen in ("convolutions.0.weight", "convolutions.1.weight", "hidden.0.weight", "head.bias"):
        model.get_parameter(frozen).requires_grad_(False)
    ours, diagonals = kronecker_fisher(model, dataset)
    assert diagonals == {}
    assert list(ours) == [("hidden__0__bias",), ("head__weight",)]
    hidden, head = whole["hidden__0__weight", "hidden__0__bias"], whole["head__weight", "head__bias"]
    parts: Curvature = {
        ("hidden__0__bias",): Factors(hidden.inputs[-1:, -1:], hidden.outputs),
        ("head__weight",): Factors(head.inputs[:-1, :-1], head.outputs),
    }
    assert_same_factors(ours, parts)


class OverPositions(Featured):
    """A linear layer applied to each row of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(4, 2)
        self.head = Head(4, 2)

    def features(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.rows(inputs).flatten(1)
        return values


def test_what_has_no_factors_has_a_diagonal() -> None:
    torch.manual_seed(0)
    dataset = TensorDataset(torch.randn(7, 2, 4).double(), torch.zeros(7, dtype=torch.int64))
    model = equip(OverPositions(), 2).double()
    curvature, diagonals = kronecker_fisher(model, dataset, batch_size=3)
    assert list(curvature) == [("head__weight", "head__bias")]
    expected = naive_fisher(model, dataset)
    assert_same(diagonals, {key: expected[key] for key in ("rows__weight", "rows__bias")})
    activate(model, torch.tensor([[0, 1]] * 3))
    with pytest.raises(RunError, match="same active outputs"):
        kronecker_fisher(model, TensorDataset(*(values[:3] for values in dataset.tensors)))


# ---- inputs alone


@pytest.mark.parametrize("batch_size", [1, BATCH, EXAMPLES, None])
@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_inputs_statistics_are_those_of_the_factors(network: str, active: range, batch_size: int | None) -> None:
    model, dataset = make(network, active)
    seen = input_statistics(model, dataset, batch_size)
    expected = naive_factors(model, dataset)
    assert_same(
        {"+".join(keys): value for keys, value in seen.covariances.items()},
        {"+".join(keys): factors.inputs for keys, factors in expected.items()},
    )
    of_layers = {key for keys in expected for key in keys}
    assert {*seen.others} | of_layers == {*contract_parameters(model)}
    assert of_layers.isdisjoint(seen.others)


def test_the_inputs_of_a_layer_without_a_trained_weight_are_ones() -> None:
    model, dataset = make("mlp", range(6))
    model.get_parameter("hidden.0.weight").requires_grad_(False)
    model.get_submodule("head").requires_grad_(False)
    seen = input_statistics(model, dataset)
    assert list(seen.covariances) == [("hidden__0__bias",), ("hidden__1__weight", "hidden__1__bias")]
    assert seen.covariances["hidden__0__bias",].tolist() == [[1.0]]
    assert seen.others == ()


# ---- the sum over contexts


def random_factors(seed: int, rank: int = 5) -> Factors:
    torch.manual_seed(seed)
    a, g = torch.randn(3, rank, dtype=torch.float64), torch.randn(2, rank, dtype=torch.float64)
    return Factors(a @ a.T * 10.0**seed, g @ g.T)


def product(factors: Factors) -> Tensor:
    return torch.kron(factors.outputs, factors.inputs)


def partial_traces(matrix: Tensor) -> tuple[Tensor, Tensor]:
    blocks = matrix.view(2, 3, 2, 3)
    return torch.einsum("iaja->ij", blocks), torch.einsum("iaib->ab", blocks)


def test_a_sum_keeps_the_partial_traces_in_any_order() -> None:
    parts = [random_factors(seed) for seed in range(3)]
    expected = partial_traces(torch.stack([product(part) for part in parts]).sum(0))
    for first, second, third in ([0, 1, 2], [2, 0, 1]):
        given = product(parts[first].plus(parts[second]).plus(parts[third]))
        torch.testing.assert_close(partial_traces(given), expected, rtol=1e-12, atol=0.0)


def test_a_sum_that_is_a_kronecker_product_is_exact() -> None:
    one, other = random_factors(0), random_factors(1)
    same_inputs, same_outputs = Factors(one.inputs, other.outputs), Factors(other.inputs, one.outputs)
    for second in (one, same_inputs, same_outputs):
        torch.testing.assert_close(product(one.plus(second)), product(one) + product(second), rtol=1e-12, atol=1e-12)
    nothing = Factors(torch.zeros_like(one.inputs), torch.zeros_like(one.outputs))
    for sums in (one.plus(nothing), nothing.plus(one)):
        torch.testing.assert_close(product(sums), product(one), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_penalty_after_two_contexts_is_that_of_the_naive_sum(network: str) -> None:
    """Each context with a head, examples and parameters of its own; the anchor is at the latest parameters."""
    model, dataset = make(network, range(3))
    made = kfac_ewc(model)
    curvatures, diagonals = [], []
    for number, active in enumerate((range(3), range(3, 6))):
        moved(model)
        activate(model, active)
        inputs, labels = dataset.tensors
        context = TensorDataset(inputs[: 6 + number] * (1 + number), labels[: 6 + number])
        made.end_context(finished(model, context))
        curvatures.append(naive_factors(model, context))
        diagonals.append(diagonal_fisher(model, context))
    anchors = moved(model)
    assert_same(made.anchor, anchors)
    expected = 0.5 * naive_squares(model, naive_sum(*curvatures), anchors)
    for key, p in contract_parameters(model).items():
        if "norm" in key:
            expected = expected + 0.5 * ((diagonals[0][key] + diagonals[1][key]) * (p - anchors[key]) ** 2).sum()
    given = made.penalty(is_first=False)
    torch.testing.assert_close(given, expected, rtol=RELATIVE, atol=0.0)
    assert_same(gradients(given, model), gradients(expected, model))


# ---- the penalty


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_is_that_of_the_naive_value(network: str) -> None:
    model, dataset = make(network, ACTIVE["one of several heads"])
    curvature, _ = kronecker_fisher(model, dataset)
    anchors = moved(model)
    expected = naive_squares(model, curvature, anchors)
    given = kronecker_squares(model, curvature, anchors)
    torch.testing.assert_close(given, expected, rtol=RELATIVE, atol=0.0)
    for _ in range(2):  # the graph may be used again
        assert_same(gradients(-3 * given, model), gradients(-3 * expected, model))


def test_the_penalty_of_frozen_parameters_has_no_gradient() -> None:
    model, dataset = make("cnn", range(6))
    curvature, _ = kronecker_fisher(model, dataset)
    model.get_parameter("hidden.0.weight").requires_grad_(False)
    anchors = moved(model)
    given, expected = kronecker_squares(model, curvature, anchors), naive_squares(model, curvature, anchors)
    assert_same(gradients(given, model), gradients(expected, model))


def test_without_factors_the_penalty_is_a_differentiable_zero() -> None:
    model, _ = make("mlp", range(6))
    value = kronecker_squares(model, {}, {})
    value.backward()
    assert value == 0


# ---- the method in the loop


def test_a_step_follows_the_task_and_the_penalty() -> None:
    strength = 30.0
    made = learner(method("kfac_ewc", reg_strength=strength), network(dtype=torch.float64))
    made.activate(range(2))
    made.start_context()
    made.step(*examples(6, torch.float64))
    made.end_context(tiny_dataset(dtype=torch.float64))
    anchors = snapshot(made.model)
    made.start_context()
    made.step(*examples(6, torch.float64, seed=1))
    before = deepcopy(made.model)
    inputs, labels = examples(6, torch.float64, seed=2)
    made.step(inputs, labels)
    assert isinstance(made.method, KfacEWC)
    penalty = 0.5 * naive_squares(before, made.method.curvature, anchors)
    assert penalty > 0
    expected = gradients(F.cross_entropy(before(inputs), labels) + strength * penalty, before)
    assert_same({key: p.grad for key, p in contract_parameters(made.model).items() if p.grad is not None}, expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_memory_does_not_grow_with_the_contexts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    learn = KfacEWC.learn

    def recorded(self: KfacEWC, of: Finished) -> None:
        learn(self, of)
        sizes.append(sum(one.inputs.numel() + one.outputs.numel() for one in self.curvature.values()))

    monkeypatch.setattr(KfacEWC, "learn", recorded)
    trained(method("kfac_ewc"), name=name)
    assert len(sizes) == CONTEXTS
    assert len(set(sizes)) == 1


def test_another_context_leaves_the_curvature_of_before_as_it_was() -> None:
    model, dataset = make("cnn", range(6))
    made, other = kfac_ewc(model), kfac_ewc(model)
    made.end_context(finished(model, dataset))
    other.load_state_dict(made.state_dict())
    moved(model)
    expected = made.penalty(is_first=False).item()
    assert other.penalty(is_first=False).item() == expected
    made.end_context(finished(model, dataset))
    assert other.penalty(is_first=False).item() == expected > 0


@pytest.mark.parametrize("make_network", NETWORKS.values(), ids=NETWORKS)
def test_every_parameter_has_curvature(make_network: Callable[[], nn.Module]) -> None:
    model = equip(make_network(), 6)
    made = kfac_ewc(model)
    made.end_context(finished(model, TensorDataset(torch.randn(5, 3, 6, 6), torch.zeros(5, dtype=torch.int64))))
    assert diagonal(made).keys() == contract_parameters(model).keys()
    assert all((value >= 0).all() for value in diagonal(made).values())
