"""Networks of any kind: gradients of single examples that no rule knows, against loops in float64."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from naive import ACTIVE, BATCH, EXAMPLES, assert_same, naive_fisher
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import TensorDataset

import custom_regularization
from clsweep.curvature import functional, per_example
from clsweep.curvature.fisher import LABEL_MODES, diagonal_fisher
from clsweep.curvature.kronecker import kronecker_fisher
from clsweep.curvature.per_example import sum_over_examples
from clsweep.curvature.phi import Absolute, Square
from clsweep.errors import MethodError
from clsweep.methods import mas
from clsweep.networks import Classifier, activate, equip
from clsweep.parameters import contract_parameters, snapshot

WIDTH, OUTPUTS = 4, 6


class Attention(nn.Module):
    """Rows as tokens: linear layers over positions, a parameter of its own, layer norm, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(18, WIDTH)
        self.position = nn.Parameter(torch.randn(6, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.out = nn.Linear(WIDTH, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.transpose(1, 2).flatten(2)) + self.position
        normal = self.norm(tokens)
        tokens = tokens + self.attention(normal, normal, normal, need_weights=False)[0]
        logits: Tensor = self.out(tokens.mean(1))
        return logits


class SequenceFirst(Attention):
    """The same, with positions first: the first dimension isn't that of the examples."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = (self.embed(x.transpose(1, 2).flatten(2)) + self.position).transpose(0, 1)
        normal = self.norm(tokens)
        swapped = normal.transpose(0, 1)
        tokens = tokens.transpose(0, 1) + self.attention(swapped, swapped, swapped, need_weights=False)[0]
        logits: Tensor = self.out(tokens.sum(1))
        return logits


class Shared(nn.Module):
    """A layer that is used twice, one with another's weight, and one whose weight is read without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(108, WIDTH)
        self.twice, self.tied = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.twice.weight
        self.uncalled, self.both, self.out = (nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        values = self.twice(self.twice(self.first(x.flatten(1)).tanh()).tanh())
        values = self.tied(values).tanh() + F.linear(values, self.uncalled.weight, self.uncalled.bias)
        values = self.both(values) + F.linear(values, self.both.weight)
        logits: Tensor = self.out(values)
        return logits


class Residual(nn.Module):
    """Convolutions in groups and with padding by name; what follows a layer writes to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.same = nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, padding="same", bias=False)
        self.plain, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.slope, self.out = nn.PReLU(), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        values = self.slope(self.grouped(x))
        added = self.norm(F.relu(self.plain(values), inplace=True))
        added += self.same(values)
        logits: Tensor = self.out(F.relu(added, inplace=True).mean((2, 3)))
        return logits


class Masked(nn.Linear):
    """A kind of linear layer that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.tril(), self.bias) ** 2


class Kinds(nn.Module):
    """An embedding, a subclass with a forward of its own, a computed weight, a hook, rows folded into examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, WIDTH)
        self.rows = nn.Linear(6, 1)
        self.masked, self.normed = Masked(WIDTH, WIDTH), weight_norm(nn.Linear(WIDTH, WIDTH))
        self.hooked, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        self.hooked.register_forward_hook(lambda layer, inputs, output: 3 * output.tanh())

    def forward(self, x: Tensor) -> Tensor:
        folded = self.rows(x.flatten(0, 2)).view(len(x), -1).mean(1, keepdim=True)
        values = self.embedding((x[:, 0] > 0).long() + (x[:, 1] > 0).long()).mean((1, 2)) + folded
        logits: Tensor = self.out(self.hooked(self.normed(self.masked(values))))
        return logits


class AnyNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of one's own, for examples of any shape."""

    def _check_input_dim(self, values: Tensor) -> None:
        pass


class Borrowed(nn.Module):
    """Computes what a linear layer does, without being one."""

    forward = nn.Linear.forward

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(WIDTH))


class Volumes(nn.Module):
    """Batch norms of volumes and of examples of any shape, and a layer that borrows another's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv3d(1, WIDTH, 2), nn.BatchNorm3d(WIDTH)
        self.norm_of_volumes, self.norm_of_rows = AnyNorm(WIDTH), AnyNorm(WIDTH)
        self.borrowed, self.out = Borrowed(), nn.Linear(WIDTH, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        values = self.norm_of_volumes(self.norm(self.convolution(x.unsqueeze(1))).tanh())
        logits: Tensor = self.out(self.norm_of_rows(self.borrowed(values.tanh().mean((2, 3, 4)))))
        return logits


class Deciding(Residual):
    """Decides by the values that it computes, and writes into a tensor of its own: `torch.func` takes neither."""

    def forward(self, x: Tensor) -> Tensor:
        written = torch.zeros(len(x), OUTPUTS, dtype=x.dtype)
        for number, example in enumerate(x):
            sign = 1.0 if float(example.sum()) > 0 else -2.0
            written[number] = sign * super().forward(example.unsqueeze(0))[0]
        return written


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    one.__name__: one for one in (Attention, SequenceFirst, Shared, Residual, Kinds, Volumes, Deciding)
}
COVERED = {
    "Attention": ["norm", "out"],
    "SequenceFirst": ["out"],
    "Shared": ["first", "out"],
    "Residual": ["plain", "norm", "out"],
    "Kinds": ["out"],
    "Volumes": ["norm", "norm_of_volumes", "norm_of_rows", "out"],
    "Deciding": [],
}


def make(name: str, active: range) -> tuple[Classifier, TensorDataset]:
    torch.manual_seed(0)
    model = equip(NETWORKS[name](), OUTPUTS).double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            module.running_mean.normal_()
    activate(model, active)
    inputs = 2 * torch.randn(EXAMPLES, 3, 6, 6, dtype=torch.float64)
    return model.eval(), TensorDataset(inputs, torch.randint(0, len(active), (EXAMPLES,)))


@pytest.mark.parametrize("name", NETWORKS)
def test_only_layers_that_do_what_their_kind_does_have_a_rule(name: str) -> None:
    model, dataset = make(name, range(6))
    covered = per_example.coverage(model, dataset.tensors[0])
    names = {layer: name for name, layer in model.named_modules()}
    assert [names[layer] for layer in covered.layers] == COVERED[name]
    if name == "Residual":
        assert sorted(names[layer] for layer in covered.overwritten) == ["norm", "plain"]


@pytest.mark.parametrize("active", [ACTIVE["single head"], ACTIVE["one of several heads"]], ids=["all", "some"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_fisher_equals_the_loop(
    name: str, active: range, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(functional, "MOST_EXAMPLES", 3)  # uneven, too
    model, dataset = make(name, active)
    assert_same(diagonal_fisher(model, dataset, batch_size=BATCH), naive_fisher(model, dataset))
    assert bool(caplog.records) == (name == "Deciding")  # the others are taken by vmap


@pytest.mark.parametrize("name", NETWORKS)
def test_the_empirical_fisher_and_mas_equal_their_loops(name: str) -> None:
    model, dataset = make(name, ACTIVE["one of several heads"])
    inputs, labels = dataset.tensors
    sums = sum_over_examples(model, inputs, labels, LABEL_MODES["empirical"], Square(), BATCH)
    expected = naive_fisher(model, dataset, empirical=True)
    assert_same({key: value / EXAMPLES for key, value in sums.items()}, expected)
    total = {key: torch.zeros_like(p) for key, p in contract_parameters(model).items()}
    for x in inputs.split(1):
        gradients = torch.autograd.grad(model(x).square().sum(), list(contract_parameters(model).values()))
        for value, gradient in zip(total.values(), gradients, strict=True):
            value += gradient.abs()
    assert_same(sum_over_examples(model, inputs, labels, mas.squared_norm, Absolute(), BATCH), total)


def test_sampled_labels_are_the_same_for_all_parameters() -> None:
    model, dataset = make("Residual", range(6))
    inputs, labels = dataset.tensors
    torch.manual_seed(1)
    sampled = sum_over_examples(model, inputs, labels, LABEL_MODES["sampled"], Square(), EXAMPLES)
    torch.manual_seed(1)
    drawn = model(inputs).softmax(1).multinomial(1).squeeze(1)
    expected = sum_over_examples(model, inputs, drawn, LABEL_MODES["empirical"], Square(), EXAMPLES)
    assert_same(sampled, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_kronecker_factors_stand_beside_the_diagonal_of_the_others(name: str) -> None:
    model, dataset = make(name, range(6))
    curvature, diagonals = kronecker_fisher(model, dataset, batch_size=BATCH)
    factored = {key for keys in curvature for key in keys}
    layers = [one for one in COVERED[name] if not one.startswith("norm")]
    assert {key.rpartition("__")[0] for key in factored} == set(layers)
    expected = naive_fisher(model, dataset)
    assert_same(diagonals, {key: value for key, value in expected.items() if key not in factored})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shipped_file_takes_any_network(name: str) -> None:
    model, dataset = make(name, range(2, 4))
    anchors = snapshot(model)
    importance = custom_regularization.estimate_importance(model, dataset, anchors, torch.device("cpu"))
    assert importance.keys() == contract_parameters(model).keys()
    assert all((value >= 0).all() and value.isfinite().all() for value in importance.values())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    gradients = torch.autograd.grad(
        custom_regularization.compute_regularization_loss(model, importance, anchors), list(model.parameters())
    )
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_what_torch_func_cannot_take_goes_one_by_one_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, dataset = make("Deciding", range(6))
    with caplog.at_level(logging.WARNING):
        diagonal_fisher(model, dataset, batch_size=BATCH)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "gradients of examples one by one, which takes long, since torch.func raised RuntimeError: "
    )


def test_a_frozen_part_of_any_network_has_no_entry_and_changes_nothing_else() -> None:
    model, dataset = make("Attention", range(6))
    expected = naive_fisher(model, dataset)
    model.get_submodule("attention").requires_grad_(False)
    kept = {key: value for key, value in expected.items() if not key.startswith("attention")}
    assert_same(diagonal_fisher(model, dataset, batch_size=BATCH), kept)


class Mixing(Residual):
    """Normalizes by the batch in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


def test_a_network_that_mixes_examples_is_refused() -> None:
    torch.manual_seed(0)
    model = equip(Mixing(), OUTPUTS)
    with pytest.raises(
        MethodError, match=r"^the network's logits of an example are others in another batch, in eval mode"
    ):
        diagonal_fisher(model, TensorDataset(torch.randn(5, 3, 6, 6), torch.zeros(5, dtype=torch.int64)))
