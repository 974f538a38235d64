"""RWalk's running averages, score and scaling against a loop over parameters, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from naive import naive_fisher
from tiny import CONTEXTS, dataset, examples, importance, learner, method, network
from torch import Tensor

from clsweep.methods import rwalk
from clsweep.parameters import NamedTensors, snapshot
from clsweep.training.learner import Learner


def learned(made: Learner, number: int) -> tuple[NamedTensors, NamedTensors, NamedTensors]:
    """Learn a context: the parameters at its start and its end, and its path integral."""
    made.activate(range(2 * number, 2 * number + 2))
    made.start_context()
    start = snapshot(made.model)
    for step in range(3):
        made.step(*examples(6, torch.float64, seed=10 * number + step))
    end, path = snapshot(made.model), {key: value.clone() for key, value in made.method.path.totals.items()}
    made.end_context(dataset(11, torch.float64, seed=number))
    return start, end, path


def walk_of(made: Learner) -> rwalk.RWalk:
    assert isinstance(made.method, rwalk.RWalk)
    return made.method


def elements(tensors: NamedTensors) -> Iterator[tuple[str, int, float]]:
    """Every element, one at a time."""
    for key, tensor in tensors.items():
        for number, value in enumerate(tensor.flatten().tolist()):
            yield key, number, value


def flat(tensors: NamedTensors) -> dict[tuple[str, int], float]:
    return {(key, number): value for key, number, value in elements(tensors)}


def scaled(values: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    low, high = min(values.values()), max(values.values())
    return {place: (value - low) / (high - low) for place, value in values.items()}


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(("gamma", "epsilon"), [(1.0, 1e-3), (0.25, 0.1)])
def test_the_importance_equals_the_docstrings_equations_element_by_element(
    name: str, gamma: float, epsilon: float
) -> None:
    config = method("rwalk", reg_strength=0.5, gamma=gamma, epsilon=epsilon)
    made = learner(config, network(name, dtype=torch.float64))
    alpha = 1 / (1 + gamma)
    fisher: dict[tuple[str, int], float] = {}
    score: dict[tuple[str, int], float] = {}
    for number in range(CONTEXTS):
        start, end, path = (flat(tensors) for tensors in learned(made, number))
        new = flat(naive_fisher(made.model, dataset(11, torch.float64, seed=number)))
        for place, value in new.items():
            fisher[place] = alpha * value + (1 - alpha) * fisher[place] if number else value
            gained = max(0.0, path[place])
            one = gained / (0.5 * fisher[place] * (end[place] - start[place]) ** 2 + epsilon)
            score[place] = (score[place] + one) / 2 if number else one
        expected = {place: scaled(fisher)[place] + scaled(score)[place] for place in fisher}
        given = flat(walk_of(made).importance)
        assert given.keys() == expected.keys()
        assert list(given.values()) == pytest.approx([expected[place] for place in given], rel=1e-9, abs=1e-12)
        assert max(expected.values()) > 1


def test_a_parameter_that_raised_the_loss_has_no_score() -> None:
    made = learner(method("rwalk"), network(dtype=torch.float64))
    made.activate(range(2))
    made.start_context()
    made.step(*examples(6, torch.float64))
    for value in made.method.path.totals.values():
        value.fill_(-1)
    fisher = importance(method("ewc"), made.model, dataset(dtype=torch.float64))
    made.end_context(dataset(dtype=torch.float64))
    high = max(float(value.max()) for value in fisher.values())
    torch.testing.assert_close(walk_of(made).importance, {key: value / high for key, value in fisher.items()})


def test_equal_values_scale_to_zero() -> None:
    equal = {"a": torch.full((2,), 3.0), "b": torch.full((1,), 3.0)}
    assert all(not value.any() for value in rwalk._scaled(equal).values())
    assert rwalk._scaled({}) == {}


def test_values_scale_to_zero_and_one_over_all_parameters() -> None:
    given = rwalk._scaled({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 5.0])})
    assert [value.tolist() for value in given.values()] == [[0.0, 0.5], [0.25, 1.0]]


def test_a_parameter_without_a_value_stays_as_it_is() -> None:
    values = {"a": torch.empty(0, 3), "b": torch.tensor([1.0, 3.0])}
    assert {key: value.tolist() for key, value in rwalk._scaled(values).items()} == {"a": [], "b": [0, 1]}
    assert rwalk._scaled({"a": torch.empty(0, 3)})["a"].shape == (0, 3)


def test_frozen_parameters_have_no_entry() -> None:
    made = learner(method("rwalk"), network("cnn", dtype=torch.float64))
    for frozen in ("convolutions", "norms"):
        made.model.get_submodule(frozen).requires_grad_(False)
    for number in range(2):
        learned(made, number)
    assert set(walk_of(made).importance) == {"hidden__0__weight", "hidden__0__bias", "head__weight", "head__bias"}


def test_a_parameter_that_was_frozen_for_a_context_goes_on_where_it_was() -> None:
    made = learner(method("rwalk"), network("cnn", dtype=torch.float64))
    learned(made, 0)
    walk = walk_of(made)
    fisher, score = walk.running_fisher, walk.score
    made.model.convolutions.requires_grad_(False)
    learned(made, 1)
    for key in ("convolutions__0__weight", "convolutions__1__weight"):
        assert torch.equal(walk.running_fisher[key], fisher[key])
        assert torch.equal(walk.score[key], score[key])
    assert not torch.equal(walk.score["head__weight"], score["head__weight"])
    made.model.convolutions.requires_grad_(True)
    learned(made, 2)
    new = walk.score["convolutions__0__weight"] * 2 - score["convolutions__0__weight"]
    assert new.min() >= -1e-12
    assert new.max() > 0


def test_the_penalty_is_the_weighted_squares() -> None:
    made = learner(method("rwalk"), network(dtype=torch.float64))
    learned(made, 0)
    learned(made, 1)
    walk = walk_of(made)
    walk.anchor = {key: value + 0.1 for key, value in snapshot(made.model).items()}
    total: Tensor = torch.stack([(value * 0.1**2).sum() for value in walk.importance.values()]).sum()
    torch.testing.assert_close(walk.penalty(is_first=False), total)
