"""Any optimizer and schedule: against plain PyTorch in float64, from the update to whole contexts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
import torch.nn.functional as F
from builders import command
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from clsweep import methods
from clsweep.errors import InputError, RunError
from clsweep.optimizers import OptimizerSetting
from clsweep.targets import Target
from clsweep.training.loop import Trainer, TrainingProtocol
from clsweep.training.update import PathIntegral, Spring, TorchOptimizer, check, is_fused, parameter_update

Make = Callable[[list[nn.Parameter]], Optimizer]
Schedule = Callable[[Optimizer], LRScheduler]
STEPS = 4
SHAPES = [(1,), (7,), (3, 5)]


def schedule(name: str, **arguments: Any) -> Target:
    return Target("optimizer.schedule", f"torch.optim.lr_scheduler.{name}", arguments)


CASES: dict[str, tuple[OptimizerSetting, Make, Schedule | None]] = {
    "adam": (tiny.optimizer(lr=0.05), lambda ps: Adam(ps, lr=0.05), None),
    "adam, reset": (tiny.optimizer(lr=0.05, reset=True), lambda ps: Adam(ps, lr=0.05), None),
    "adam, other averages": (
        tiny.optimizer(lr=0.05, betas=[0.5, 0.9], eps=1e-3),
        lambda ps: Adam(ps, lr=0.05, betas=(0.5, 0.9), eps=1e-3),
        None,
    ),
    "adam, decay": (
        tiny.optimizer(lr=0.05, weight_decay=0.1),
        lambda ps: Adam(ps, lr=0.05, weight_decay=0.1),
        None,
    ),
    "adam, a schedule": (
        tiny.optimizer(lr=0.05, schedule=schedule("CosineAnnealingLR")),
        lambda ps: Adam(ps, lr=0.05),
        lambda made: CosineAnnealingLR(made, T_max=STEPS),
    ),
    "adamw": (
        tiny.optimizer("AdamW", lr=0.05, weight_decay=0.3),
        lambda ps: AdamW(ps, lr=0.05, weight_decay=0.3),
        None,
    ),
    "sgd": (tiny.optimizer("SGD", lr=0.05), lambda ps: SGD(ps, lr=0.05), None),
    "sgd, momentum": (tiny.optimizer("SGD", lr=0.05, momentum=0.9), lambda ps: SGD(ps, lr=0.05, momentum=0.9), None),
    "sgd, momentum, reset": (
        tiny.optimizer("SGD", lr=0.05, momentum=0.9, reset=True),
        lambda ps: SGD(ps, lr=0.05, momentum=0.9),
        None,
    ),
    # which adds the momentum to the gradients in place
    "sgd, nesterov": (
        tiny.optimizer("SGD", lr=0.05, momentum=0.9, nesterov=True, foreach=True),
        lambda ps: SGD(ps, lr=0.05, momentum=0.9, nesterov=True, foreach=False),
        None,
    ),
    # which changes the momentum, too
    "sgd, one cycle": (
        tiny.optimizer("SGD", lr=0.05, momentum=0.9, schedule=schedule("OneCycleLR", max_lr=0.2)),
        lambda ps: SGD(ps, lr=0.05, momentum=0.9),
        lambda made: OneCycleLR(made, max_lr=0.2, total_steps=STEPS),
    ),
    "rmsprop, reset and a schedule": (
        tiny.optimizer("RMSprop", lr=0.05, reset=True, schedule=schedule("CosineAnnealingLR", T_max=7)),
        lambda ps: RMSprop(ps, lr=0.05),
        lambda made: CosineAnnealingLR(made, T_max=7),
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


class Plain:
    """The optimizer as PyTorch has it, and the path integral as a loop over the definition."""

    def __init__(self, of: list[nn.Parameter], case: str) -> None:
        setting, self._make, self._make_schedule = CASES[case]
        self._of, self._reset = of, setting.reset
        self._optimizer = self._make(of)
        self._first = [dict(group) for group in self._optimizer.param_groups]

    def start_context(self) -> None:
        if self._reset:
            self._optimizer = self._make(self._of)
        self._optimizer.param_groups[0] |= {key: value for key, value in self._first[0].items() if key != "params"}
        self._optimizer.param_groups[0].pop("initial_lr", None)
        self._schedule = None if self._make_schedule is None else self._make_schedule(self._optimizer)
        self.before = [p.detach().clone() for p in self._of]
        self.integrals = [torch.zeros_like(p) for p in self._of]

    def step(self) -> None:
        gradients = [p.grad.clone() for p in self._of if p.grad is not None]
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        for integral, gradient, before, p in zip(self.integrals, gradients, self.before, self._of, strict=True):
            integral -= gradient * (p.detach() - before)
            before.copy_(p.detach())


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(normal(shape, seed)) for seed, shape in enumerate(SHAPES)]


@every_case
def test_springs_and_path_integrals_with_every_optimizer(case: str) -> None:
    ours, theirs = parameters(), parameters()
    update, plain = parameter_update(ours, CASES[case][0]), Plain(theirs, case)
    for context in range(3):
        coefficients = [normal(shape, 50 + n).abs() for n, shape in enumerate(SHAPES)]
        centres = [normal(shape, 60 + n) for n, shape in enumerate(SHAPES)]
        paths = {p: PathIntegral(torch.zeros_like(p), None if n else p.detach().clone()) for n, p in enumerate(ours)}
        update.start_context(STEPS)
        update.set_path_integrals(paths)
        update.set_springs({p: Spring(2 * c, m) for p, c, m in zip(ours, coefficients, centres, strict=True)})
        plain.start_context()
        for step in range(STEPS):
            for n, (p, q) in enumerate(zip(ours, theirs, strict=True)):
                p.grad, q.grad = (normal(SHAPES[n], 1000 * context + 10 * step + n) for _ in range(2))
            sum(((c * (q - m) ** 2).sum() for q, c, m in zip(theirs, coefficients, centres, strict=True)),
                torch.zeros(())).backward()  # fmt: skip
            update.step()
            plain.step()
        for p, q, integral in zip(ours, theirs, plain.integrals, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(paths[p].total, integral, rtol=1e-9, atol=1e-12)


SI = """
    def parameters(model):
        return [(name.replace(".", "__"), p) for name, p in model.named_parameters()]

    def estimate_importance(model, dataset, prev_params, device):
        return {
            key: model._custom_W[key] / ((p.detach() - prev_params[key]) ** 2 + 0.1) for key, p in parameters(model)
        }

    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        return sum((importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum() for key, p in parameters(model))
"""


@every_case
@pytest.mark.parametrize("built_in", [True, False])
def test_contexts_with_si_are_plain_pytorchs(case: str, built_in: bool, tmp_path: Path) -> None:
    strength = 3.0
    model, theirs = (tiny.network(dtype=torch.float64) for _ in range(2))
    values = {"reg_strength": strength, "epsilon": 0.1}
    method = tiny.method("si", **values) if built_in else tiny.file_method(tiny.write(tmp_path, SI), **values)
    ours = tiny.learner(method, model, by=CASES[case][0])
    of = list(theirs.parameters())
    plain = Plain(of, case)
    importance = [torch.zeros_like(p) for p in of]
    anchors = [p.detach().clone() for p in of]
    for context in range(3):
        data = tiny.dataset(dtype=torch.float64, seed=context)
        ours.start_context(STEPS)
        plain.start_context()
        start = [p.detach().clone() for p in of]
        for _ in range(STEPS):
            ours.step(*data.tensors)
            theirs.zero_grad()
            loss = F.cross_entropy(theirs(data.tensors[0]), data.tensors[1])
            for omega, p, anchor in zip(importance, of, anchors, strict=True):
                loss = loss + strength * (omega * (p - anchor) ** 2).sum()
            loss.backward()
            plain.step()
        ours.end_context(data)
        for omega, integral, p, before in zip(importance, plain.integrals, of, start, strict=True):
            omega += integral / ((p.detach() - before) ** 2 + 0.1)
        anchors = [p.detach().clone() for p in of]
    for p, q in zip(model.parameters(), of, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", methods.names())
def test_methods_are_the_same_in_both_forms_of_adam(name: str) -> None:
    """`foreach=False` is for the optimizer that PyTorch has."""
    forms = [tiny.optimizer(lr=0.05), tiny.optimizer(lr=0.05, foreach=False)]
    assert [is_fused(one) for one in forms] == [True, False]
    trained = []
    for one in forms:
        model = tiny.network(dtype=torch.float64)
        learner = tiny.learner(tiny.method(name, reg_strength=2.0), model, by=one)
        for context in range(3):
            data = tiny.dataset(dtype=torch.float64, seed=context)
            learner.start_context(STEPS, examples=len(data))
            for _ in range(STEPS):
                tiny.step(learner, *data.tensors)
            learner.end_context(data)
        trained.append(list(model.parameters()))
    for p, q in zip(*trained, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-11)


def test_a_parameter_that_is_frozen_or_gets_other_memory_is_left_alone_or_followed() -> None:
    ours, theirs = parameters(), parameters()
    by, make, _ = CASES["sgd, momentum"]
    update, plain = parameter_update(ours, by), make(theirs)
    update.start_context(None)
    for step in range(4):
        for of in (ours, theirs):
            of[1].requires_grad_(step != 1)
            for n, p in enumerate(of):
                p.grad = normal(SHAPES[n], 10 * step + n) if p.requires_grad else None
            if step == 2:
                of[2].data = of[2].data.T.contiguous().T if of is ours else of[2].data.clone()
        update.step()
        plain.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
    assert ours[2].is_contiguous()


@pytest.mark.parametrize("typed", [{}, {"nesterov": True}, {"dampening": 0.3}, {"fused": True}], ids=str)
def test_a_parameter_whose_momentum_begins_later_than_others_moves_as_pytorch_has_it(typed: dict[str, Any]) -> None:
    """As one does that the network doesn't use, once a penalty pulls at it."""
    ours, theirs = parameters(), parameters()
    update = parameter_update(ours, tiny.optimizer("SGD", lr=0.05, momentum=0.9, **typed))
    plain = SGD(theirs, lr=0.05, momentum=0.9, foreach=False, **(typed | {"fused": False}))
    paths = {p: PathIntegral(torch.zeros_like(p), None) for p in ours}
    expected = [torch.zeros_like(p) for p in theirs]
    update.start_context(None)
    update.set_path_integrals(paths)
    for step in range(4):
        if step == 2:
            update.set_springs({ours[0]: Spring(torch.ones_like(ours[0]), torch.zeros_like(ours[0]))})
        for n, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad, q.grad = (normal(SHAPES[n], 10 * step + n) if n else None for _ in range(2))
        if step >= 2:
            theirs[0].grad = theirs[0].detach().clone()
        moved = [(n, q, q.grad.clone(), q.detach().clone()) for n, q in enumerate(theirs) if q.grad is not None]
        update.step()
        plain.step()
        for n, q, gradient, before in moved:
            expected[n] -= gradient * (q.detach() - before)
    for p, q, total in zip(ours, theirs, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
        torch.testing.assert_close(paths[p].total, total, rtol=1e-10, atol=1e-14)


MINE = """
import torch

class Noisy(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad + 0.1 * torch.randn_like(p), alpha=-group["lr"])

class Tired(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        Tired.steps += 1
        if Tired.steps > 3:
            raise ValueError("enough")

class NoOptimizer:
    def __init__(self, params, lr):
        pass

def warm_up(optimizer, total_iters):
    first = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    then = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_iters - 2)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], [2])

def below_zero(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 2)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, with a name that no other test imports."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_schedule_takes_the_contexts_iterations_and_begins_anew(mine: str) -> None:
    own = Target("optimizer.schedule", f"{mine}.warm_up", {})
    made = TorchOptimizer(parameters(), tiny.optimizer("SGD", lr=1.0, schedule=own))
    for iterations in (4, 6):
        made.start_context(iterations)
        rates = []
        for _ in range(iterations):
            rates += made.rates
            made.step()
        falling = [0.5 * (1 + math.cos(math.pi * n / (iterations - 2))) for n in range(iterations - 2)]
        assert rates == pytest.approx([0.1, 0.55, *falling])


@pytest.mark.parametrize(
    ("by", "sentence"),
    [
        (
            tiny.optimizer("SparseAdam"),
            "optimizer._target_=torch.optim.SparseAdam: a step raised RuntimeError: SparseAdam does not support dense "
            "gradients, please consider Adam instead; CLSWEEP_TRACEBACK=1 shows the traceback.",
        ),
        (
            tiny.optimizer("Adadelta", rho=2),
            "optimizer._target_=torch.optim.Adadelta: making it raised ValueError: Invalid rho value: 2.",
        ),
        (
            OptimizerSetting(Target("optimizer", "{mine}.NoOptimizer", {"lr": 0.1})),
            "optimizer._target_={mine}.NoOptimizer: makes a NoOptimizer; expected a torch.optim.Optimizer.",
        ),
        (
            tiny.optimizer(schedule=Target("optimizer.schedule", "{mine}.NoOptimizer", {"lr": 0.1})),
            "optimizer.schedule._target_={mine}.NoOptimizer: makes a NoOptimizer; expected a "
            "torch.optim.lr_scheduler.LRScheduler.",
        ),
        (
            tiny.optimizer(schedule=Target("optimizer.schedule", "{mine}.below_zero", {})),
            "optimizer.schedule._target_={mine}.below_zero: the learning rate is -0.005 at iteration 4 of 5; expected "
            "a schedule that keeps it at 0 or more.",
        ),
        (
            tiny.optimizer(schedule=schedule("OneCycleLR", max_lr=1, total_steps=4)),
            "optimizer.schedule._target_=torch.optim.lr_scheduler.OneCycleLR: a step raised ValueError: Tried to step "
            "5 times. The specified number of total steps is 4; CLSWEEP_TRACEBACK=1 shows the traceback.",
        ),
    ],
)
def test_what_cannot_be_used_is_found_in_advance(by: OptimizerSetting, sentence: str, mine: str) -> None:
    def here(target: Target) -> Target:
        return replace(target, path=target.path.format(mine=mine))

    by = replace(by, target=here(by.target), schedule=None if by.schedule is None else here(by.schedule))
    with pytest.raises(InputError) as raised:
        check(parameters(), by, iterations=5)
    assert str(raised.value) == sentence.format(mine=mine)


def test_a_step_that_raises_on_the_way_is_a_sentence(mine: str) -> None:
    by = OptimizerSetting(Target("optimizer", f"{mine}.Tired", {"lr": 0.1}))
    check(parameters(), by, iterations=10)
    update = parameter_update(ours := parameters(), by)
    update.start_context(10)
    for p in ours:
        p.grad = torch.ones_like(p)
    update.step()
    update.step()
    with pytest.raises(RunError) as raised:
        update.step()
    assert str(raised.value) == (
        f"optimizer._target_={mine}.Tired: a step raised ValueError: enough; CLSWEEP_TRACEBACK=1 shows the traceback."
    )


def test_epochs_are_as_many_steps_as_the_examples_of_each_context_make() -> None:
    stream = tiny.stream()
    sizes = [len(context.train) for context in stream.contexts]
    assert sizes == [14, 15, 16]
    protocol = TrainingProtocol(iters=99, batch_size=6, seed=5, epochs=2)
    assert protocol.iterations(stream) == [5, 5, 6]  # 28, 30 and 32 examples
    made = Trainer(tiny.learner(tiny.method("si")), stream, protocol)
    for number, steps in enumerate([5, 10, 16]):
        made.learn(number)
        assert made.timings.steps == steps
    joint = Trainer(tiny.learner(tiny.method("none")), stream, protocol)
    assert len([cells for cells in joint.jointly() if cells]) == 2
    assert joint.timings.steps == 16


def test_a_schedule_gets_the_iterations_of_its_context() -> None:
    falling = tiny.optimizer("SGD", lr=1.0, schedule=schedule("LinearLR", start_factor=1.0, end_factor=0.0))
    made = Trainer(
        tiny.learner(tiny.method("si"), by=falling), tiny.stream(), TrainingProtocol(99, batch_size=6, seed=5, epochs=2)
    )
    optimizer = made.learner._update._optimizer  # type: ignore[attr-defined]
    rates: list[list[float]] = []
    made.on_step = lambda loss: rates[-1].extend(optimizer.rates)
    for number, steps in enumerate([5, 5, 6]):
        rates.append([])
        made.learn(number)
        assert rates[-1] == pytest.approx([1 - step / steps for step in range(1, steps + 1)], abs=1e-9)


TINY = ("+benchmark=split_mnist", "dataset=mnist_5k", "benchmark.iters=3", "benchmark.contexts=2", "network.hidden=[9]")
PLAIN = ("threads=1", "figures=false", "regularizer=si")


def test_a_noisy_optimizer_of_ones_own_repeats_itself(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (f"optimizer._target_={mine}.Noisy", "optimizer.lr=0.5", "optimizer.momentum=0.25", "optimizer.reset=true")
    measured = []
    for number in range(2):
        torch.randn(number)
        assert command(monkeypatch, *TINY, *PLAIN, *own, f"hydra.run.dir={tmp_path / str(number)}") == 0
        measured.append(pd.read_csv(tmp_path / str(number) / "accuracy.csv").drop(columns="run_id"))
    assert measured[0].equals(measured[1])
    shown = f"batch 128, {mine}.Noisy momentum=0.25 lr 0.5, a new state in each context"
    assert shown in capsys.readouterr().out


def test_nothing_is_left_of_a_command_whose_optimizer_cannot_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("optimizer._target_=torch.optim.Muon", f"hydra.run.dir={tmp_path / 'run'}")
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *TINY, *PLAIN, *own)
    assert "Muon: making it raised ValueError: Muon only supports 2D parameters" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
