"""Regularizer files written for other harnesses, the shipped one, and what the built-in methods carry on."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import (
    CONTEXTS,
    anchored,
    attached,
    built_in,
    cnn,
    dataset,
    examples,
    file_method,
    finished,
    importance,
    learner,
    method,
    network,
    regularizer,
    stream,
    trained,
    trained_learner,
    trainer,
    write,
)
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep import networks
from clsweep.methods import ewc_separate
from clsweep.methods.base import Squares
from clsweep.methods.loading import load
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier, activate
from clsweep.parameters import NamedTensors, contract_parameters, snapshot

CPU = torch.device("cpu")
SHIPPED = Path(__file__).resolve().parent.parent.parent / "custom_regularization.py"

NAIVE_PENALTY = """
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    losses = []
    for gen_params in model.param_list:
        for n, p in gen_params():
            if p.requires_grad:
                n = n.replace(".", "__")
                if n in importance_dict:
                    losses.append((importance_dict[n] * (p - prev_params_dict[n]) ** 2).sum())
    return {factor} * sum(losses)
"""

NAIVE_EWC = """
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

def estimate_importance(model, dataset, prev_params, device):
    est_fisher = {}
    for gen_params in model.param_list:
        for n, p in gen_params():
            if p.requires_grad:
                est_fisher[n.replace(".", "__")] = p.detach().clone().zero_()
    model.eval()
    data_loader = DataLoader(dataset, batch_size=1, shuffle=True)
    for index, (x, y) in enumerate(data_loader):
        x, y = x.to(device), y.to(device)
        output = model(x)
        model.zero_grad()
        F.nll_loss(F.log_softmax(output, dim=1), y).backward()
        for gen_params in model.param_list:
            for n, p in gen_params():
                if p.requires_grad and p.grad is not None:
                    est_fisher[n.replace(".", "__")] += p.grad.detach() ** 2
    return {n: p / (index + 1) for n, p in est_fisher.items()}
""" + NAIVE_PENALTY.format(factor=0.5)

NAIVE_SI = """
import torch

def estimate_importance(model, dataset, prev_params, device):
    omega = {}
    for gen_params in model.param_list:
        for n, p in gen_params():
            n = n.replace(".", "__")
            p_change = p.detach().clone() - prev_params[n].to(device)
            omega[n] = model._custom_W[n] / (p_change ** 2 + model.epsilon)
            assert torch.equal(model._custom_p_old[n], p.detach())
    return omega
""" + NAIVE_PENALTY.format(factor=1)

NAIVE_ONLINE_EWC = (
    NAIVE_EWC.replace("def estimate_importance", "def fisher")
    + """
def estimate_importance(model, dataset, prev_params, device):
    new = fisher(model, dataset, prev_params, device)
    if not hasattr(model, "history"):
        model.history = []
    model.history.append({n: f.clone() for n, f in new.items()})
    carried = model._custom_importance
    return {n: (model.gamma - 1) * carried[n] + f if n in carried else f for n, f in new.items()}
"""
)

FUNCTIONAL = """
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

def estimate_importance(model, dataset, prev_params, device):
    model.contexts_done = getattr(model, "contexts_done", 0) + 1
    model.anchors = getattr(model, "anchors", [])
    model.anchors.append({n: p.detach().clone() for n, p in model.named_parameters()})
    model.eval()
    xs, ys = zip(*[dataset[i] for i in range(len(dataset))])

    def loss(params, x, y):
        return F.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    params = {n: p.detach() for n, p in model.named_parameters()}
    per_example = vmap(grad(loss), in_dims=(None, 0, 0))(params, torch.stack(xs), torch.stack(ys))
    return {n.replace(".", "__"): g.square().mean(0) for n, g in per_example.items()}
""" + NAIVE_PENALTY.format(factor=0.5)

TENSORS = """
import torch
import torch.nn.functional as F

def estimate_importance(model, dataset, prev_params, device):
    inputs, labels = dataset.tensors
    model.eval()
    names, params = zip(*[(n, p) for group in model.param_list for n, p in group()])
    total = [torch.zeros_like(p) for p in params]
    for log_p, y in zip(F.log_softmax(model(inputs), dim=1), labels):
        for t, g in zip(total, torch.autograd.grad(log_p[y], params, retain_graph=True)):
            t += g ** 2
    return {n.replace(".", "__"): t / len(inputs) for n, t in zip(names, total)}
""" + NAIVE_PENALTY.format(factor=0.5)

EMPIRICAL = {"fisher.labels": "empirical"}


def close(first: Classifier, second: Classifier, rtol: float = 1e-3, atol: float = 1e-4) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in pairs)


def assert_close(first: NamedTensors, second: NamedTensors, rtol: float, atol: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=rtol, atol=atol)


# ---- files of other harnesses


@pytest.mark.parametrize(
    ("source", "builtin", "values", "options"),
    [
        pytest.param(NAIVE_EWC, "ewc", {"reg_strength": 20.0}, EMPIRICAL, id="batches of one"),
        pytest.param(FUNCTIONAL, "ewc", {"reg_strength": 20.0}, EMPIRICAL, id="torch.func"),
        pytest.param(TENSORS, "ewc", {"reg_strength": 20.0}, EMPIRICAL, id="dataset.tensors"),
        pytest.param(NAIVE_SI, "si", {"reg_strength": 5.0}, {}, id="path integral"),
        pytest.param(
            NAIVE_ONLINE_EWC, "online_ewc", {"reg_strength": 20.0, "gamma": 0.6}, EMPIRICAL, id="carried importance"
        ),
    ],
)
@pytest.mark.parametrize(("name", "scenario"), [("mlp", "task"), ("cnn", "class"), ("mlp", "domain")])
def test_a_file_trains_as_the_built_in_method_does(
    tmp_path: Path,
    source: str,
    builtin: str,
    values: dict[str, object],
    options: dict[str, object],
    name: str,
    scenario: str,
) -> None:
    given = trained(file_method(write(tmp_path, source), **values), stream(scenario), name)
    expected = trained_learner(method(builtin, **values, **options), stream(scenario), name)
    plain = trained(method("none"), stream(scenario), name)
    assert_close(given._custom_importance, anchored(expected.method).importance, rtol=1e-2, atol=1e-4)
    assert close(given, expected.model)
    assert not close(given, plain)


@pytest.mark.parametrize("source", [NAIVE_EWC, FUNCTIONAL, TENSORS], ids=["batches of one", "torch.func", "tensors"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_files_importance_in_float64_is_the_built_in_one(tmp_path: Path, source: str, name: str) -> None:
    model = network(name, dtype=torch.float64)
    activate(model, range(2, 4))
    data = dataset(9, torch.float64)
    given = regularizer(tmp_path, source, model).importance(data, snapshot(model), CPU)
    expected = importance(method("ewc", **EMPIRICAL), model, data)
    assert_close(given, expected, rtol=1e-10, atol=1e-16)
    assert all(value.max() > 0 for value in given.values())


def test_an_online_ewc_file_ends_at_gamma_carried_plus_new(tmp_path: Path) -> None:
    gamma = 0.6
    model = trained(file_method(write(tmp_path, NAIVE_ONLINE_EWC), gamma=gamma))
    first, second, third = model.history  # type: ignore[misc]
    expected = {key: gamma * (gamma * first[key] + second[key]) + third[key] for key in first}
    assert_close(model._custom_importance, expected, rtol=1e-5, atol=1e-9)


def test_attributes_that_a_file_sets_stay_on_the_model(tmp_path: Path) -> None:
    model = trained(file_method(write(tmp_path, FUNCTIONAL)))
    assert model.contexts_done == CONTEXTS
    last = model.anchors[-1]  # type: ignore[index]
    assert all(torch.equal(last[name], p) for name, p in model.named_parameters())  # type: ignore[index]


def test_a_files_copy_of_the_network_is_not_trained_and_not_penalized(tmp_path: Path) -> None:
    """A frozen copy of the network, kept on the model, as distillation methods do."""
    source = """
import copy
import torch

def estimate_importance(model, dataset, prev_params, device):
    model.old = None
    model.old = copy.deepcopy(model).eval().requires_grad_(False)
    return {n.replace(".", "__"): torch.ones_like(p) for n, p in model.named_parameters() if not n.startswith("old.")}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    x = torch.ones(2, 1, 4, 4)
    return (model(x) - model.old(x)).square().mean()
"""
    model = trained(file_method(write(tmp_path, source)))
    own = {name for name, _ in network().named_parameters()}
    assert {key.replace("__", ".") for key in model._custom_importance} == own
    old = model.get_submodule("old")
    assert all(torch.equal(dict(old.named_parameters())[name], model.get_parameter(name)) for name in own)


def test_a_file_that_disturbs_everything_trains_as_no_method_does(tmp_path: Path) -> None:
    source = """
import random
import numpy
import torch

def disturb(model):
    model.eval()
    torch.manual_seed(0), numpy.random.seed(0), random.seed(0)
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    model.zero_grad(set_to_none=False)
    model(torch.ones(2, 1, 4, 4)).sum().backward()

def estimate_importance(model, dataset, prev_params, device):
    disturb(model)
    return {n.replace(".", "__"): torch.ones_like(p) for n, p in model.named_parameters()}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    disturb(model)
    return 0 * model.head.bias.sum()
"""
    given, expected = (
        trained(config, stream("class"), "cnn") for config in (file_method(write(tmp_path, source)), method("none"))
    )
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(given.buffers(), expected.buffers(), strict=True))


@pytest.mark.parametrize("decorator", ["torch.no_grad()", "torch.inference_mode()"])
def test_importance_may_be_made_without_autograd(tmp_path: Path, decorator: str) -> None:
    source = NAIVE_SI.replace("def estimate_importance", f"@{decorator}\ndef estimate_importance")
    given, expected = (
        trained(config, iters=3) for config in (file_method(write(tmp_path, source)), method("si", reg_strength=1.0))
    )
    assert close(given, expected)


SEARCHED = {
    **{name: {"reg_strength"} for name in ("l2", "ewc", "ewc_separate", "kfac_ewc", "mas", "custom")},
    "none": set(),
    "online_ewc": {"reg_strength", "gamma"},
    "si": {"reg_strength", "epsilon"},
    "rwalk": {"reg_strength", "gamma", "epsilon"},
    "lwf": {"reg_strength", "temperature"},
    "owm": {"alpha"},
    "gpm": {"threshold", "rise"},
    "ncl": {"reg_strength", "data_size"},
    "vcl": {"reg_strength", "beta", "rate"},
}


@pytest.mark.parametrize("name", SEARCHED)
def test_a_sweep_searches_what_a_method_uses(name: str) -> None:
    loaded = load(method(name) if name != "custom" else file_method(SHIPPED))
    assert set(loaded.hyperparameters) == set(loaded.spaces) == SEARCHED[name]


# ---- the shipped file


@pytest.mark.parametrize(("name", "scenario"), [("mlp", "task"), ("cnn", "task"), ("mlp", "class"), ("cnn", "domain")])
def test_the_shipped_file_runs_through_a_stream(name: str, scenario: str) -> None:
    model = trained(file_method(SHIPPED, reg_strength=50.0), stream(scenario), name)
    plain = trained(method("none"), stream(scenario), name)
    carried = model._custom_importance
    assert set(carried) == set(contract_parameters(model))
    assert all(value.min() >= 0 and value.max() > 0 for value in carried.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not close(model, plain)


def test_the_shipped_file_takes_color_images_through_convolutions() -> None:
    """A convolution's inputs are patches, of all channels, at every position."""
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 2
    model = networks.build(cnn([4, 5], [7]), (3, 8, 8), 2, seed=0)
    made = learner(file_method(SHIPPED), model)
    for _ in range(2):
        made.start_context()
        made.step(images, labels)
        made.end_context(TensorDataset(images, labels))
    assert all(value.max() > 0 for value in model._custom_importance.values())


def test_the_shipped_penalty_outside_factored_layers_is_half_the_weighted_squares() -> None:
    model, coefficients, anchors = springs(seed=0)
    del coefficients["hidden__0__bias"]
    expected = 0.5 * naive_weighted_squares(model, coefficients, anchors)
    made = attached(file_method(SHIPPED), model)
    model._custom_importance, model._custom_prev_params = coefficients, anchors
    given = made.penalty(is_first=False)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=0.0)


def test_the_shipped_file_imports_torch_alone_and_marks_its_editable_region() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"torch"}
    begin, end = text.index("editable region: begin"), text.index("editable region: end")
    assert begin < text.index("def estimate_importance") < text.index("def compute_regularization_loss") < end


# ---- the quadratic penalty


def springs(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Classifier, NamedTensors, NamedTensors]:
    """A network, random coefficients and random anchors."""
    source = torch.Generator().manual_seed(seed)
    model = network(dtype=dtype)
    parameters = contract_parameters(model)
    coefficients = {key: torch.rand(p.shape, generator=source, dtype=dtype) for key, p in parameters.items()}
    anchors = {key: torch.randn(p.shape, generator=source, dtype=dtype) for key, p in parameters.items()}
    return model, coefficients, anchors


def naive_weighted_squares(model: Classifier, coefficients: NamedTensors, anchors: NamedTensors) -> Tensor:
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    terms = [(c * (parameters[key] - anchors[key]) ** 2).sum() for key, c in coefficients.items()]
    return torch.stack(terms).sum()


def gradients(value: Tensor, model: Classifier, retain_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, retain_graph=retain_graph)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


@pytest.mark.parametrize("left_out", [(), ("head__weight",), ("hidden__0__weight", "hidden__0__bias", "head__bias")])
@pytest.mark.parametrize("factor", [1.0, -0.25])
def test_weighted_squares_equals_plain_autograd(left_out: tuple[str, ...], factor: float) -> None:
    model, coefficients, anchors = springs(seed=1)
    for key in left_out:
        del coefficients[key]
    given = factor * weighted_squares(model, coefficients, anchors)
    expected = factor * naive_weighted_squares(model, coefficients, anchors)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradients(given, model), gradients(expected, model), rtol=1e-12, atol=0.0)


def test_weighted_squares_passes_gradcheck() -> None:
    model, coefficients, anchors = springs(seed=2)

    def penalty(*_: Tensor) -> Tensor:  # gradcheck moves the parameters themselves
        return weighted_squares(model, coefficients, anchors).sin()

    assert torch.autograd.gradcheck(penalty, tuple(model.parameters()))


def test_weighted_squares_can_go_backward_twice() -> None:
    model, coefficients, anchors = springs(seed=3)
    expected = gradients(naive_weighted_squares(model, coefficients, anchors), model)
    penalty = weighted_squares(model, coefficients, anchors)
    for _ in range(2):
        torch.testing.assert_close(gradients(penalty, model, retain_graph=True), expected, rtol=1e-12, atol=0.0)


def test_weighted_squares_of_nothing_is_a_differentiable_zero() -> None:
    model, _, anchors = springs(seed=4)
    penalty = weighted_squares(model, {}, anchors)
    assert penalty.shape == ()
    assert penalty.item() == 0
    assert penalty.dtype == torch.float64
    assert torch.equal(torch.cat([g.flatten() for g in gradients(penalty, model)]).unique(), torch.zeros(1).double())


# ---- what the built-in methods carry on


def test_the_collapsed_spring_is_the_sum_of_one_spring_per_context(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(dtype=torch.float64)
    parameters = contract_parameters(model)
    source = torch.Generator().manual_seed(6)
    made: list[tuple[NamedTensors, NamedTensors]] = []
    estimated: list[NamedTensors] = []

    def fisher(*_: object, **__: object) -> NamedTensors:
        new = {key: torch.rand(p.shape, generator=source, dtype=p.dtype) for key, p in parameters.items()}
        for key, value in new.items():
            value *= 10.0 ** torch.randint(-6, 3, value.shape, generator=source)
            value[torch.rand(value.shape, generator=source) < 0.4] = 0
            if len(made) < 2 and key == "hidden__0__bias":
                value.zero_()
        if len(made) == 3:  # frozen by now
            del new["hidden__0__weight"]
        estimated.append(new)
        return new

    monkeypatch.setattr(ewc_separate, "diagonal_fisher", fisher)
    method_ = attached(method("ewc_separate"), model)
    for _ in range(4):
        method_.end_context(finished(model))
        made.append((estimated[-1], snapshot(model)))
        with torch.no_grad():
            for p in parameters.values():
                p.add_(torch.randn(p.shape, generator=source, dtype=p.dtype))
        expected = 0.5 * torch.stack([naive_weighted_squares(model, f, anchor) for f, anchor in made]).sum()
        given = method_.penalty(is_first=False)
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(gradients(given, model), gradients(expected, model), rtol=1e-10, atol=1e-12)


def test_one_spring_per_context_differs_from_the_latest_anchor() -> None:
    separate, latest = (trained(method(name, reg_strength=100.0)) for name in ("ewc_separate", "ewc"))
    assert not close(separate, latest)


@pytest.mark.parametrize("gamma", [1.0, 0.6, 0.5, 0.01])
def test_online_ewc_carries_gamma_times_carried_plus_new(gamma: float) -> None:
    made = learner(method("online_ewc", gamma=gamma), network(dtype=torch.float64))
    expected: NamedTensors = {}
    for number in range(CONTEXTS):
        made.start_context()
        inputs, labels = examples(8, torch.float64, seed=number)
        made.step(inputs, labels)
        data = dataset(8, torch.float64, seed=number)
        new = importance(method("ewc"), made.model, data)
        made.end_context(data)
        expected = {key: gamma * expected[key] + f if key in expected else f for key, f in new.items()}
        assert_close(anchored(made.method).importance, expected, rtol=0.0)


def test_floored_si_carries_the_larger_of_zero_and_carried_plus_new() -> None:
    made = learner(method("si", floor_at_zero=True, epsilon=0.1), network(dtype=torch.float64))
    source = torch.Generator().manual_seed(8)
    expected: NamedTensors = {}
    for number in range(CONTEXTS):
        made.start_context()
        start = snapshot(made.model)
        made.step(*examples(6, torch.float64, seed=number))
        path = {key: torch.randn(p.shape, generator=source, dtype=p.dtype) for key, p in start.items()}
        for key, total in made.method.path.totals.items():
            total.copy_(path[key])
        end = snapshot(made.model)
        made.end_context(dataset())
        new = {key: path[key] / ((end[key] - start[key]) ** 2 + 0.1) for key in path}
        expected = {key: (expected.get(key, torch.zeros(())) + w).clamp(min=0) for key, w in new.items()}
        carried = anchored(made.method).importance
        assert_close(carried, expected, rtol=1e-12, atol=1e-14)
        values = torch.cat([value.flatten() for value in carried.values()])
        assert values.min() == 0 < values.max()


def test_si_divides_the_path_integral_by_the_squared_change_plus_epsilon() -> None:
    made = learner(method("si", epsilon=0.02))
    made.start_context()
    start = snapshot(made.model)
    for step in range(4):
        made.step(*examples(6, seed=step))
    made.end_context(dataset())
    end, path = snapshot(made.model), made.method.path.totals
    expected = {key: path[key] / ((end[key] - start[key]) ** 2 + 0.02) for key in path}
    assert_close(anchored(made.method).importance, expected, rtol=1e-5, atol=1e-9)


def test_l2_carries_exactly_one_after_every_context() -> None:
    made = trainer(method("l2"))
    cells = made.sequentially()
    next(cells)
    carried = [dict(anchored(made.learner.method).importance) for _ in cells]
    assert len(carried) == CONTEXTS
    assert all(each.keys() == contract_parameters(made.learner.model).keys() for each in carried)
    assert [{x for value in each.values() for x in value.unique().tolist()} for each in carried] == [{1.0}] * CONTEXTS


def test_none_carries_nothing() -> None:
    made = built_in(trained_learner(method("none")).method)
    assert made.state_dict() == {}
    assert made.squares() == Squares({}, {})
    assert made.strength == 0


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda squares: 0.5 * squares,
    "ewc": lambda squares: 0.5 * squares,
    "online_ewc": lambda squares: 0.5 * squares,
    "si": lambda squares: squares,
    "mas": lambda squares: squares,
    "rwalk": lambda squares: squares,
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_penalty_is_the_methods_multiple_of_the_weighted_squares(name: str) -> None:
    model, coefficients, anchors = springs(seed=5)
    made = anchored(attached(method(name), model))
    made.importance, made.anchor = coefficients, anchors
    given = made.penalty(is_first=False)
    expected = PENALTIES[name](naive_weighted_squares(model, coefficients, anchors))
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=0.0)
