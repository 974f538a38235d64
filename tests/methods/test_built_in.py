"""The built-in methods' state: what goes on from it, that it stays finite, and what they draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import OUTPUTS, attached, built_in, dataset, examples, finished, importance, learner, method, network, step
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep import methods
from clsweep.curvature.fisher import FisherOptions, diagonal_fisher
from clsweep.errors import NotFiniteError
from clsweep.methods.base import BuiltIn, Finished, _tensors
from clsweep.methods.base import Path as PathIntegral
from clsweep.methods.loading import load
from clsweep.networks import Classifier, activate
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.seeding import generator_states


def state_of(made: BuiltIn) -> NamedTensors:
    """Copies of the tensors in a method's state."""
    return {name: tensor.clone() for name, tensor in _tensors(made.state_dict())}


def moved(model: Classifier) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))


def penalty_and_gradients(made: BuiltIn) -> tuple[Tensor, list[Tensor | None]]:
    if made.takes_outputs:
        activate(made.model, range(OUTPUTS))
        logits = made.model(examples(6)[0])
        made.see_outputs(logits, logits.detach().roll(1, 0))
    penalty = made.penalty(is_first=False)
    return penalty.detach(), list(torch.autograd.grad(penalty, list(made.model.parameters()), allow_unused=True))


def same(first: BuiltIn, second: BuiltIn) -> None:
    one, other = penalty_and_gradients(first), penalty_and_gradients(second)
    assert torch.equal(one[0], other[0])
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))  # type: ignore[arg-type]
    assert first.strength == second.strength
    one_state, other_state = state_of(first), state_of(second)
    assert one_state.keys() == other_state.keys()
    assert all(torch.equal(value, other_state[name]) for name, value in one_state.items())


@pytest.mark.parametrize("name", methods.names())
def test_a_method_goes_on_from_its_state_as_the_one_that_it_is_of(name: str, tmp_path: Path) -> None:
    model = network("cnn")
    trained = learner(method(name, reg_strength=3.0), model)
    for number in range(2):
        trained.activate(range(2 * number, 2 * number + 2))
        trained.start_context(examples=12)
        for count in range(2):
            step(trained, *examples(6, seed=10 * number + count))
        trained.end_context(dataset(seed=number))
    made = built_in(trained.method)
    torch.save(made.state_dict(), tmp_path / "state.pt")
    kept, before = made.state_dict(), state_of(made)

    other = built_in(attached(method(name, reg_strength=3.0), model))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    moved(model)
    same(made, other)

    start = snapshot(model)
    moved(model)
    totals = {key: torch.randn_like(p) for key, p in contract_parameters(model).items()}
    third = Finished(dataset(seed=2), start, PathIntegral(totals, start), torch.device("cpu"))
    for one in (made, other):
        one.active_outputs = range(4, 6)
        one.end_context(third)
    moved(model)
    same(made, other)
    has_learned = before and not made.takes_batch  # which nobody showed it
    assert not has_learned or any(not torch.equal(state_of(made)[key], value) for key, value in before.items())
    # what was taken before is as it was
    assert all(torch.equal(value, before[key]) for key, value in _tensors(kept))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ewc", "after a context its importance of hidden__0__weight"),
        ("online_ewc", "after a context its importance of hidden__0__weight"),
        ("ewc_separate", "after a context its stiffness of hidden__0__weight"),
        ("mas", "after a context its importance of hidden__0__weight"),
        ("rwalk", "after a context its importance of hidden__0__weight"),
        ("kfac_ewc", "after a context its curvature of hidden__0__weight and hidden__0__bias of inputs"),
        ("owm", "after a context its covariances of hidden__0__weight and hidden__0__bias"),
        ("gpm", "after a context its covariances of hidden__0__weight and hidden__0__bias"),
        ("ncl", "after a context its curvature of hidden__0__weight and hidden__0__bias of inputs"),
    ],
)
def test_a_state_that_is_not_finite_is_refused(name: str, what: str) -> None:
    inputs, labels = examples()
    made = built_in(attached(method(name)))
    with pytest.raises(NotFiniteError) as raised:
        made.end_context(finished(made.model, TensorDataset(inputs * float("inf"), labels)))
    assert str(raised.value) == (
        f"regularizer={name}: {what} holds NaN or infinity; expected finite numbers (a smaller "
        f"{'benchmark.lr' if name in ('owm', 'gpm') else 'benchmark.lr or regularizer.reg_strength'} may help)."
    )


@pytest.mark.parametrize("name", ["si", "rwalk"])
def test_a_path_integral_that_is_not_finite_is_refused(name: str) -> None:
    made = learner(method(name))
    made.start_context()
    made.step(*examples(6))
    made.method.path.totals["head__bias"].fill_(float("nan"))
    with pytest.raises(NotFiniteError, match=r"after a context its .*importance of .* holds NaN or infinity"):
        made.end_context(dataset())


@pytest.mark.parametrize("name", methods.names())
def test_learning_a_context_disturbs_nothing(name: str) -> None:
    draws = {"fisher.labels": "sampled"} if "fisher.labels" in load(method(name)).declared else {}
    made = attached(method(name, **draws), network("cnn"))
    model = made.model
    model.train()
    gradient = torch.ones_like(model.head.bias)
    model.head.bias.grad = gradient
    before, buffers = generator_states(), [buffer.clone() for buffer in model.buffers()]
    made.end_context(finished(model))
    assert generator_states() == before
    assert all(module.training for module in model.modules())
    assert model.head.bias.grad is gradient
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    own = {name for name in vars(model) if name.startswith("_custom") or name in ("fisher", "gamma", "reg_strength")}
    assert own == set()


def test_what_a_method_draws_depends_on_its_seed_alone() -> None:
    def drawn(seed: int) -> list[NamedTensors]:
        torch.manual_seed(9)
        made = built_in(attached(method("online_ewc", gamma=0.5, **{"fisher.labels": "sampled"}), network(), seed))
        found = []
        for _ in range(2):
            before = made.state_dict()["importance"]
            made.end_context(finished(made.model))
            after = made.state_dict()["importance"]
            found.append({key: after[key] - 0.5 * before[key] if before else after[key] for key in after})
        return found

    (first, second), again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(value, again[0][key]) for key, value in first.items())
    assert not torch.allclose(first["head__weight"], second["head__weight"])
    assert not torch.equal(first["head__weight"], other[0]["head__weight"])


def test_the_fishers_options_are_the_methods() -> None:
    model, data = network(dtype=torch.float64), dataset(12, torch.float64)
    torch.manual_seed(0)  # where the method's own numbers start
    chosen = torch.randperm(12)[:3]
    expected = diagonal_fisher(
        model, TensorDataset(*(tensor[chosen] for tensor in data.tensors)), FisherOptions(labels="empirical")
    )
    given = importance(method("ewc", **{"fisher.examples": 3, "fisher.labels": "empirical"}), model, data)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-16)
