"""OWM, GPM and NCL against the papers' formulas, example by example and with explicit matrices, in float64."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from naive import NETWORKS, input_rows, keys_of, make, moved, naive_factors, naive_sum
from tiny import Featured, attached, built_in, finished, learner, method, network, optimizer, trained_learner
from tiny import dataset as tiny_dataset
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from clsweep.config import RegularizerConfig
from clsweep.curvature.fisher import diagonal_fisher
from clsweep.curvature.heads import _units_on_and_off, head_parameters
from clsweep.curvature.kronecker import Curvature, Keys, as_matrix
from clsweep.errors import MethodError
from clsweep.methods.base import BuiltIn
from clsweep.methods.gpm import GPM
from clsweep.methods.loading import load
from clsweep.methods.preconditioned import Preconditioned
from clsweep.networks import Classifier, activate, equip
from clsweep.optimizers import KEY, OptimizerSetting
from clsweep.parameters import NamedTensors, contract_parameters, snapshot

Changes = dict[Keys, Callable[[Tensor], Tensor]]

NAMES = ("owm", "gpm", "ncl")
ALPHA, SHARE, RISE, STRENGTH, SIZE = 0.05, 0.7, 0.1, 3.0, 40.0
CONFIGS = {
    "owm": method("owm", alpha=ALPHA),
    "gpm": method("gpm", threshold=SHARE, rise=RISE),
    "ncl": method("ncl", reg_strength=STRENGTH, data_size=SIZE),
}
# Of two contexts that have been, and of the one that is trained now.
SINGLE_HEAD = (range(6), range(6), range(6))
OWN_HEADS = (range(2), range(2, 4), range(4, 6))
GROWING_HEAD = (range(2), range(4), range(6))
networks = pytest.mark.parametrize("name", NETWORKS)


def layers_of(model: Classifier) -> dict[str, nn.Module]:
    return {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}


def inputs_of(model: Classifier, dataset: TensorDataset) -> dict[Keys, list[list[Tensor]]]:
    """What each layer's weights are multiplied with, of each example, one example at a time."""
    model.eval()
    layers, seen = layers_of(model), dict[nn.Module, Tensor]()

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[layer] = inputs[0].detach()[0]

    handles = [layer.register_forward_hook(record) for layer in layers.values()]
    found: dict[Keys, list[list[Tensor]]] = {keys_of(name, layer): [] for name, layer in layers.items()}
    for x in dataset.tensors[0]:
        model(x.unsqueeze(0))
        for name, layer in layers.items():
            found[keys_of(name, layer)].append(input_rows(layer, seen[layer]))
    for handle in handles:
        handle.remove()
    return found


def owm_of(model: Classifier, contexts: list[dict[Keys, list[list[Tensor]]]]) -> Changes:
    """The recursive least squares of the paper, one input after the other."""
    changes: Changes = {}
    for keys in contexts[0]:
        p = torch.eye(len(contexts[0][keys][0][0]), dtype=torch.float64)
        for context in contexts:
            for rows in context[keys]:
                for x in rows:
                    k = p @ x
                    p = p - torch.outer(k, k) / (len(context[keys]) * ALPHA + x @ k)
        changes[keys] = lambda gradient, p=p: gradient @ p  # type: ignore[misc]
    return changes


def gpm_of(model: Classifier, contexts: list[dict[Keys, list[list[Tensor]]]]) -> Changes:
    """Singular vectors of the representations, added one by one until they hold the share."""
    changes: Changes = {}
    for keys in contexts[0]:
        basis: list[Tensor] = []
        for number, context in enumerate(contexts):
            r = torch.stack([x for rows in context[keys] for x in rows], 1)
            known = torch.stack(basis, 1) if basis else r.new_zeros(len(r), 1)
            rest = r - known @ known.T @ r
            u, s, _ = torch.linalg.svd(rest, full_matrices=False)
            held = float((r**2).sum() - (rest**2).sum())
            for direction, value in zip(u.T, s, strict=True):
                if held >= (SHARE + number * RISE) * float((r**2).sum()):
                    break
                basis.append(direction)
                held += float(value**2)
        m = torch.stack(basis, 1)
        changes[keys] = lambda gradient, m=m: gradient - gradient @ m @ m.T  # type: ignore[misc]
    return changes


OF_INPUTS = {"owm": owm_of, "gpm": gpm_of}


def gradient_of(model: Classifier, dataset: TensorDataset) -> NamedTensors:
    """Of the mean loss, one example at a time."""
    model.eval()
    parameters = contract_parameters(model)
    total = {key: torch.zeros_like(p) for key, p in parameters.items()}
    for x, y in zip(*dataset.tensors, strict=True):
        loss = F.cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0)) / len(dataset)
        found = torch.autograd.grad(loss, list(parameters.values()))
        for key, gradient in zip(parameters, found, strict=True):
            total[key] += gradient
    return total


def some(dataset: TensorDataset, number: int, outputs: range) -> TensorDataset:
    """A context's examples, others and another number for each."""
    inputs, labels = dataset.tensors
    chosen = torch.arange(len(inputs) - 2 * number)
    return TensorDataset(inputs[chosen].roll(number, 2) * (1 + number), labels[chosen] % len(outputs))


def with_gradient(made: BuiltIn, dataset: TensorDataset, outputs: range) -> NamedTensors:
    """Put the gradient of a context that begins now into `grad`, and let the method change it; what it was."""
    activate(made.model, outputs)
    made.active_outputs = outputs
    before = gradient_of(made.model, dataset)
    for key, p in contract_parameters(made.model).items():
        p.grad = before[key].clone(memory_format=torch.preserve_format)
    made.transform()
    return before


def end(made: BuiltIn, dataset: TensorDataset, outputs: range) -> None:
    """End a context."""
    made.active_outputs = outputs
    made.end_context(finished(made.model, dataset))


def learned(name: str, network: str, active: tuple[range, ...]) -> tuple[BuiltIn, list[TensorDataset], list[Curvature]]:
    """A method that has seen two contexts, each with parameters and examples of its own; its curvatures, naively."""
    model, dataset = make(network, active[0])
    made = built_in(attached(CONFIGS[name], model))
    parts = [some(dataset, number, outputs) for number, outputs in enumerate(active)]
    factors = []
    for outputs, part in zip(active[:-1], parts[:-1], strict=True):
        moved(model)
        activate(model, outputs)
        if name == "ncl":
            factors.append(naive_factors(model, part))
        end(made, part, outputs)
    moved(model)
    return made, parts, factors


def close(ours: Tensor | None, expected: Tensor, what: str) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()), msg=what)


# ---- the projections


@pytest.mark.parametrize("active", [SINGLE_HEAD, OWN_HEADS, GROWING_HEAD], ids=["single", "own", "growing"])
@networks
@pytest.mark.parametrize("method_name", OF_INPUTS)
def test_the_projected_gradient_is_that_of_the_paper(method_name: str, name: str, active: tuple[range, ...]) -> None:
    model, dataset = make(name, active[0])
    made = built_in(attached(CONFIGS[method_name], model))
    seen = []
    for number, outputs in enumerate(active[:-1]):
        moved(model)
        activate(model, outputs)
        part = some(dataset, number, outputs)
        seen.append(inputs_of(model, part))
        end(made, part, outputs)
    moved(model)
    before = with_gradient(made, some(dataset, 2, active[-1]), active[-1])

    changes, parameters = OF_INPUTS[method_name](model, seen), contract_parameters(model)
    if active is OWN_HEADS:
        del changes["head__weight", "head__bias"]
    for keys, change in changes.items():
        matrix = torch.cat([before[key].reshape(len(before[key]), -1) for key in keys], 1)
        expected = change(matrix)
        assert not torch.allclose(expected, matrix)
        ours = torch.cat([parameters[key].grad.reshape(len(matrix), -1) for key in keys], 1)  # type: ignore[union-attr]
        close(ours, expected, " ".join(keys))
    projected = {key for keys in changes for key in keys}
    for key in parameters.keys() - projected:
        if key.startswith("head"):
            close(parameters[key].grad, before[key], key)
            assert before[key].any()
        else:
            assert "norm" in key
            assert parameters[key].grad is None


def test_a_layers_outputs_for_earlier_inputs_stay_where_all_of_them_are_held() -> None:
    """With SGD, and as many directions as the inputs have."""
    config = method("gpm", threshold=1.0, rise=0.0)
    made = learner(config, network(n_outputs=2, dtype=torch.float64), by=optimizer("SGD", lr=0.3))
    first, second = (tiny_dataset(n, torch.float64, seed=n) for n in (4, 9))
    held, losses = [], []
    for data in (first, second):
        made.start_context()
        for _ in range(20):
            losses.append(float(made.step(*data.tensors)))
        made.end_context(data)
        held.append(made.logits(first.tensors[0]).detach())
    torch.testing.assert_close(*held, rtol=1e-9, atol=1e-9)
    assert losses[-1] < losses[20] - 0.05


@pytest.mark.parametrize("shows_all", [False, True])
def test_a_head_of_ones_own_is_told_by_the_outputs_of_the_loss(shows_all: bool) -> None:
    """Whichever logits the network gives."""
    made = learner(method("owm", alpha=1e-6), network(), by=optimizer("SGD", lr=0.1))
    made._shows_all = shows_all
    start = snapshot(made.model)
    for number in range(2):
        made.activate(range(2 * number, 2 * number + 2))
        made.start_context()
        for _ in range(3):
            inputs, labels = tiny_dataset(40, seed=number).tensors
            made.step(inputs, labels)
        made.end_context(tiny_dataset(40, seed=number))
        changes = (made.model.head.weight.detach() - start["head__weight"]).norm(dim=1)
    assert changes[2:4].min() > 0.1 * changes[:2].max()
    assert not changes[4:].any()


class Own(nn.Module):
    """Ends in a linear layer of its own, whose logits are then chosen from."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.out = self.made()

    def made(self) -> nn.Module:
        return nn.Linear(8, 6)

    def logits(self, features: Tensor) -> Tensor:
        given: Tensor = self.out(features)
        return given

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.first(images.flatten(1)).relu())


class Halved(Own):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features) / 2


class Normalized(Own):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features).log_softmax(1)


class Several(Own):
    """A head for every two outputs."""

    def made(self) -> nn.Module:
        return nn.ModuleList(nn.Linear(8, 2) for _ in range(3))

    def logits(self, features: Tensor) -> Tensor:
        assert isinstance(self.out, nn.ModuleList)
        return torch.cat([one(features) for one in self.out], 1)


class Deep(Several):
    """Heads of more than a layer, of which one can't be projected."""

    def made(self) -> nn.Module:
        return nn.ModuleList(
            nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(3)
        )


class Cosine(Own):
    """No layer: a parameter."""

    def made(self) -> nn.Module:
        return nn.ParameterList([torch.randn(6, 8)])

    def logits(self, features: Tensor) -> Tensor:
        assert isinstance(self.out, nn.ParameterList)
        return F.normalize(features) @ F.normalize(self.out[0]).T


class Checkpointed(Own):
    """Keeps nothing of its head, which is computed once more for its gradient."""

    def logits(self, features: Tensor) -> Tensor:
        given: Tensor = checkpoint(super().logits, features, use_reentrant=False)
        return given


@pytest.mark.parametrize("name", OF_INPUTS)
@pytest.mark.parametrize("kind", [Own, Halved, Normalized, Several, Deep, Cosine, Checkpointed])
def test_the_head_of_any_network_is_free_where_it_is_the_contexts_own(kind: type[Own], name: str) -> None:
    torch.manual_seed(0)
    made = built_in(attached(CONFIGS[name], equip(kind(), 6)))
    activate(made.model, range(2))
    end(made, tiny_dataset(), range(2))
    for outputs, is_free in ((range(2, 4), True), (range(1, 3), False)):
        made.applied = None  # type: ignore[attr-defined]
        before = with_gradient(made, tiny_dataset(), outputs)
        given = {key: p.grad for key, p in contract_parameters(made.model).items()}
        heads = [key for key, value in before.items() if key.startswith("out") and value.any()]
        assert heads
        for key in heads:
            assert (given[key] is not None and torch.equal(given[key], before[key])) is is_free  # type: ignore[arg-type]
        assert not torch.equal(given["first__weight"], before["first__weight"])  # type: ignore[arg-type]


def test_a_unit_that_is_off_for_the_examples_seen_is_no_head() -> None:
    model = equip(Own(), 6)
    model.get_submodule("first").requires_grad_(False)
    model.get_parameter("first.bias").fill_(-1e3)
    model.get_submodule("first").requires_grad_(True)
    assert head_parameters(model.eval(), tiny_dataset().tensors[0], [0, 1]) == ["out__weight", "out__bias"]
    assert head_parameters(model, tiny_dataset().tensors[0], range(6)) == []


def test_a_checkpointed_part_is_computed_again_as_it_was() -> None:
    """Its units are on and off as before: else a unit's gradient would not be that of the logits."""
    torch.manual_seed(0)
    model = Checkpointed()
    inputs = torch.randn(4, 16)
    found = []
    for kind in (Checkpointed, Own):
        one = kind()
        one.load_state_dict(model.state_dict())
        with _units_on_and_off(one):
            logits = one(inputs)
            found.append(torch.autograd.grad(logits.square().sum(), list(one.parameters())))
    for again, once in zip(*found, strict=True):
        torch.testing.assert_close(again, once)


def test_a_head_that_cannot_be_projected_is_told_not_to_be_frozen_where_it_is_the_contexts_own() -> None:
    made = attached(CONFIGS["owm"], equip(Cosine(), 6))
    activate(made.model, range(2))
    end(built_in(made), tiny_dataset(), range(2))
    assert made.additions() == [
        "regularizer=owm projects the gradients of first, and freezes out, which it can't project, after the first "
        "context, but for out where a context has outputs of its own"
    ]


# ---- natural continual learning


def explicit_precision(curvatures: list[Curvature]) -> dict[Keys, Tensor]:
    """Lambda of each layer, [out * columns, out * columns]."""
    first, second = curvatures
    precision = {}
    for keys, fisher in naive_sum(first, second).items():
        columns, seen = len(fisher.inputs), [row for row, value in enumerate(fisher.outputs.diagonal()) if value > 0]
        outputs = fisher.outputs[seen][:, seen]
        means = [float(side.diagonal().mean()) for side in (fisher.inputs, outputs)]
        pi = (means[0] / means[1]) ** 0.5
        inputs = fisher.inputs + pi / SIZE**0.5 * torch.eye(columns, dtype=torch.float64)
        outputs = outputs + 1 / (pi * SIZE**0.5) * torch.eye(len(outputs), dtype=torch.float64)
        # The prior alone for outputs that no context had.
        precision[keys] = torch.eye(len(fisher.outputs) * columns, dtype=torch.float64) / SIZE
        places = [row * columns + column for row in seen for column in range(columns)]
        precision[keys][torch.tensor(places)[:, None], places] = torch.kron(outputs, inputs)
    return precision


@pytest.mark.parametrize("active", [SINGLE_HEAD, OWN_HEADS], ids=["single", "own"])
@networks
def test_a_step_is_the_preconditioned_gradient_of_loss_and_prior(name: str, active: tuple[range, ...]) -> None:
    made, parts, curvatures = learned("ncl", name, active)
    model = made.model
    parameters, anchor, diagonals = (
        contract_parameters(model),
        made.state_dict()["anchor"],
        made.state_dict()["diagonal"],
    )
    before = with_gradient(made, parts[-1], active[-1])
    squares = made.squares()
    for keys, precision in explicit_precision(curvatures).items():
        change = as_matrix([parameters[key].detach() - anchor[key] for key in keys])
        gradient = as_matrix([before[key] for key in keys])
        whole = gradient.flatten() + STRENGTH * precision @ change.flatten()
        expected = (torch.linalg.inv(precision) @ whole / SIZE).view_as(gradient)
        ours = as_matrix([parameters[key].grad for key in keys])  # type: ignore[misc]
        pull = as_matrix([2 * STRENGTH * squares.coefficients[key] for key in keys]) * change
        close(ours + pull, expected, " ".join(keys))
    assert all("norm" in key for key in diagonals)
    for key, fisher in diagonals.items():
        precision = 1 / SIZE + fisher
        whole = before[key] + STRENGTH * precision * (parameters[key].detach() - anchor[key])
        pull = 2 * STRENGTH * squares.coefficients[key] * (parameters[key].detach() - anchor[key])
        close(parameters[key].grad + pull, whole / (SIZE * precision), key)


@networks
def test_a_head_to_come_is_trained_as_by_the_prior_alone(name: str) -> None:
    """Whatever the features' curvature: I / n + F is I / n in its rows."""
    made, parts, curvatures = learned("ncl", name, OWN_HEADS)
    before = with_gradient(made, parts[-1], OWN_HEADS[-1])
    new, keys = list(OWN_HEADS[-1]), next(one for one in curvatures[0] if "head__weight" in one)
    assert not naive_sum(*curvatures)[keys].outputs[new].any()
    for key in keys:
        given = contract_parameters(made.model)[key].grad
        assert given is not None
        assert before[key][new].any()
        assert torch.equal(given[new], before[key][new])
    learned_before = [row for outputs in OWN_HEADS[:-1] for row in outputs]
    assert not before["head__weight"][learned_before].any()  # such a context has no gradient there


@pytest.mark.parametrize("kind", [Own, Halved, Several, Deep])
def test_a_head_to_come_is_trained_as_by_the_prior_alone_in_any_network(kind: type[Own]) -> None:
    torch.manual_seed(0)
    made = built_in(attached(CONFIGS["ncl"], equip(kind(), 6)))
    activate(made.model, range(2))
    end(made, tiny_dataset(), range(2))
    before = with_gradient(made, tiny_dataset(), range(2, 4))
    given = {key: p.grad for key, p in contract_parameters(made.model).items()}
    heads = [key for key, value in before.items() if key.startswith("out") and value.any()]
    assert heads
    assert all(torch.equal(given[key], before[key]) for key in heads)  # type: ignore[arg-type]
    assert not torch.equal(given["first__weight"], before["first__weight"])  # type: ignore[arg-type]


def test_the_diagonals_are_the_fishers() -> None:
    model, dataset = make("normalized", range(6))
    made = built_in(attached(CONFIGS["ncl"], model))
    total: NamedTensors = {}
    for _ in range(2):
        moved(model)
        fisher = diagonal_fisher(model, dataset)
        total = {key: total[key] + value if total else value for key, value in fisher.items()}
        made.end_context(finished(model, dataset))
    for key, value in made.state_dict()["diagonal"].items():
        close(value, total[key], key)


def test_the_prior_alone_leaves_steps_as_they_are() -> None:
    """Where no context has any curvature, as with a single class."""
    made = built_in(attached(CONFIGS["ncl"], network(dtype=torch.float64)))
    activate(made.model, range(1))
    made.end_context(
        finished(made.model, TensorDataset(tiny_dataset(5, torch.float64).tensors[0], torch.zeros(5).long()))
    )
    before = with_gradient(made, tiny_dataset(7, torch.float64), range(2, 4))
    for key, p in contract_parameters(made.model).items():
        close(p.grad, before[key], key)


def with_two_names(model: Classifier) -> Classifier:
    """The network, whose head's weight has a second name."""
    model.param_list = [*model.param_list, lambda: iter([("alias", model.get_parameter("head.weight"))])]
    return model


@pytest.mark.parametrize("made_of", [lambda model: model, with_two_names], ids=["each once", "two names"])
def test_the_learners_step_pulls_as_the_prior_does(made_of: Callable[[Classifier], Classifier]) -> None:
    """SGD moves by lr times the transformed gradient, and lr * reg_strength / n times the distance."""
    made = learner(CONFIGS["ncl"], made_of(network(dtype=torch.float64)), by=optimizer("SGD", lr=0.5))
    data = tiny_dataset(9, torch.float64)
    for _ in range(2):
        made.activate(range(2))
        made.start_context()
        made.step(*data.tensors)
        made.end_context(data)
    made.start_context()
    anchor, moved_from = built_in(made.method).state_dict()["anchor"], moved(made.model)
    assert all(torch.equal(anchor[key], value) for key, value in moved_from.items())
    before = snapshot(made.model)
    loss = gradient_of(made.model, data)
    made.step(*data.tensors)
    reference = built_in(attached(CONFIGS["ncl"], made_of(network(dtype=torch.float64))))
    reference.load_state_dict(built_in(made.method).state_dict())
    for key, p in contract_parameters(reference.model).items():
        p.grad = loss[key].clone()
    reference.transform()
    for key, p in contract_parameters(reference.model).items():
        assert p.grad is not None
        expected = before[key] - 0.5 * (p.grad + STRENGTH / SIZE * (before[key] - anchor[key]))
        close(contract_parameters(made.model)[key].detach(), expected, key)


# ---- what they have in common


@pytest.mark.parametrize("name", NAMES)
def test_the_first_context_is_plain_training(name: str) -> None:
    made = learner(CONFIGS[name])
    plain = learner(method("none"))
    assert made.method.leaves_first_context_alone
    for one in (made, plain):
        one.start_context()
        for _ in range(3):
            one.step(*tiny_dataset().tensors)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), plain.model.parameters(), strict=True))
    for one in (made, plain):
        one.end_context(tiny_dataset())
        one.start_context()
        one.step(*tiny_dataset().tensors)
    assert not any(torch.equal(a, b) for a, b in zip(made.model.parameters(), plain.model.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_done_to_gradients_follows_from_the_state(name: str) -> None:
    made, parts, _ = learned(name, "normalized", GROWING_HEAD)
    other = built_in(attached(CONFIGS[name], made.model))
    other.load_state_dict(made.state_dict())
    given = []
    for one in (made, other):
        with_gradient(one, parts[-1], GROWING_HEAD[-1])
        given.append({key: p.grad for key, p in contract_parameters(made.model).items()})
    for key, ours in given[0].items():
        other_grad = given[1][key]
        assert ours is other_grad is None or torch.equal(ours, other_grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*NAMES, "kfac_ewc"])
def test_a_layer_may_have_any_name(name: str) -> None:
    model = equip(nn.Sequential(OrderedDict({"flat": nn.Flatten(), "my layer": nn.Linear(16, 6)})), 6)
    made, other = (built_in(attached(method(name), model)) for _ in range(2))
    activate(model, range(6))
    end(made, tiny_dataset(), range(6))
    other.load_state_dict(made.state_dict())
    end(other, tiny_dataset(), range(6))
    if isinstance(other, Preconditioned):
        with_gradient(other, tiny_dataset(), range(6))
    else:
        assert other.penalty(is_first=True).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_meanwhile_is_left_alone(name: str) -> None:
    made, parts, _ = learned(name, "cnn", SINGLE_HEAD)
    activate(made.model, SINGLE_HEAD[-1])
    made.active_outputs = SINGLE_HEAD[-1]
    made.model.get_submodule("hidden").requires_grad_(False)
    F.cross_entropy(made.model(parts[-1].tensors[0]), parts[-1].tensors[1]).backward()
    made.transform()
    assert all(p.grad is None for p in made.model.get_submodule("hidden").parameters())
    assert made.model.head.weight.grad is not None
    made.end_context(finished(made.model, parts[-1]))


def test_a_basis_holds_no_more_than_the_space_has() -> None:
    made = built_in(attached(method("gpm", threshold=1.0, rise=0.01), network("cnn")))
    assert isinstance(made, GPM)
    for seed in range(4):
        made.end_context(finished(made.model, tiny_dataset(50, seed=seed)))
        for basis in made.bases.values():
            assert basis.shape[1] <= basis.shape[0]
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5)
    assert made.contexts == 4


@pytest.mark.parametrize("config", [method("owm", alpha=1e-9), method("ncl", data_size=1e12)], ids=["owm", "ncl"])
def test_a_strength_below_the_rounding_of_the_inputs_stays_finite(config: RegularizerConfig) -> None:
    """As many inputs as make rounding leave negative eigenvalues, in a space of few directions."""
    made = built_in(attached(config))
    inputs = torch.randn(500, 2) @ torch.randn(2, 16) * 30
    data = TensorDataset(inputs.view(-1, 1, 4, 4), torch.arange(500) % 2)
    end(made, data, range(2))
    before = with_gradient(made, tiny_dataset(), range(2))
    for p in made.model.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
    weight, given = made.model.get_parameter("hidden.0.weight").grad, before["hidden__0__weight"]
    assert weight is not None
    assert 0 < weight.norm() < given.norm()


class Scaled(Featured):
    """Has no layer that could be projected."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, 6))

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return images.flatten(1) @ self.scale


@pytest.mark.parametrize("name", ["owm", "gpm"])
def test_a_network_without_a_layer_to_project_is_refused(name: str) -> None:
    made = attached(CONFIGS[name], equip(Scaled(), 6))
    activate(made.model, range(2))
    with pytest.raises(MethodError, match=f"^regularizer={name}: there is no layer whose gradient it"):
        made.end_context(finished(made.model))


def test_what_becomes_of_other_layers_is_told() -> None:
    told = {name: trained_learner(CONFIGS[name], name="cnn").additions() for name in NAMES}
    layers = "convolutions.0, convolutions.1, hidden.0, head"
    others = "norms.0, norms.1"
    projected = (
        f"projects the gradients of {layers}, and freezes {others}, which it can't project, after the first context"
    )
    assert told == {
        "owm": [f"regularizer=owm {projected}"],
        "gpm": [f"regularizer=gpm {projected}"],
        "ncl": [f"regularizer=ncl has Kronecker factors for {layers}, and the diagonal for {others}"],
    }
    assert trained_learner(CONFIGS["owm"]).additions() == []


@pytest.mark.parametrize(
    ("by", "is_plain"),
    [
        (optimizer("SGD"), True),
        (optimizer("SGD", momentum=0.9), False),
        (optimizer("SGD", reset=True, momentum=0.9), True),
        (optimizer("SGD", weight_decay=0.1), False),
        (optimizer("Adam", reset=True), False),
    ],
    ids=["sgd", "momentum", "momentum anew", "weight decay", "adam"],
)
def test_an_optimizer_whose_steps_leave_the_gradient_is_told(by: OptimizerSetting, is_plain: bool) -> None:
    for name in NAMES:
        notes = load(CONFIGS[name]).steps_note(by)
        assert len(notes) == (0 if is_plain else 1)
        assert all(f"{name} decides where a step may go by the gradient" in note for note in notes)
        assert all((f"{KEY}.reset=true" in note) is not by.reset for note in notes)
    assert load(method("ewc")).steps_note(by) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_made_from_the_state_is_packed(name: str) -> None:
    made = trained_learner(CONFIGS[name]).method
    assert isinstance(made, Preconditioned)

    class Keeps:
        def pack(self, value: object, what: str) -> object:
            return value

    made.transform()
    assert made.applied is not None
    packed = made.pack(Keeps())  # type: ignore[arg-type]
    assert "applied" not in packed["others"]
    assert "active_outputs" not in packed["others"]


@pytest.mark.parametrize("name", ["owm", "gpm", "ncl"])
def test_a_bias_that_is_frozen_in_one_context_alone_is_refused(name: str) -> None:
    made = attached(CONFIGS[name], equip(nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), 6))
    activate(made.model, range(6))
    made.end_context(finished(made.model))
    made.model.get_parameter("1.bias").requires_grad_(False)
    with pytest.raises(MethodError, match="1__weight was trained with its bias in some contexts and without it in"):
        made.end_context(finished(made.model))
