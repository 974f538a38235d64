"""`evaluate_every`: accuracy within the contexts, which training doesn't notice, whole whatever becomes of the run."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from builders import setting
from test_going_on import Stops, StopsAt, method_file, stopped
from torch import Tensor, nn

from clsweep import results, resuming
from clsweep.config import Config
from clsweep.data.contexts import Part
from clsweep.decisive import decisive
from clsweep.errors import InputError
from clsweep.networks import Head, equip, outputs_of
from clsweep.results.curves import Point
from clsweep.seeding import generator_states
from clsweep.sweeps.taken import take, take_up
from clsweep.training.loop import Trainer, TrainingProtocol, parts_of
from clsweep.training.observers import Observer
from clsweep.training.run import run

SHORT = (
    *("+benchmark=split_mnist", "dataset=mnist_5k", "benchmark.contexts=3", "benchmark.iters=5", "network.hidden=[8]"),
    *("device=cpu", "threads=1", "figures=false"),
)
EWC = (*SHORT, "regularizer=ewc")
CURVE = "evaluate_every=2"
METHODS = ("ewc", "si", "rwalk", "kfac_ewc", "lwf", "gpm", "vcl")


class Noisy(tiny.Featured):
    """Draws in eval mode, counts its calls in a buffer, and has dropout and batch normalization."""

    calls: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.3))
        self.head = Head(7, n_outputs)
        self.register_buffer("calls", torch.zeros(()))

    def features(self, inputs: Tensor) -> Tensor:
        """Body, and noise."""
        self.calls += 1
        made: Tensor = self.body(inputs)
        return made + 0.01 * torch.randn_like(made) + 1e-3 * self.calls


def trained(name: str, scenario: str, method: str, every: int | None) -> tuple[list[Tensor], Trainer, list[object]]:
    """Parameters and buffers after training on the tiny stream, the trainer, and the cells; all draws from one seed."""
    stream = tiny.stream(scenario, validation=True)
    torch.manual_seed(7)
    model = (
        equip(Noisy(stream.n_outputs), stream.n_outputs) if name == "noisy" else tiny.network(name, stream.n_outputs)
    )
    learner = tiny.learner(tiny.method(method), model)
    trainer = Trainer(learner, stream, TrainingProtocol(5, 6, seed=5), evaluate_every=every)
    cells = [cell for moment in trainer.sequentially() for cell in moment]
    return [*model.parameters(), *model.buffers()], trainer, list(cells)


@pytest.mark.parametrize(
    ("name", "scenario", "method"),
    [
        *[(name, scenario, method) for name, scenario in (("mlp", "task"), ("cnn", "class")) for method in METHODS],
        ("noisy", "domain", "si"),  # the others take gradients of single examples, and refuse noise
    ],
)
def test_training_does_not_notice_it(name: str, scenario: str, method: str) -> None:
    without, off, cells = trained(name, scenario, method, None)
    states = generator_states()
    within, on, same = trained(name, scenario, method, 1)
    assert generator_states() == states
    assert [value.numpy(force=True).tobytes() for value in within] == [
        one.numpy(force=True).tobytes() for one in without
    ]
    assert cells == same
    assert off.curve == []
    assert len(on.curve) == 2 * (1 + 2 + 3) * 5  # test and validation
    assert [module.training for module in on.learner.model.modules()] == [
        module.training for module in off.learner.model.modules()
    ]


def naive_accuracy(model: nn.Module, part: Part, active: range) -> float:
    """One example after the other."""
    model.eval()
    outputs_of(model).active = active
    inputs, labels = part.tensors
    right = 0
    with torch.no_grad():
        for one, label in zip(inputs, labels, strict=True):
            right += int(int(model(one[None]).argmax()) == int(label))
    return right / len(part)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_each_point_is_the_accuracy_right_after_that_update(scenario: str) -> None:
    stream = tiny.stream(scenario)
    learner = tiny.learner(tiny.method("ewc"), tiny.network(n_outputs=stream.n_outputs))
    copies: list[nn.Module] = []
    trainer = Trainer(
        learner,
        stream,
        TrainingProtocol(5, 6, seed=5),
        on_step=lambda loss: copies.append(deepcopy(learner.model)),
        evaluate_every=2,
    )
    told: list[list[Point]] = []
    trainer.on_measured = lambda points: told.append(list(points))
    for _ in trainer.sequentially():
        pass
    moments = [(number, iteration) for number in range(3) for iteration in (2, 4, 5)]
    assert [(points[0].training_context - 1, points[0].iteration) for points in told] == moments
    for (number, iteration), points in zip(moments, told, strict=True):
        assert {point.overall_iteration for point in points} == {5 * number + iteration}
        assert [point.context for point in points] == list(range(1, number + 2))
        for point in points:
            part, active = stream.contexts[point.context - 1].test, stream.active(point.context - 1, number + 1)
            model = copies[point.overall_iteration - 1]
            assert point.accuracy == naive_accuracy(model, part, active), (number, iteration, point)
            assert point.n == len(part)


def test_a_context_is_cut_where_it_is_measured() -> None:
    assert parts_of(5, None) == [5]
    assert parts_of(5, 2) == [2, 2, 1]
    assert parts_of(4, 2) == [2, 2]
    assert parts_of(5, 5) == [5]


def curve_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "curve.csv").drop(columns="run_id")


def accuracy_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "accuracy.csv").drop(columns="run_id")


def row_of(folder: Path) -> pd.Series:
    return pd.read_csv(folder / "summary.csv").iloc[0]


def finish(config: Config, folder: Path, first: Path | None = None, observer: Observer | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    run(config, folder, observer or Observer(), rehearsed=True, first_contexts=first)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a curve, and one without."""
    folder = tmp_path_factory.mktemp("whole")
    finish(setting(*EWC, CURVE), folder / "with")
    finish(setting(*EWC), folder / "without")
    return folder


def test_a_run_leaves_the_same_results_and_a_curve_that_agrees_with_them(whole: Path) -> None:
    accuracy, curve, row = accuracy_of(whole / "with"), curve_of(whole / "with"), row_of(whole / "with")
    pd.testing.assert_frame_equal(accuracy, accuracy_of(whole / "without"), check_exact=True)
    ends = curve[curve["iteration"] == 5]
    learned = accuracy[(accuracy["context"] <= accuracy["after_context"])]
    assert ends["accuracy"].tolist() == learned["accuracy"].tolist()
    assert row["evaluate_every"] == 2
    assert row["worst_case_accuracy"] <= row["average_accuracy"] + 1e-15  # but for rounding
    assert row["worst_case_accuracy"] == pytest.approx(learned["accuracy"].iloc[-1] / 3 + 2 / 3 * row["min_accuracy"])
    assert not (whole / "without" / "curve.csv").exists()
    assert row_of(whole / "without")[["evaluate_every", "min_accuracy", "worst_case_accuracy"]].isna().all()
    assert results.load(whole).problems == []


def test_what_is_measured_on_the_way_is_counted_as_evaluation() -> None:
    _, trainer, _ = trained("mlp", "task", "ewc", 1)
    _, without, _ = trained("mlp", "task", "ewc", None)
    assert trainer.timings.steps == without.timings.steps == 15
    assert trainer.timings.evaluation > without.timings.evaluation


class Hears(Stops):
    """Is told of a curve."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__(after)
        self.overall: list[int] = []

    def evaluated(self, points: Sequence[Point]) -> None:
        self.overall.append(points[0].overall_iteration)


ALL_MOMENTS = [2, 4, 5, 7, 9, 10, 12, 14, 15]


def test_a_run_that_was_stopped_has_the_whole_curve(whole: Path, tmp_path: Path) -> None:
    config = setting(*EWC, CURVE)
    stopped(config, tmp_path / "run", 1)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", StopsAt(8), rehearsed=True)  # within the second context
    assert curve_of(tmp_path / "run")["overall_iteration"].unique().tolist() == [2, 4, 5, 7]
    hears = Hears()
    finish(config, tmp_path / "run", observer=hears)
    pd.testing.assert_frame_equal(curve_of(tmp_path / "run"), curve_of(whole / "with"), check_exact=True)
    assert hears.overall == ALL_MOMENTS  # what was measured before is told again
    assert row_of(tmp_path / "run")["min_accuracy"] == row_of(whole / "with")["min_accuracy"]


@pytest.mark.parametrize(("before", "now"), [(CURVE, "evaluate_every=3"), (CURVE, "seed=0"), ("seed=0", CURVE)])
def test_one_that_was_measured_otherwise_does_not_go_on(before: str, now: str, tmp_path: Path) -> None:
    stopped(setting(*EWC, before), tmp_path / "run", 1)
    there, wanted = ("2" if before == CURVE else "null"), now.replace("seed=0", "evaluate_every=null")
    with pytest.raises(InputError, match=rf"^{wanted}: .*expected evaluate_every={there}, another folder, or resume="):
        finish(setting(*EWC, now), tmp_path / "run")
    finish(setting(*EWC, now, "resume=false"), tmp_path / "run")
    assert (tmp_path / "run" / "curve.csv").exists() == ("evaluate" in now)


def test_a_finished_one_is_taken_over_where_its_curve_is_the_one_asked_for(whole: Path) -> None:
    resuming.refuse_others(setting(*EWC), whole / "with")  # more than is asked for
    resuming.refuse_others(setting(*EWC, CURVE), whole / "with")
    for config, place in ((setting(*EWC, CURVE), "without"), (setting(*EWC, "evaluate_every=1"), "with")):
        with pytest.raises(InputError, match=r"curve\.csv would be missing"):
            resuming.refuse_others(config, whole / place)


def test_a_sweep_takes_up_no_run_that_was_measured_otherwise(tmp_path: Path) -> None:
    config = setting(*EWC, CURVE)
    left = finish(setting(*EWC), tmp_path / "left")
    assert take(tmp_path / "new", config, decisive(config), [left]) is None
    stopped(setting(*EWC), tmp_path / "half", 1)
    assert take_up(tmp_path / "new", config, decisive(config), [tmp_path / "half"]) is None
    assert take_up(tmp_path / "new", setting(*EWC), decisive(config), [tmp_path / "half"]) is not None


@pytest.mark.parametrize("first", ["", CURVE, "evaluate_every=1"])
def test_a_shared_first_context_gives_the_curve_whole(first: str, whole: Path, tmp_path: Path) -> None:
    shared = tmp_path / "first"
    finish(setting(*SHORT, "regularizer=si", *filter(None, [first])), tmp_path / "one", shared)
    hears = Hears()
    other = finish(setting(*EWC, CURVE), tmp_path / "other", shared, hears)
    pd.testing.assert_frame_equal(curve_of(other), curve_of(whole / "with"), check_exact=True)
    assert hears.overall == ALL_MOMENTS
    assert (row_of(other)["shared_seconds"] > 0) == (first == CURVE)
    assert len(list(shared.glob("*.pt"))) == 1  # it is no part of what a shared first context is
    last = finish(setting(*EWC), tmp_path / "last", shared)
    assert row_of(last)["shared_seconds"] > 0
    pd.testing.assert_frame_equal(accuracy_of(last), accuracy_of(whole / "without"), check_exact=True)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("evaluate_every=0", "evaluate_every=0: expected an integer of 1 or more, or null"),
        ("evaluate_every=-3", "evaluate_every=-3: expected an integer of 1 or more, or null"),
        ("evaluate_every=1.5", "evaluate_every=1.5: expected an integer, or null"),
        ("evaluate_every=often", "evaluate_every=often: expected an integer, or null"),
        (
            "evaluate_every=6",
            "evaluate_every=6: expected an integer from 1 to the 5 iterations of each context, or null",
        ),
        ("evaluate_every=2 stream=joint", "evaluate_every=2: with stream=joint nothing is learned after anything else"),
    ],
)
def test_what_cannot_be_measured_is_refused(more: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        setting(*EWC, *more.split())
    assert str(caught.value).startswith(expected)


def test_with_epochs_the_shortest_context_counts(tmp_path: Path) -> None:
    config = setting("+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=none", "device=cpu", "threads=1")
    config = replace(config, benchmark=replace(config.benchmark, epochs=1), evaluate_every=9)
    with pytest.raises(
        InputError, match=r"^evaluate_every=9: expected an integer from 1 to the \d iterations of context "
    ):
        run(config, None, Observer())


COUNTS = """
    import torch

    COUNT = [0]


    def count(module, inputs, output):
        if {when}:
            COUNT[0] += 1


    def estimate_importance(model, dataset, prev_params, device):
        if not COUNT[0]:
            model.register_forward_hook(count)
        return {{name.replace(".", "__"): torch.ones_like(p) for name, p in model.named_parameters()}}


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        own = {{name.replace(".", "__"): p for name, p in model.named_parameters()}}
        return COUNT[0] * sum((v * (own[n] - prev_params_dict[n]) ** 2).sum() for n, v in importance_dict.items())
"""


@pytest.mark.parametrize(("when", "is_refused"), [("True", True), ("module.training", False)])
def test_a_hook_that_notices_it_is_refused_before_anything_is_trained(
    when: str, is_refused: bool, tmp_path: Path
) -> None:
    file = method_file(tmp_path, COUNTS.format(when=when))
    if is_refused:
        with pytest.raises(InputError, match=r"^evaluate_every=2: measuring the network within a context changes"):
            run(setting(*SHORT, file, CURVE), None, Observer())
        return
    accuracies = [run(setting(*SHORT, file, *more), None, Observer()).cells for more in ([CURVE], [])]
    assert accuracies[0] == accuracies[1]
