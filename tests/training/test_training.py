"""`clsweep.training.loop`: the order of examples, what is measured, joint training, and built-in methods at work."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from tiny import (
    CLASSES,
    CONTEXTS,
    OUTPUTS,
    SHAPE,
    file_method,
    learner,
    method,
    network,
    outputs,
    stream,
    trained,
    trainer,
    write,
)
from torch import Tensor

from clsweep import methods
from clsweep.config import RegularizerConfig
from clsweep.data.contexts import Context, Part, Stream
from clsweep.data.scenarios import SCENARIOS
from clsweep.data.transforms import PixelOrder
from clsweep.errors import MethodError, RunError
from clsweep.methods.base import Anchored
from clsweep.networks import CNN, MLP, Classifier
from clsweep.parameters import snapshot
from clsweep.results.metrics import Cell
from clsweep.training import loop as training
from clsweep.training.loop import Trainer, TrainingProtocol, _Pool, batch_indices, evaluate

scenarios = pytest.mark.parametrize("scenario", list(SCENARIOS))
NETWORKS = ("mlp", "cnn")


# ---- the order of examples


@pytest.mark.parametrize(
    ("n", "iters", "batch_size"), [(10, 7, 3), (12, 4, 3), (3, 5, 8), (1, 2, 4), (50, 3, 4), (7, 1, 7)]
)
def test_every_epoch_is_a_permutation_and_every_batch_is_full(n: int, iters: int, batch_size: int) -> None:
    indices = torch.cat(list(batch_indices(n, iters, batch_size, torch.Generator().manual_seed(0))))
    assert indices.shape == (iters, batch_size)
    assert indices.dtype == torch.int64
    flat = indices.flatten().tolist()
    for start in range(0, len(flat), n):
        epoch = flat[start : start + n]
        assert set(epoch) <= set(range(n))
        assert len(set(epoch)) == len(epoch) == min(n, len(flat) - start)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_batches_come_a_few_at_a_time_and_are_the_same_for_any_number(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torch.Generator().manual_seed(0)
    expected = torch.cat([torch.randperm(10, generator=source) for _ in range(9)])[:84].view(28, 3)
    monkeypatch.setattr(training, "_INDICES_AT_ONCE", at_once)
    made = list(batch_indices(10, 28, 3, torch.Generator().manual_seed(0)))
    assert torch.equal(torch.cat(made), expected)
    assert max(len(some) for some in made) == min(28, max(1, at_once // 3))


def test_more_iterations_take_no_more_memory() -> None:
    batches = batch_indices(10, 10**15, 3, torch.Generator().manual_seed(0))
    assert next(batches).numel() <= 2**20


def test_epochs_are_shuffled_anew_and_decided_by_the_generator() -> None:
    first, again, other = (
        torch.cat(list(batch_indices(20, 4, 10, torch.Generator().manual_seed(seed)))) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[:2].flatten().tolist() != first[2:].flatten().tolist()


def test_each_context_has_an_order_of_its_own_which_the_seed_decides() -> None:
    def batches(seed: int) -> list[Tensor]:
        made = trainer(method("none"), iters=2)
        made.protocol = TrainingProtocol(2, 6, seed)
        step, seen = made.learner.step, []

        def recorded(inputs: Tensor, labels: Tensor) -> Tensor:
            seen.append(inputs)
            return step(inputs, labels)

        made.learner.step = recorded  # type: ignore[method-assign, assignment]
        list(made.sequentially())
        return seen

    first, again, other = batches(0), batches(0), batches(1)
    assert len(first) == 2 * CONTEXTS
    assert all(x.shape == (6, *SHAPE) for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


# ---- what is measured


def active_outputs(scenario: str, context: int, learned: int) -> list[int]:
    """Independently of `clsweep.data.contexts`; contexts from 0."""
    if scenario == "domain":
        return [0, 1]
    if scenario == "task":
        return [2 * context, 2 * context + 1]
    return [output for output in range(OUTPUTS) if output < 2 * learned or output < 2 * (context + 1)]


def naive_accuracy(model: Classifier, part: Part, outputs: list[int]) -> float:
    assert isinstance(model, MLP | CNN)
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    correct = 0
    for n in range(len(part)):
        image = part.images[part.rows[n]]
        if isinstance(part.transform, PixelOrder):
            image = torch.stack([image.flatten()[pixel] for pixel in part.transform.order]).reshape(image.shape)
        features = model.features(image.unsqueeze(0))[0].detach()
        logits = [float(weight[output] @ features + bias[output]) for output in outputs]
        correct += logits.index(max(logits)) == int(part.labels[n])
    return correct / len(part)


def naive_cells(model: Classifier, of: Stream, scenario: str, learned: int) -> list[Cell]:
    model.eval()
    cells = []
    for number, context in enumerate(of.contexts):
        outputs = active_outputs(scenario, number, learned)
        for split, part in (("test", context.test), ("validation", context.validation)):
            if part is not None:
                accuracy = naive_accuracy(model, part, outputs)
                cells.append(Cell(learned, number + 1, split, accuracy, len(part)))
    model.train()
    return cells


@scenarios
@pytest.mark.parametrize("validation", [True, False])
def test_every_context_is_measured_after_every_context_as_a_naive_loop_does(scenario: str, validation: bool) -> None:
    of = stream(scenario, validation=validation)
    made = trainer(method("none"), of, "cnn" if validation else "mlp", iters=8)
    accuracies = set()
    rows = 0
    for learned, cells in enumerate(made.sequentially()):
        assert cells == naive_cells(made.learner.model, of, scenario, learned)
        accuracies |= {cell.accuracy for cell in cells}
        rows += 1
    assert rows == CONTEXTS + 1
    assert len(accuracies) > 2


def test_steps_and_time_are_counted() -> None:
    made = trainer(method("ewc"), iters=4)
    calls: list[int] = []
    made.on_step = lambda loss: calls.append(loss.dim())
    list(made.sequentially())
    assert made.timings.steps == len(calls) == 4 * CONTEXTS
    assert min(made.timings.train, made.timings.importance, made.timings.evaluation) > 0


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_buffers_gradients_and_random_state(training: bool) -> None:
    of = stream()
    made = learner(method("none"), network("cnn", of.n_outputs))
    model = made.model.train(training)
    parameters, buffers = snapshot(model), [b.clone() for b in model.buffers()]
    state = torch.get_rng_state()
    evaluate(made, of, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(p, parameters[key]) for key, p in snapshot(model).items())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert [p.grad for p in model.parameters() if p.grad is not None] == []


def test_looking_at_the_cells_does_not_change_the_training() -> None:
    """Evaluation between contexts leaves the training as it would be without it."""
    of = stream("class")
    whole, by_hand = trainer(method("none"), of, "cnn"), trainer(method("none"), of, "cnn")
    list(whole.sequentially())
    for number in range(CONTEXTS):
        by_hand.learn(number)
    expected = snapshot(by_hand.learner.model)
    assert all(torch.equal(p, expected[key]) for key, p in snapshot(whole.learner.model).items())


# ---- joint training


@scenarios
def test_the_joint_pool_gives_each_example_as_its_part_does(scenario: str) -> None:
    of = stream(scenario)
    pool = _Pool(of, torch.device("cpu"))
    expected = [
        (*context.train[n], active_outputs(scenario, number, CONTEXTS))
        for number, context in enumerate(of.contexts)
        for n in range(len(context.train))
    ]
    assert len(pool) == len(expected)
    index = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))
    inputs, labels, active = pool.take(index)
    for row, n in enumerate(index.tolist()):
        image, label, outputs = expected[n]
        assert torch.equal(inputs[row], image)
        assert labels[row] == label
        assert active[row].tolist() == outputs


@scenarios
@pytest.mark.parametrize("name", NETWORKS)
def test_joint_training_makes_as_many_steps_and_measures_before_and_after(scenario: str, name: str) -> None:
    of = stream(scenario)
    made = trainer(method("ewc", reg_strength=1e9), of, name, iters=4)
    start = snapshot(made.learner.model)
    before, after = [cells for cells in made.jointly() if cells]
    assert made.timings.steps == 4 * CONTEXTS
    assert {cell.after_context for cell in before} == {0}
    assert after == naive_cells(made.learner.model, of, scenario, CONTEXTS)
    assert all(not torch.equal(p, start[key]) for key, p in snapshot(made.learner.model).items())


def test_joint_training_learns_every_context() -> None:
    made = trainer(method("none"), stream("task"), iters=60, batch_size=16)
    _, after = [cells for cells in made.jointly() if cells]
    train = [Context(context.train, None, context.train) for context in made.stream.contexts]
    fitted = evaluate(made.learner, Stream(train, outputs("task"), SHAPE, 0, 0), CONTEXTS)
    assert min(cell.accuracy for cell in fitted) > 0.9
    assert len(after) == CONTEXTS


# ---- failures


def broken(of: Stream, number: int) -> Stream:
    """The stream with one image of one context's training data replaced by NaN."""
    contexts = list(of.contexts)
    part = contexts[number].train
    images = part.images.clone()
    images[part.rows] = float("nan")
    contexts[number] = Context(Part(images, part.rows, part.labels, part.transform), None, contexts[number].test)
    return Stream(contexts, of.outputs, of.input_shape, of.n_train, of.n_test)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_loss_that_becomes_nan_names_the_context(number: int) -> None:
    made = trainer(method("none"), broken(stream(), number))
    with pytest.raises(RunError, match=rf"NaN or infinite in context {number + 1} "):
        list(made.sequentially())


def test_a_loss_that_becomes_nan_names_joint_training() -> None:
    made = trainer(method("none"), broken(stream(), 0))
    with pytest.raises(RunError, match="NaN or infinite in joint training"):
        list(made.jointly())


# The penalty is the norm of the change: its gradient at the anchor is NaN. `{when}` says when it is the plain square.
NORM = """
import torch

def estimate_importance(model, dataset, prev_params, device):
    {importance}
    return {{key: torch.ones_like(value) for key, value in prev_params.items()}}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    model.calls = getattr(model, "calls", 0) + 1
    named = {{n.replace(".", "__"): p for n, p in model.named_parameters()}}
    squares = sum(((p - prev_params_dict[key]) ** 2).sum() for key, p in named.items())
    return {penalty}
"""
NAN_AT_ONE_CALL = "squares if model.calls != {call} else squares + (0 * squares).sqrt()"


@pytest.mark.parametrize("iters", [1, 20])
@pytest.mark.parametrize("strength", [1.0, 1e-12])
def test_a_penalty_without_a_gradient_at_the_anchor_is_named_with_its_parameter(
    tmp_path: Path, iters: int, strength: float
) -> None:
    file = write(tmp_path, NORM.format(importance="pass", penalty="squares.sqrt()"))
    made = trainer(file_method(file, reg_strength=strength), iters=iters)
    with pytest.raises(MethodError) as raised:
        list(made.sequentially())
    assert str(raised.value) == (
        f"{file}: compute_regularization_loss has a gradient of NaN or infinity for 'hidden__0__weight' at the "
        "context's first step, where the parameters are those of the end of the last context; expected finite numbers "
        "(a square root, a norm or a division has no gradient at zero: sqrt(x + 1e-12) has one)."
    )
    assert made.timings.steps == iters


@pytest.mark.parametrize(("iters", "place"), [(6, "at iteration 5 of 6"), (4, "after the last iteration of context 2")])
def test_a_gradient_of_nan_later_on_is_not_put_down_to_the_strength(tmp_path: Path, iters: int, place: str) -> None:
    source = NORM.format(importance="pass", penalty=NAN_AT_ONE_CALL.format(call=4))
    with pytest.raises(RunError) as raised:
        trained(file_method(write(tmp_path, source), reg_strength=1e-12), iters=iters)
    message = str(raised.value)
    assert place in message
    assert "a gradient of NaN in " in message
    assert "method.py's compute_regularization_loss is a likelier reason than regularizer.reg_strength" in message


@pytest.mark.parametrize(
    ("call", "suspects"),
    [
        (3, "transform_gradients is a likelier reason than benchmark.lr"),
        (9, "compute_regularization_loss or transform_gradients is a likelier reason than regularizer.reg_strength"),
    ],
)
def test_nan_that_is_put_into_the_gradients_later_on_is_not_put_down_to_the_learning_rate(
    tmp_path: Path, call: int, suspects: str
) -> None:
    source = (
        NORM.format(importance="pass", penalty="squares")
        + f"""
def transform_gradients(model, importance_dict, prev_params_dict):
    model.transformed = getattr(model, "transformed", 0) + 1
    if model.transformed == {call}:
        model.head.bias.grad /= 0
"""
    )
    with pytest.raises(RunError) as raised:
        trained(file_method(write(tmp_path, source)), iters=6)
    assert f"method.py's {suspects}" in str(raised.value)


def test_a_loss_that_runs_away_is_put_down_to_the_strength(tmp_path: Path) -> None:
    source = NORM.format(importance="pass", penalty="squares * (1 + 1e6 * squares)")
    with pytest.raises(RunError) as raised:
        trained(file_method(write(tmp_path, source), reg_strength=1e38))
    assert "NaN or infinite in context 2 (at iteration 2 of 5; " in str(raised.value)
    assert str(raised.value).endswith(": a smaller regularizer.reg_strength or benchmark.lr may help.")


def test_a_strength_too_large_for_a_gradient_is_named(tmp_path: Path) -> None:
    source = NORM.format(importance="pass", penalty="1e4 * squares")
    with pytest.raises(RunError, match=r"^regularizer\.reg_strength=3e\+38: .* overflows .*expected a smaller one\.$"):
        trained(file_method(write(tmp_path, source), reg_strength=3e38))


@pytest.mark.parametrize("name", ["none", "ewc"])
def test_weights_that_are_nan_after_the_last_step_are_found_without_blaming_a_strength_that_is_not_there(
    name: str,
) -> None:
    made = trainer(method(name), iters=1)
    made.learner.model.get_parameter("hidden.0.bias").register_hook(lambda gradient: gradient * float("nan"))
    cells = made.sequentially()
    next(cells)
    with pytest.raises(RunError) as raised:
        next(cells)
    assert str(raised.value) == (
        "the network's hidden.0.bias holds NaN or infinity after the last iteration of context 1: a smaller "
        "benchmark.lr may help (there is no penalty in this loss)."
    )


def test_weights_that_a_method_spoils_after_a_context_are_its_failure(tmp_path: Path) -> None:
    source = NORM.format(importance="model.head.bias.data[0] = float('inf')", penalty="squares")
    with pytest.raises(MethodError, match=r"estimate_importance left NaN or infinity in the network's head\.bias"):
        trained(file_method(write(tmp_path, source)))


def test_images_of_nan_are_named_as_such() -> None:
    made = trainer(method("ewc"), broken(stream(), 1))
    with pytest.raises(RunError, match="training images hold NaN or infinity; expected a data set of finite numbers"):
        list(made.sequentially())


# ---- the built-in methods

METHODS: dict[str, RegularizerConfig] = {
    **{name: method(name, reg_strength=5.0) for name in methods.names() if name != "none"},
    "si floored": method("si", reg_strength=5.0, floor_at_zero=True),
}


@cache
def plain_end(scenario: str, name: str) -> tuple[Tensor, ...]:
    return tuple(p.detach() for p in trained(method("none"), stream(scenario), name).parameters())


@scenarios
@pytest.mark.parametrize("name", NETWORKS)
def test_plain_training_ends_finite_and_away_from_where_it_began(scenario: str, name: str) -> None:
    of = stream(scenario)
    start = [p.detach() for p in network(name, of.n_outputs).parameters()]
    end = plain_end(scenario, name)
    assert all(torch.isfinite(p).all() for p in end)
    assert all(not torch.equal(a, b) for a, b in zip(end, start, strict=True))


@scenarios
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
def test_every_method_trains_through_a_stream_and_holds_the_parameters_back(
    config: RegularizerConfig, scenario: str, name: str
) -> None:
    made = trainer(config, stream(scenario), name)
    for _ in made.sequentially():
        pass
    learned, end = made.learner.method, [p.detach() for p in made.learner.model.parameters()]
    assert all(torch.isfinite(p).all() for p in end)
    assert all(not torch.equal(a, b) for a, b in zip(end, plain_end(scenario, name), strict=True))
    if isinstance(learned, Anchored):
        importance = torch.cat([value.flatten() for value in learned.importance.values()])
        assert len(importance) == sum(p.numel() for p in end)
        assert importance.isfinite().all()
        assert importance.max() > 0


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
def test_the_same_seed_gives_the_same_training(config: RegularizerConfig) -> None:
    first, second = (trained(config, stream(), "cnn", iters=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_strong_penalty_keeps_the_first_context_and_none_does_not() -> None:
    """Every label of the second context is swapped, so learning it means forgetting the first."""
    part = stream("domain").contexts[0].train
    parts = [part, Part(part.images, part.rows, 1 - part.labels, part.transform)]
    of = Stream([Context(p, None, p) for p in parts], outputs("domain", 2), SHAPE, 0, 0)

    def final(config: RegularizerConfig) -> list[float]:
        made = Trainer(learner(config, network(n_outputs=CLASSES)), of, TrainingProtocol(80, 10, seed=0))
        *_, cells = made.sequentially()
        return [cell.accuracy for cell in cells]

    assert final(method("none")) == [0, 1]
    assert final(method("l2", reg_strength=1e4)) == [1, 0]
