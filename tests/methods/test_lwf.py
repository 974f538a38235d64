"""Learning without forgetting: its penalty against loops over examples and a teacher's copy, and what it costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import ROOT
from naive import RELATIVE, assert_same, gradients_of
from tiny import CLASSES, OUTPUTS, built_in, examples, file_method, learner, method, network, optimizer, stream
from torch import Tensor, nn

from clsweep.config import RegularizerConfig
from clsweep.methods.loading import load
from clsweep.methods.lwf import LwF, distillation
from clsweep.networks import Classifier, activate, equip
from clsweep.parameters import snapshot
from clsweep.seeding import generator_states
from clsweep.training.learner import Learner
from clsweep.training.loop import Trainer, TrainingProtocol, with_outputs

# What the third context distils: outputs of earlier contexts, and how often.
HEADS = {"task": [([0, 1], 1), ([2, 3], 1)], "domain": [([0, 1], 2)], "class": [([0, 1, 2, 3], 1)]}
SIZES = (5, 1, 3)  # of batches
scenarios = pytest.mark.parametrize("scenario", list(HEADS))


def naive(logits: Tensor, before: Tensor, heads: Sequence[tuple[list[int], int]], t: float) -> Tensor:
    """One example, one earlier context and one output at a time."""
    total = torch.zeros((), dtype=logits.dtype)
    for row in range(len(logits)):
        for outputs, count in heads:
            target = [math.exp(float(before[row, output]) / t) for output in outputs]
            now = [torch.exp(logits[row, output] / t) for output in outputs]
            for _ in range(count):
                for one, other in zip(target, now, strict=True):
                    total = total - one / sum(target) * torch.log(other / torch.stack(now).sum())
    return t * t * total / len(logits)


def at_third(scenario: str, name: str = "mlp", config: RegularizerConfig | None = None) -> Trainer:
    """A trainer in float64 that has learned two contexts."""
    of = stream(scenario)
    for context in of.contexts:
        for part in (context.train, context.test):
            part.images.data = part.images.data.double()
    made = learner(config or method("lwf"), network(name, of.n_outputs, torch.float64), by=optimizer("SGD", lr=0.1))
    trainer = Trainer(made, of, TrainingProtocol(4, 6, seed=5))
    for number in range(2):
        trainer.learn(number)
    made.activate(of.active(2, 3))
    made.start_context(4)
    return trainer


def moved(model: nn.Module) -> None:
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=source))


@scenarios
@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_value_and_gradient_are_those_of_a_loop_over_examples(scenario: str, temperature: float) -> None:
    trainer = at_third(scenario, config=method("lwf", temperature=temperature))
    made, teacher = trainer.learner, copy.deepcopy(trainer.learner.model)
    inputs, labels = trainer.stream.contexts[2].train.gathered().tensors
    *_, recorded = with_outputs(made, inputs, labels)
    activate(teacher, range(trainer.stream.n_outputs))
    moved(made.model)
    for some, before in zip(inputs[: sum(SIZES)].split(SIZES), recorded[: sum(SIZES)].split(SIZES), strict=True):
        made.method.see_outputs(made.all_logits(some), before)
        penalty = made.method.penalty(is_first=False)
        rows = [[made.all_logits(one)[0] for one in some.split(1)], [teacher(one)[0].detach() for one in some.split(1)]]
        now, then = map(torch.stack, rows)
        expected = naive(now, then, HEADS[scenario], temperature)
        torch.testing.assert_close(penalty, expected, rtol=RELATIVE, atol=0)
        assert_same(gradients_of(penalty, made.model), gradients_of(expected, made.model))


@scenarios
def test_on_top_of_the_shipped_file_its_penalty_is_added(scenario: str) -> None:
    """In `examples/with_distillation.py`, which takes the teacher from the parameters before the context."""
    file, shipped = ROOT / "examples" / "with_distillation.py", ROOT / "custom_regularization.py"
    plain, without = (
        at_third(scenario, config=config) for config in (file_method(shipped), file_method(file, distillation=0.0))
    )
    for ours, theirs in zip(*(one.learner.model.parameters() for one in (plain, without)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    trainer = at_third(scenario, config=file_method(file, reg_strength=0.5, distillation=0.7, temperature=2.0))
    model: Any = trainer.learner.model
    teacher = copy.deepcopy(model)
    activate(teacher, range(trainer.stream.n_outputs))
    moved(model)
    inputs, labels = trainer.stream.contexts[2].train.gathered().tensors
    for some in inputs[: sum(SIZES)].split(SIZES):
        model._custom_batch = (some, labels[: len(some)])
        both, alone = (distilled(model, trainer.learner, weight) for weight in (0.7, 0.0))
        expected = 0.7 / 0.5 * naive(trainer.learner.all_logits(some), teacher(some).detach(), HEADS[scenario], 2.0)
        torch.testing.assert_close(both - alone, expected, rtol=1e-9, atol=0)
        assert_same(gradients_of(both - alone, model), gradients_of(expected, model))


def distilled(model: Any, of: Learner, weight: float) -> Tensor:
    """The file's penalty with another weight of the distillation."""
    model.distillation = weight
    return of.method.penalty(is_first=False)


def test_contexts_may_differ_in_their_numbers_of_classes_and_come_again() -> None:
    source = torch.Generator().manual_seed(0)
    logits, before = (3 * torch.randn(7, 9, dtype=torch.float64, generator=source) for _ in range(2))
    heads = {(0, 2): 1, (2, 5): 1, (5, 7): 3, (7, 9): 1}
    expected = naive(logits, before, [(list(range(*head)), count) for head, count in heads.items()], 2.0)
    torch.testing.assert_close(distillation(logits, before, heads, 2.0), expected, rtol=RELATIVE, atol=0)


@scenarios
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_training_is_that_with_a_copy_as_the_teacher_of_every_batch(scenario: str, name: str) -> None:
    """With the answers recorded once, as with those of a copy in eval mode at each step; SGD shows each gradient."""
    strength = 0.6
    trainer = at_third(scenario, name, method("lwf", reg_strength=strength))
    made, of = trainer.learner, trainer.stream
    student, teacher = copy.deepcopy(made.model), copy.deepcopy(made.model).eval()
    for one in (student, teacher):
        activate(one, range(of.n_outputs))
    own = of.active(2, 3)
    inputs, labels = of.contexts[2].train.gathered().tensors
    data = with_outputs(made, inputs, labels)
    for index in torch.randperm(len(inputs), generator=torch.Generator().manual_seed(2)).split(5)[:3]:
        loss = made.step(*(values[index] for values in data))
        logits, before = student(inputs[index]), teacher(inputs[index]).detach()
        task = F.cross_entropy(logits[:, own.start : own.stop], labels[index])
        expected = task + strength * naive(logits, before, HEADS[scenario], 2.0)
        gradients = torch.autograd.grad(expected, list(student.parameters()))
        with torch.no_grad():
            for p, gradient in zip(student.parameters(), gradients, strict=True):
                p.sub_(0.1 * gradient)
        torch.testing.assert_close(loss, expected.detach(), rtol=RELATIVE, atol=0)
    for ours, theirs in zip(made.model.state_dict().values(), student.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@scenarios
def test_where_nothing_has_changed_there_is_no_gradient(scenario: str) -> None:
    trainer = at_third(scenario)
    made = trainer.learner
    inputs, labels = trainer.stream.contexts[2].train.gathered().tensors
    _, _, before = with_outputs(made, inputs, labels)
    made.method.see_outputs(made.all_logits(inputs), before)
    penalty = made.method.penalty(is_first=True)
    assert penalty > 0  # the entropy of the answers
    assert max(float(g.abs().max()) for g in gradients_of(penalty, made.model).values()) < 1e-15


class Dropping(nn.Module):
    """A network of one's own without a `Head`, with dropout and batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.out = nn.Linear(8, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits of all classes."""
        logits: Tensor = self.out(self.layers(inputs))
        return logits


def at_second(model: Classifier, *, precision: str = "float32", shows_all: bool = False) -> Learner:
    """A learner that has begun its second context."""
    made = Learner(model, load(method("lwf")).method, optimizer(), precision, shows_all=shows_all)
    for number in range(2):
        made.activate(range(CLASSES * number, CLASSES * (number + 1)))
        made.start_context()
        if number == 0:
            made.step(*examples(6))
            made.end_context(torch.utils.data.TensorDataset(*examples(9)))
    return made


def test_recording_disturbs_nothing_and_a_step_takes_one_forward_pass() -> None:
    torch.manual_seed(0)
    made = at_second(equip(Dropping(), OUTPUTS))
    model, passes = made.model, []
    norm = model.get_submodule("layers.2")
    assert isinstance(norm, nn.BatchNorm1d)
    model.register_forward_pre_hook(lambda *_: passes.append(model.training))
    random, buffers = generator_states(), [buffer.clone() for buffer in model.buffers()]
    data = with_outputs(made, *examples(20, seed=1))
    assert data[2].shape == (20, OUTPUTS)
    assert (data[2].requires_grad, passes) == (False, [False])
    assert generator_states() == random
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert {module.training for module in model.modules()} == {True}
    for _ in range(3):
        made.step(*(values[:6] for values in data))
    assert passes == [False, True, True, True]
    assert norm.num_batches_tracked == 4
    assert made.model(data[0]).shape == (20, CLASSES)  # the active ones, as before


def test_nothing_of_it_is_on_the_network_and_its_state_is_which_outputs_there_were() -> None:
    made, plain = at_second(network("cnn")), network("cnn")
    made.step(*with_outputs(made, *examples(6)))
    assert vars(made.model).keys() == vars(plain).keys()
    assert [name for name, _ in made.model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert built_in(made.method).state_dict() == {"heads": {(0, CLASSES): 1}}


def test_it_leaves_the_first_context_alone() -> None:
    made = load(method("lwf")).method
    assert made.leaves_first_context_alone
    assert isinstance(made, LwF)
    plain, distilling = (learner(method(name), network("cnn")) for name in ("none", "lwf"))
    for one in (plain, distilling):
        one.activate(range(CLASSES))
        one.start_context()
        data = with_outputs(one, *examples(12))
        assert len(data) == 2
        one.step(*data)
    same = zip(plain.model.parameters(), distilling.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_step_without_the_answers_of_before_is_an_error() -> None:
    made = at_second(network())
    with pytest.raises(AssertionError):
        made.step(*examples(6))


def test_all_logits_on_show_change_nothing() -> None:
    made = [at_second(network(), shows_all=shown) for shown in (False, True)]
    for one in made:
        for seed in range(3):
            one.step(*with_outputs(one, *examples(6, seed=seed)))
    for (key, ours), theirs in zip(snapshot(made[0].model).items(), snapshot(made[1].model).values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


def test_answers_in_bf16_are_those_that_are_measured_and_are_compared_in_float32() -> None:
    made, plain = (at_second(network("cnn"), precision=precision) for precision in ("bf16", "float32"))
    plain.model.load_state_dict(made.model.state_dict())
    inputs, labels = examples(10, seed=4)
    (*_, recorded), (*_, exact) = (with_outputs(one, inputs, labels) for one in (made, plain))
    assert recorded.dtype == torch.float32
    with made.evaluating():
        measured = made.logits(inputs)
    torch.testing.assert_close(recorded[:, CLASSES : 2 * CLASSES], measured)
    assert not torch.equal(recorded, exact)
    torch.testing.assert_close(recorded, exact, rtol=0.05, atol=0.05)
    assert torch.isfinite(made.step(inputs, labels, recorded))
