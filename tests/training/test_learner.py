"""`clsweep.training.learner`: the contract's promises about steps and contexts, word for word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import dataset, examples, file_method, learner, method, network, stream, trainer, write
from torch import Tensor, nn

from clsweep import methods
from clsweep.config import RegularizerConfig
from clsweep.errors import MethodError, RunError
from clsweep.methods.base import Anchored
from clsweep.methods.loading import load
from clsweep.networks import Classifier
from clsweep.parameters import contract_parameters, snapshot
from clsweep.training.learner import Learner

# A file that declares nothing. Its importance differs from context to context, and it writes down what it is given.
SPRING = """
import torch

def keyed(model):
    return {n.replace(".", "__"): p for group in model.param_list for n, p in group()}

def estimate_importance(model, dataset, prev_params, device):
    model.given = {key: value.clone() for key, value in prev_params.items()}
    model.contexts = getattr(model, "contexts", 0) + 1
    return {key: torch.full_like(p, float(model.contexts)) for key, p in keyed(model).items()}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    model.calls = getattr(model, "calls", 0) + 1
    differences = {key: p - prev_params_dict[key] for key, p in keyed(model).items()}
    return sum((importance_dict[key] * d**2).sum() for key, d in differences.items())
"""


def spring(folder: Path, more: str = "", **values: float) -> RegularizerConfig:
    return file_method(write(folder, SPRING + more), **values)


def batches(steps: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(steps):
        yield examples(6, dtype, seed=100 * seed + step)


def learn(made: Learner, seed: int = 0, steps: int = 3) -> None:
    """One whole context."""
    made.start_context()
    for inputs, labels in batches(steps, seed):
        made.step(inputs, labels)
    made.end_context(dataset(seed=seed))


def move(model: Classifier) -> None:
    """Take the parameters away from the anchor, so that the penalty has a gradient."""
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=source))


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def stepped(made: Learner) -> list[Tensor]:
    """The gradients that the optimizer saw at one step."""
    made.step(*examples(6, seed=9))
    return [p.grad.clone() for p in made.model.parameters() if p.grad is not None]


def task_loss(model: Classifier) -> Tensor:
    inputs, labels = examples(6, seed=9)
    return F.cross_entropy(model(inputs), labels)


def naive_penalty(model: Classifier, importance: float, anchors: dict[str, Tensor]) -> Tensor:
    terms = [importance * (p - anchors[n.replace(".", "__")]) ** 2 for n, p in model.named_parameters()]
    return torch.stack([term.sum() for term in terms]).sum()


def all_close(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(first, second, strict=True)
    )


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


# ---- before each context


@pytest.mark.parametrize("contexts_before", [0, 1, 2])
def test_a_context_starts_with_zeros_in_w_and_the_current_parameters_in_p_old(
    tmp_path: Path, contexts_before: int
) -> None:
    made = learner(spring(tmp_path))
    for number in range(contexts_before):
        learn(made, number)
    made.start_context()
    parameters = contract_parameters(made.model)
    assert equal(made.model._custom_p_old, {key: p.detach() for key, p in parameters.items()})
    assert equal(made.model._custom_W, {key: torch.zeros_like(p) for key, p in parameters.items()})


def test_the_configured_values_are_on_the_model(tmp_path: Path) -> None:
    model = learner(spring(tmp_path, reg_strength=3.0, gamma=0.25, epsilon=0.5)).model
    assert (model.reg_strength, model.gamma, model.epsilon) == (3.0, 0.25, 0.5)


def test_keys_of_every_dict_are_names_with_dots_replaced(tmp_path: Path) -> None:
    model = network("cnn")
    expected = {name.replace(".", "__") for name, _ in model.named_parameters()}
    learn(learner(spring(tmp_path), model))
    dicts = [model._custom_W, model._custom_p_old, model._custom_importance, model._custom_prev_params, model.given]
    assert [set(keys) for keys in dicts] == [expected] * 5  # type: ignore[arg-type]
    assert "norms__0__weight" in expected


# ---- after each step


@pytest.mark.parametrize("contexts_before", [0, 2])
def test_the_path_integral_is_the_naive_sum_over_gradients_of_the_total_loss(
    tmp_path: Path, contexts_before: int
) -> None:
    strength, importance = 0.7, [0.0, 1.0, 3.0][contexts_before]  # 1, then 1 + 2
    model = network(dtype=torch.float64)
    made = learner(spring(tmp_path, reg_strength=strength), model)
    for _ in range(contexts_before):
        made.start_context()
        move(model)
        made.end_context(dataset())
    made.start_context()
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for inputs, labels in batches(4, seed=7, dtype=torch.float64):
        loss = F.cross_entropy(model(inputs).float(), labels)
        if importance:
            loss = loss + strength * naive_penalty(model, importance, model._custom_prev_params)
        before, gradient = [p.detach().clone() for p in model.parameters()], gradients(loss, model)
        made.step(inputs, labels)
        for total, g, p, old in zip(expected, gradient, model.parameters(), before, strict=True):
            total += -g * (p.detach() - old)
    assert all(total.abs().max() > 0 for total in expected)
    for value, total in zip(model._custom_W.values(), expected, strict=True):
        torch.testing.assert_close(value, total, rtol=1e-6, atol=1e-12)
    assert equal(model._custom_p_old, snapshot(model))


def test_parameters_without_a_gradient_stay_out_of_the_path_integral(tmp_path: Path) -> None:
    model = network()
    model.get_submodule("hidden.0").requires_grad_(False)
    made = learner(spring(tmp_path), model)
    made.start_context()
    for inputs, labels in batches(2):
        made.step(inputs, labels)
    assert model._custom_W["hidden__0__weight"].count_nonzero() == 0
    assert model._custom_W["head__weight"].count_nonzero() > 0


@pytest.mark.parametrize(("declared", "tracked"), [("", True), ("True", True), ("False", False)])
def test_the_path_integral_is_kept_unless_the_module_declares_that_it_is_not_used(
    tmp_path: Path, declared: str, tracked: bool
) -> None:
    made = learner(spring(tmp_path, f"\nUSES_PATH_INTEGRAL = {declared}\n" if declared else ""))
    made.start_context()
    start = snapshot(made.model)
    for inputs, labels in batches(2):
        made.step(inputs, labels)
    assert any(value.count_nonzero() for value in made.model._custom_W.values()) is tracked
    assert equal(made.model._custom_p_old, snapshot(made.model) if tracked else start)


def test_skipping_the_path_integral_does_not_change_the_training(tmp_path: Path) -> None:
    ends = []
    for more in ("", "\nUSES_PATH_INTEGRAL = False\n"):
        made = learner(spring(tmp_path, more))
        for number in range(2):
            learn(made, number)
        ends.append(snapshot(made.model))
    assert equal(*ends)


# ---- after each context


def test_returned_tensors_are_added_key_by_key(tmp_path: Path) -> None:
    made = learner(spring(tmp_path))
    sums = []
    for number in range(3):
        learn(made, number)
        sums.append({value.unique().item() for value in made.model._custom_importance.values()})
    assert sums == [{1.0}, {1.0 + 2.0}, {1.0 + 2.0 + 3.0}]


def test_a_key_may_come_and_go(tmp_path: Path) -> None:
    source = """
import torch
def estimate_importance(model, dataset, prev_params, device):
    model.n = getattr(model, "n", 0) + 1
    keys = [["head__bias"], ["hidden__0__bias"], ["head__bias", "hidden__0__bias"]][model.n - 1]
    return {key: torch.full_like(prev_params[key], model.n) for key in keys}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return (model.head.bias * importance_dict["head__bias"]).sum()
"""
    made = learner(file_method(write(tmp_path, source)))
    for number in range(3):
        learn(made, number)
    carried = {key: value.unique().tolist() for key, value in made.model._custom_importance.items()}
    assert carried == {"head__bias": [4.0], "hidden__0__bias": [5.0]}


def test_a_method_may_go_on_adding_to_the_tensors_it_returned(tmp_path: Path) -> None:
    source = """
import torch
def estimate_importance(model, dataset, prev_params, device):
    if not hasattr(model, "own"):
        model.own = {"head__bias": torch.zeros_like(model.head.bias)}
    model.own["head__bias"] += 1
    return model.own
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return (model.head.bias * importance_dict["head__bias"]).sum()
"""
    made = learner(file_method(write(tmp_path, source)))
    for number in range(2):
        learn(made, number)
    assert made.model._custom_importance["head__bias"].unique().tolist() == [1.0 + 2.0]


def test_importance_made_of_the_parameters_themselves_does_not_follow_them(tmp_path: Path) -> None:
    source = """
def estimate_importance(model, dataset, prev_params, device):
    return {"head__weight": model.head.weight}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return (model.head.weight * importance_dict["head__weight"]).sum()
"""
    made = learner(file_method(write(tmp_path, source)))
    learn(made)
    end = made.model.head.weight.detach().clone()
    made.start_context()
    made.step(*examples(6))
    assert torch.equal(made.model._custom_importance["head__weight"], end)


def test_the_anchor_is_the_latest_end_and_prev_params_the_contexts_start(tmp_path: Path) -> None:
    made = learner(spring(tmp_path))
    for number in range(3):
        start = snapshot(made.model)
        learn(made, number)
        assert equal(made.model.given, start)  # type: ignore[arg-type]
        assert equal(made.model._custom_prev_params, snapshot(made.model))
        assert not equal(made.model._custom_prev_params, start)


def test_the_anchor_moves_after_the_importance_was_added(tmp_path: Path) -> None:
    source = """
def estimate_importance(model, dataset, prev_params, device):
    model.anchor_seen = {key: value.clone() for key, value in model._custom_prev_params.items()}
    model.importance_seen = dict(model._custom_importance)
    return {key: value * 0 + 1 for key, value in prev_params.items()}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return model.head.bias.sum()
"""
    made = learner(file_method(write(tmp_path, source)))
    learn(made, 0)
    assert made.model.anchor_seen == {}
    assert made.model.importance_seen == {}
    end_of_first = snapshot(made.model)
    learn(made, 1)
    assert equal(made.model.anchor_seen, end_of_first)  # type: ignore[arg-type]
    assert made.model.importance_seen["head__bias"].unique().tolist() == [1.0]  # type: ignore[index]


def test_the_functions_get_the_device_the_data_and_the_carried_dicts(tmp_path: Path) -> None:
    source = """
def estimate_importance(model, dataset, prev_params, device):
    model.seen = (type(device).__name__, device.type, len(dataset), model.training)
    return {"head__bias": prev_params["head__bias"] * 0 + 1}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    model.same = importance_dict is model._custom_importance, prev_params_dict is model._custom_prev_params
    return model.head.bias.sum()
"""
    made = learner(file_method(write(tmp_path, source)))
    learn(made, 0)
    learn(made, 1)
    assert made.model.seen == ("device", "cpu", 12, True)
    assert made.model.same == (True, True)


# ---- the loss


def test_there_is_no_penalty_in_the_first_context_and_one_call_a_step_later(tmp_path: Path) -> None:
    made = learner(spring(tmp_path))
    learn(made, 0, steps=3)
    assert not hasattr(made.model, "calls")
    learn(made, 1, steps=4)
    assert made.model.calls == 4


def test_the_first_contexts_gradient_is_that_of_the_task_alone(tmp_path: Path) -> None:
    made = learner(spring(tmp_path, reg_strength=1e6))
    made.start_context()
    move(made.model)
    expected = gradients(task_loss(made.model), made.model)
    assert all_close(stepped(made), expected)


@pytest.mark.parametrize(("strength", "scale"), [(0.5, 1.0), (0.5, 4.0), (2.0, 0.0), (0.0, 3.0)])
def test_later_the_gradient_is_that_of_task_plus_scaled_penalty(tmp_path: Path, strength: float, scale: float) -> None:
    more = f"\nCONFIG_OVERRIDES = {{'reg_strength_scale': {scale}}}\n"
    made = learner(spring(tmp_path, more, reg_strength=strength))
    learn(made)
    made.start_context()
    move(made.model)
    penalty = naive_penalty(made.model, 1.0, made.model._custom_prev_params)
    loss = task_loss(made.model) + strength * scale * penalty
    expected = gradients(loss, made.model)
    assert penalty.item() > 1
    assert all_close(stepped(made), expected)


def test_a_step_returns_the_total_loss(tmp_path: Path) -> None:
    made = learner(spring(tmp_path, reg_strength=0.5))
    learn(made)
    made.start_context()
    move(made.model)
    expected = task_loss(made.model) + 0.5 * naive_penalty(made.model, 1.0, made.model._custom_prev_params)
    total = made.step(*examples(6, seed=9))
    assert not total.requires_grad
    torch.testing.assert_close(total, expected.detach())


# ---- penalties that declare to be quadratic

QUADRATIC = """

def quadratic_penalty(model, importance_dict, prev_params_dict):
    return importance_dict, prev_params_dict
"""


def test_a_declared_quadratic_penalty_trains_as_the_same_file_without_it(tmp_path: Path) -> None:
    ends = []
    for more in ("", QUADRATIC):
        made = learner(spring(tmp_path, more + "\nCONFIG_OVERRIDES = {'reg_strength_scale': 3.0}\n", reg_strength=2.0))
        for number in range(3):
            learn(made, number, steps=8)
        ends.append(snapshot(made.model) | {f"W {key}": value for key, value in made.method.path.totals.items()})
    plain, declared = ends
    assert not equal(plain, declared)  # another path through the arithmetic ...
    for key, value in plain.items():  # ... to the same end
        torch.testing.assert_close(declared[key], value, rtol=1e-3, atol=1e-5)


def test_a_declared_file_finds_the_path_as_an_undeclared_one_does(tmp_path: Path) -> None:
    """Its functions see the parameters of the last step in `_custom_p_old`, though no step keeps them there."""
    source = """

first, second = estimate_importance, compute_regularization_loss

def look(model):
    assert all(torch.equal(model._custom_p_old[key], p) for key, p in keyed(model).items())

def estimate_importance(model, *rest):
    look(model)
    return first(model, *rest)

def compute_regularization_loss(model, *rest):
    look(model)
    return second(model, *rest)
"""
    for more in ("", QUADRATIC):
        made = learner(spring(tmp_path, source + more))
        for number in range(3):
            learn(made, number)
        assert made.model.contexts == 3


def test_the_penalty_itself_is_called_at_two_steps_and_at_the_end_of_a_context_only(tmp_path: Path) -> None:
    made = learner(spring(tmp_path, QUADRATIC))
    for number in range(3):
        learn(made, number, steps=5)
    assert made.model.calls == 2 * 3


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("{key: 2 * value for key, value in importance_dict.items()}, prev_params_dict", "does not describe"),
        ("importance_dict, {key: value + 1 for key, value in prev_params_dict.items()}", "does not describe"),
        ("{}, prev_params_dict", "does not describe"),
        ("importance_dict, {}", "no centre for"),
        ("importance_dict", "expected two dicts"),
        ("importance_dict, None", "returned None; expected a dict"),
        ("{'nowhere': 1}, {}", "unknown key 'nowhere'"),
        ("{'head__bias': prev_params_dict['head__bias'][:1]}, {}", "shape"),
        ("{'head__bias': prev_params_dict['head__bias'] / 0}, {}", "NaN or infinity"),
        ("1 / 0, None", "ZeroDivisionError"),
    ],
)
def test_a_wrong_quadratic_penalty_is_refused(tmp_path: Path, returned: str, expected: str) -> None:
    more = QUADRATIC.replace("importance_dict, prev_params_dict\n", f"{returned}\n")
    made = learner(spring(tmp_path, more))
    learn(made, 0)
    with pytest.raises(RunError, match=expected) as error:
        learn(made, 1)
    assert "method.py" in str(error.value)
    assert "quadratic_penalty" in str(error.value)


FAR = "\ndef compute_regularization_loss(model, importance_dict, prev_params_dict):\n    return sum({term})\n"
QUADRATIC_NEAR_ZERO = "2 * ((1 + ((p - prev_params_dict[key]) / 0.1) ** 2).sqrt() - 1).sum() * 0.01"


def test_a_penalty_that_is_quadratic_near_its_anchor_only_is_refused_at_the_contexts_end(tmp_path: Path) -> None:
    terms = f"importance_dict[key].mean() * {QUADRATIC_NEAR_ZERO} for key, p in keyed(model).items()"
    made = learner(spring(tmp_path, FAR.format(term=terms) + QUADRATIC, reg_strength=0.01), lr=1e-4)
    learn(made, 0)
    made.start_context()
    for inputs, labels in batches(4):
        made.step(inputs, labels)  # ... and at the second step it seems to be
    move(made.model)
    with pytest.raises(MethodError, match="quadratic_penalty does not describe"):
        made.end_context(dataset())


def test_a_wrong_quadratic_penalty_is_refused_where_a_context_has_one_step(tmp_path: Path) -> None:
    wrong = QUADRATIC.replace("return importance_dict", "return {k: 2 * v for k, v in importance_dict.items()}")
    made = learner(spring(tmp_path, wrong))
    learn(made, 0, steps=1)
    with pytest.raises(MethodError, match="quadratic_penalty does not describe"):
        learn(made, 1, steps=1)


@pytest.mark.parametrize("name", [name for name in methods.names() if load(method(name)).method.is_quadratic])
def test_a_built_in_penalty_has_the_gradient_of_its_squares(name: str) -> None:
    made = learner(method(name), network(dtype=torch.float64))
    for number in range(3):
        made.activate(range(2 * number, 2 * number + 2))
        made.start_context(examples=9)
        made.step(*examples(6, torch.float64, seed=number))
        made.end_context(dataset(9, torch.float64, seed=number))
    move(made.model)
    parameters = contract_parameters(made.model)
    penalty = made.method.penalty(is_first=False)
    given = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    coefficients, centres, _ = made.method.squares()
    for (key, p), gradient in zip(parameters.items(), given, strict=True):
        expected = 2 * coefficients[key] * (p - centres[key]) if key in coefficients else None
        assert (gradient is None) == (expected is None)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
    assert len(coefficients) in ({len(parameters)} if isinstance(made.method, Anchored) else {0, len(parameters)})


OTHER = "quadratic_penalty{} is taken for a function of the file's own, which declares nothing; one that does is "


@pytest.mark.parametrize(
    ("own", "note"),
    [
        ("def quadratic_penalty(theta, anchor):\n    return (theta - anchor) ** 2", OTHER.format("(theta, anchor)")),
        ("def quadratic_penalty(net, a, b): ...", OTHER.format("(net, a, b)")),
        ("quadratic_penalty = 0.5", None),
        ("from clsweep.methods.quadratic import weighted_squares as quadratic_penalty", None),
    ],
)
def test_something_else_of_that_name_is_no_declaration(tmp_path: Path, own: str, note: str | None) -> None:
    made = learner(spring(tmp_path, f"\n{own}\n"))
    for number in range(2):
        learn(made, number, steps=4)
    assert made.model.calls == 4
    told = [one for one in made.additions() if "quadratic_penalty" in one]
    expected = [f"{tmp_path / 'method.py'}: {note}quadratic_penalty(model, importance_dict, prev_params_dict)"]
    assert told == ([] if note is None else expected)


def test_a_quadratic_declaration_of_a_constant_penalty_is_refused(tmp_path: Path) -> None:
    source = """
import torch
def estimate_importance(model, dataset, prev_params, device):
    return {}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return torch.zeros(())
def quadratic_penalty(model, importance_dict, prev_params_dict):
    return {key: torch.ones_like(p) for key, p in prev_params_dict.items()}, prev_params_dict
"""
    made = learner(file_method(write(tmp_path, source)))
    learn(made, 0)
    with pytest.raises(RunError, match="does not describe"):
        learn(made, 1)


@pytest.mark.parametrize("name", ["si", "l2"])
def test_a_parameter_may_have_two_names(name: str) -> None:
    model = network()
    model.param_list = [model.named_parameters, lambda: iter([("again", model.get_parameter("head.weight"))])]
    made = learner(method(name), model)
    for number in range(2):
        learn(made, number)
    totals = made.method.path.totals
    assert totals["again"].count_nonzero() > 0 or name == "l2"
    assert torch.equal(totals["again"], totals["head__weight"])


OF_PARAMETERS = sorted(set(methods.names()) - {"none", "lwf", "vcl"})  # vcl's is in its own tests


@pytest.mark.parametrize("name", OF_PARAMETERS)
def test_a_second_name_of_a_parameter_changes_nothing(name: str) -> None:
    ended = []
    for again in ([], ["again"]):
        model = network()
        weight = model.get_parameter("hidden.0.weight")
        model.param_list = [model.named_parameters, lambda: iter([(one, weight) for one in again])]  # noqa: B023
        made = learner(method(name), model)
        for number in range(3):
            learn(made, number)
        ended.append([p.detach() for p in model.parameters()])
    assert all_close(*ended)


REPLACING = {
    "the dict": "model._custom_W = {key: value * 0 for key, value in model._custom_W.items()}",
    "an entry": "model._custom_W['head__weight'] = torch.zeros_like(model.head.weight)",
    "its memory": "model._custom_W['head__weight'].data = torch.zeros_like(model.head.weight)",
    "its layout": "model._custom_W['head__weight'] = torch.zeros_like(model.head.weight.T).T",
}


@pytest.mark.parametrize("statement", REPLACING.values(), ids=REPLACING)
def test_the_path_integral_goes_on_in_tensors_that_a_method_puts_there(tmp_path: Path, statement: str) -> None:
    source = (
        f"\nfirst = compute_regularization_loss\ndef compute_regularization_loss(model, *rest):\n    {statement}\n"
        "    return first(model, *rest)\n"
    )
    made = learner(spring(tmp_path, source))
    learn(made)
    made.start_context()
    for inputs, labels in batches(3):
        old = made.model.head.weight.detach().clone()
        made.step(inputs, labels)
    gradient = made.model.head.weight.grad
    assert gradient is not None
    last = -gradient * (made.model.head.weight.detach() - old)  # it was put back to zero before the last step
    assert last.abs().max() > 0
    torch.testing.assert_close(made.model._custom_W["head__weight"], last, rtol=1e-4, atol=1e-9)
    assert equal(made.model._custom_p_old, snapshot(made.model))


def test_a_transposed_importance_is_read_in_its_own_order(tmp_path: Path) -> None:
    source = """
def estimate_importance(model, dataset, prev_params, device):
    weight = prev_params["head__weight"]
    return {"head__weight": weight.T.contiguous().square().T}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return (importance_dict["head__weight"] * (model.head.weight - prev_params_dict["head__weight"]) ** 2).sum()
"""
    ends = []
    for more in ("", QUADRATIC):
        made = learner(file_method(write(tmp_path, source + more), reg_strength=20.0))
        for number in range(2):
            learn(made, number, steps=6)
        ends.append(made.model.head.weight.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


OVERWRITING = {
    "estimate_importance": (
        "def estimate_importance(model, *rest):\n    model.reg_strength = 2.0\n    return first(model, *rest)"
    ),
    "compute_regularization_loss": (
        "def compute_regularization_loss(model, *rest):\n    model.reg_strength = 2.0\n    return second(model, *rest)"
    ),
}


@pytest.mark.parametrize("function", OVERWRITING)
def test_overwriting_the_strength_inside_a_method_takes_effect(tmp_path: Path, function: str) -> None:
    more = f"\nfirst, second = estimate_importance, compute_regularization_loss\n{OVERWRITING[function]}\n"
    made = learner(spring(tmp_path, more, reg_strength=50.0))
    learn(made)
    made.start_context()
    move(made.model)
    loss = task_loss(made.model) + 2.0 * naive_penalty(made.model, 1.0, made.model._custom_prev_params)
    expected = gradients(loss, made.model)
    assert all_close(stepped(made), expected)


@pytest.mark.parametrize("function", OVERWRITING)
@pytest.mark.parametrize("value", ["20.0", "20.0 + len(model._custom_importance)", "torch.tensor(20.0)"])
def test_a_declared_file_may_overwrite_the_strength_as_an_undeclared_one_may(
    tmp_path: Path, function: str, value: str
) -> None:
    overwriting = OVERWRITING[function].replace("= 2.0", f"= {value}")
    source = f"\nfirst, second = estimate_importance, compute_regularization_loss\n{overwriting}\n"
    ends = []
    for more in ("", QUADRATIC):
        made = learner(spring(tmp_path, source + more, reg_strength=0.01))
        for number in range(3):
            learn(made, number, steps=8)
        ends.append(snapshot(made.model))
    undeclared, declared = ends
    for key, end in undeclared.items():
        torch.testing.assert_close(declared[key], end, rtol=1e-3, atol=1e-5)
    as_configured = learner(spring(tmp_path, reg_strength=0.01))
    for number in range(3):
        learn(as_configured, number, steps=8)
    assert not torch.allclose(undeclared["head__weight"], as_configured.model.head.weight, atol=1e-3)


CHANGING = {
    "model.reg_strength *= 1.01": "changed model.reg_strength within a context (from 2.02 to 2.0402)",
    "model.gamma = model.calls": "quadratic_penalty does not describe",
}


@pytest.mark.parametrize(("changing", "expected"), CHANGING.items(), ids=CHANGING)
def test_what_changes_from_step_to_step_cannot_be_declared(tmp_path: Path, changing: str, expected: str) -> None:
    source = f"""
second = compute_regularization_loss
def compute_regularization_loss(model, *rest):
    {changing}
    return model.gamma * second(model, *rest)
def quadratic_penalty(model, importance_dict, prev_params_dict):
    return {{key: model.gamma * value for key, value in importance_dict.items()}}, prev_params_dict
"""
    made = learner(spring(tmp_path, source, reg_strength=2.0))
    made.model.calls = 0  # type: ignore[assignment]
    learn(made)
    with pytest.raises(MethodError) as raised:
        learn(made, 1)
    assert expected in str(raised.value)


def test_param_list_decides_what_the_dicts_hold(tmp_path: Path) -> None:
    model = network()
    model.param_list = [lambda: ((f"head.{name}", p) for name, p in model.head.named_parameters())]
    made = learner(spring(tmp_path), model)
    for number in range(2):
        learn(made, number)
    dicts = [model._custom_W, model._custom_p_old, model._custom_importance, model._custom_prev_params]
    assert [set(keys) for keys in dicts] == [{"head__weight", "head__bias"}] * 4


# ---- the first context of one seed


def after_first_context(config: RegularizerConfig, name: str, scenario: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    made = trainer(config, stream(scenario), name)
    cells = made.sequentially()
    next(cells)
    next(cells)
    return snapshot(made.learner.model), [b.clone() for b in made.learner.model.buffers()]


@pytest.mark.parametrize(("name", "scenario"), [("mlp", "domain"), ("cnn", "task"), ("mlp", "class")])
def test_the_first_context_is_the_same_for_every_method_and_strength(tmp_path: Path, name: str, scenario: str) -> None:
    expected, buffers = after_first_context(method("none"), name, scenario)
    others = [
        method("ewc", reg_strength=1e5),
        method("si", reg_strength=10.0, epsilon=1e-3),
        method("mas", gamma=0.1),
        spring(tmp_path, reg_strength=7.0),
    ]
    for config in others:
        parameters, its_buffers = after_first_context(config, name, scenario)
        assert equal(parameters, expected)
        assert all(torch.equal(a, b) for a, b in zip(its_buffers, buffers, strict=True))


# ---- precision


def test_autocast_still_gives_float32_logits() -> None:
    made = learner(method("none"), precision="bf16")
    plain = learner(method("none"))
    inputs, _ = examples(4)
    logits, expected = made.logits(inputs), plain.logits(inputs)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.02)
