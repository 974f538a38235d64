"""The estimators against naive loops over examples and labels, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from naive import (
    ACTIVE,
    BATCH,
    EXAMPLES,
    NETWORKS,
    assert_same,
    gradients_of,
    make,
    naive_batched,
    naive_fisher,
)
from tiny import Featured, importance, method
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.curvature import per_example
from clsweep.curvature.fisher import (
    LABEL_MODES,
    DiagonalOptions,
    FisherOptions,
    diagonal_fisher,
    exact,
)
from clsweep.networks import Head, equip
from clsweep.parameters import contract_parameters


@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("network", NETWORKS)
def test_exact_fisher_equals_the_loop_over_examples_and_labels(network: str, active: range) -> None:
    model, dataset = make(network, active)
    assert_same(diagonal_fisher(model, dataset, batch_size=BATCH), naive_fisher(model, dataset))


@pytest.mark.parametrize("pairs_per_weighting", [0, 1_000], ids=["formed", "multiplied out"])
@pytest.mark.parametrize("network", ["cnn", "normalized"])
def test_both_ways_through_a_convolution_equal_the_loop(
    network: str, pairs_per_weighting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_example, "PAIRS_PER_WEIGHTING", pairs_per_weighting)
    model, dataset = make(network, ACTIVE["one of several heads"])
    assert_same(diagonal_fisher(model, dataset, batch_size=BATCH), naive_fisher(model, dataset))


def test_the_fisher_of_a_single_class_is_zero() -> None:
    model, dataset = make("cnn", range(3, 4))
    assert not any(value.any() for value in diagonal_fisher(model, dataset, batch_size=BATCH).values())


def test_gradients_may_be_switched_off_around_it() -> None:
    model, dataset = make("cnn", range(6))
    with torch.no_grad():
        ours = diagonal_fisher(model, dataset, batch_size=BATCH)
    assert_same(ours, naive_fisher(model, dataset))


@pytest.mark.parametrize("network", NETWORKS)
def test_empirical_fisher_equals_the_loop_over_examples(network: str) -> None:
    model, dataset = make(network, ACTIVE["one of several heads"])
    ours = diagonal_fisher(model, dataset, FisherOptions(labels="empirical"), BATCH)
    assert_same(ours, naive_fisher(model, dataset, empirical=True))


@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("network", NETWORKS)
def test_squares_of_batches_equal_the_loop_over_examples(network: str, active: range) -> None:
    """Drawn at random, the last one shorter, each counting alike."""
    model, dataset = make(network, active)
    torch.manual_seed(1)
    drawn = torch.randperm(EXAMPLES).split(BATCH)
    assert [len(batch) for batch in drawn] == [4, 4, 3]
    torch.manual_seed(1)
    ours = diagonal_fisher(model, dataset, DiagonalOptions(labels="batched", batch_size=BATCH))
    assert_same(ours, naive_batched(model, dataset, drawn))


def test_squares_of_batches_of_one_are_the_empirical_fisher() -> None:
    model, dataset = make("normalized", range(6))
    ours = diagonal_fisher(model, dataset, DiagonalOptions(labels="batched", batch_size=1))
    assert_same(ours, naive_fisher(model, dataset, empirical=True))


def test_a_batch_has_128_examples_and_they_may_be_some_of_all() -> None:
    model, dataset = make("mlp", range(6))
    many = TensorDataset(*(tensor.repeat(30, *[1] * (tensor.ndim - 1)) for tensor in dataset.tensors))
    torch.manual_seed(1)
    chosen = torch.randperm(len(many))[:200]
    order = torch.randperm(200)
    torch.manual_seed(1)
    with torch.no_grad():
        ours = diagonal_fisher(model, many, DiagonalOptions(labels="batched", examples=200))
    assert_same(ours, naive_batched(model, many, [chosen[batch] for batch in order.split(128)]))


def test_squares_of_batches_are_of_what_is_trained() -> None:
    model, dataset = make("cnn", range(6))
    options = DiagonalOptions(labels="batched", batch_size=EXAMPLES)
    expected = naive_batched(model, dataset, [torch.arange(EXAMPLES)])
    model.get_submodule("convolutions").requires_grad_(False)
    trained = {key: value for key, value in expected.items() if not key.startswith("convolutions")}
    assert_same(diagonal_fisher(model, dataset, options), trained)
    model.requires_grad_(False)
    assert diagonal_fisher(model, dataset, options) == {}


@pytest.mark.parametrize("network", NETWORKS)
def test_mas_equals_the_loop_over_examples(network: str) -> None:
    model, dataset = make(network, ACTIVE["one of several heads"])
    model.eval()
    expected = {key: torch.zeros_like(p) for key, p in contract_parameters(model).items()}
    for x in dataset.tensors[0]:
        for key, gradient in gradients_of(model(x.unsqueeze(0)).square().sum(), model).items():
            expected[key] += gradient.abs() / len(dataset)
    assert_same(importance(method("mas"), model, dataset), expected)


@pytest.mark.parametrize("batch_size", [1, 5, EXAMPLES, 100])
def test_the_batch_size_does_not_change_the_fisher(batch_size: int) -> None:
    model, dataset = make("cnn", range(6))
    assert_same(
        diagonal_fisher(model, dataset, batch_size=batch_size), diagonal_fisher(model, dataset, batch_size=BATCH)
    )


def test_sampled_fisher_approaches_the_exact_one() -> None:
    model, dataset = make("mlp", ACTIVE["one of several heads"])
    repeated = TensorDataset(*(tensor.repeat(400, *[1] * (tensor.ndim - 1)) for tensor in dataset.tensors))
    drawn = diagonal_fisher(model, repeated, FisherOptions(labels="sampled"))
    sampled = torch.cat([value.flatten() for value in drawn.values()])
    expected = torch.cat([value.flatten() for value in naive_fisher(model, dataset).values()])
    assert not torch.equal(sampled, expected)
    assert (sampled - expected).norm() / expected.norm() < 0.1  # 4,400 draws: the standard error is about 0.03


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_exact_weightings_are_a_factor_of_the_label_covariance(classes: int) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(20, classes, dtype=torch.float64)
    p = logits.softmax(1)
    columns = torch.stack(list(exact(logits, torch.zeros(20))), dim=2)
    assert columns.shape == (20, classes, classes - 1)
    covariance = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    torch.testing.assert_close(columns @ columns.mT, covariance, rtol=1e-12, atol=1e-15)


def test_a_confident_prediction_keeps_its_small_fisher_in_float32() -> None:
    """With p = 1 - 2e-9, 1 - p is 0 in float32; the weightings must not lose it."""
    logits = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    (column,) = exact(logits, torch.zeros(2))
    expected = logits.double().softmax(1).prod(1).sqrt().float()
    torch.testing.assert_close(column.abs(), expected.unsqueeze(1).expand(2, 2), rtol=1e-5, atol=0)


def test_extreme_logits_give_finite_weightings() -> None:
    for column in exact(torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 1e4]]), torch.zeros(2)):
        assert torch.isfinite(column).all()


@pytest.mark.parametrize("mode", ["sampled", "empirical"])
def test_single_label_weightings_are_one_hot_minus_p(mode: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 4), torch.randint(0, 4, (50,))
    (weighting,) = LABEL_MODES[mode](logits, labels)
    one_hot = weighting + logits.softmax(1)
    torch.testing.assert_close(one_hot.max(1).values, torch.ones(50))
    torch.testing.assert_close(one_hot.sum(1), torch.ones(50))
    assert mode == "sampled" or torch.equal(one_hot.argmax(1), labels)


def test_the_number_of_examples_can_be_limited() -> None:
    model, dataset = make("mlp", range(6))
    torch.manual_seed(1)
    chosen = torch.randperm(EXAMPLES)[:3]
    torch.manual_seed(1)
    expected = naive_fisher(model, TensorDataset(*(tensor[chosen] for tensor in dataset.tensors)))
    assert_same(diagonal_fisher(model, dataset, FisherOptions(examples=3)), expected)


@pytest.mark.parametrize("count", [5, EXAMPLES])
def test_all_examples_are_used_up_to_the_named_cap(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clsweep.curvature.fisher.MAX_EXAMPLES", 5)
    model, dataset = make("mlp", range(6))
    given = TensorDataset(*(tensor[:count] for tensor in dataset.tensors))
    torch.manual_seed(1)
    chosen = torch.arange(5) if count == 5 else torch.randperm(count)[:5]
    torch.manual_seed(1)
    expected = naive_fisher(model, TensorDataset(*(tensor[chosen] for tensor in dataset.tensors)))
    assert_same(diagonal_fisher(model, given), expected)


def test_frozen_parameters_have_no_entry() -> None:
    model, dataset = make("cnn", range(6))
    expected = naive_fisher(model, dataset)
    for frozen in ("convolutions", "norms"):
        model.get_submodule(frozen).requires_grad_(False)
    trained = {key: value for key, value in expected.items() if key.startswith(("hidden", "head"))}
    assert_same(diagonal_fisher(model, dataset, batch_size=BATCH), trained)


def test_inactive_outputs_have_no_importance() -> None:
    model, dataset = make("mlp", ACTIVE["one of several heads"])
    fisher = diagonal_fisher(model, dataset)
    assert not fisher["head__weight"][[0, 1, 5]].any()
    assert fisher["head__weight"][2:5].any()


class UsedTwice(Featured):
    """One layer at two places: its per-example gradient is a sum over both."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.head = Head(4, 2)

    def features(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.shared(F.relu(self.shared(inputs)))
        return values


class Tied(UsedTwice):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.other.weight = self.shared.weight

    def features(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.other(F.relu(self.shared(inputs)))
        return values


def test_layers_may_share_what_is_frozen() -> None:
    model = equip(Tied(), 2).double()
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dataset = TensorDataset(inputs, torch.zeros(5, dtype=torch.int64))
    expected = naive_fisher(model, dataset)
    model.get_parameter("shared.weight").requires_grad_(False)
    del expected["shared__weight"]
    assert_same(diagonal_fisher(model, dataset, batch_size=2), expected)
