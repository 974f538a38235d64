"""Loggers and callbacks: what they are told and write, what is refused, and what their errors cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import sweeping
import torch
from builders import command, setting
from sweeping import finish, worker

from clsweep import config as settings
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.results.metrics import Cell
from clsweep.sweeps import storage
from clsweep.training.observers import Observer
from clsweep.training.run import Outcome, run

TINY = (
    "+benchmark=split_mnist",
    "dataset=mnist_5k",
    "budget=smoke",
    "benchmark.contexts=2",
    "network.hidden=[8]",
    "device=cpu",
)
OWN = """
import random

import numpy as np
import torch
from torch import nn


class Mine:
    def __init__(self, *, every=1, fails_in="", missing=False):
        if missing:
            raise KeyError("a key")
        self.every, self.fails_in = every, fails_in

    def setting(self, run):
        TOLD.append(("setting", run.study, run.name, run.folder, run.values["seed"], len(list(run.model.parameters()))))
        self._fail("setting")

    def step(self, loss):
        TOLD.append(("step", loss.dim(), loss.requires_grad))
        self._fail("step")

    def evaluated(self, points):
        TOLD.append(("evaluated", points[0].overall_iteration, len(points)))
        self._fail("evaluated")

    def context_done(self, cells):
        TOLD.append(("context_done", cells[0].after_context))
        self._fail("context_done")

    def finished(self, matrix, summary):
        TOLD.append(("finished", summary.average_accuracy))

    def stopped(self, summary):
        TOLD.append(("stopped", summary.status))

    def _fail(self, name):
        if name == self.fails_in:
            raise RuntimeError("broken on purpose")


class Nothing:
    pass


class Draws:
    def __init__(self):
        self._draw()

    def setting(self, run):
        self._draw()

    def __enter__(self):
        self._draw()

    def __exit__(self, *of):
        self._draw()

    def step(self, loss):
        self._draw()

    def context_done(self, cells):
        self._draw()

    def _draw(self):
        torch.randperm(3), random.random(), np.random.rand()


class Net(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.linear = nn.Linear(28 * 28, n_outputs)

    def forward(self, images):
        inputs = nn.functional.dropout(images.flatten(1), training=self.training)
        return self.linear(inputs) * (1 + self.training * (random.random() + np.random.rand()))


TOLD = []
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, with a name that no other test imports."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def told(module: str) -> list[tuple[Any, ...]]:
    return list(sys.modules[module].TOLD)


def accuracies(folder: Path) -> str:
    return pd.read_csv(folder / "accuracy.csv").drop(columns="run_id").to_csv()


def with_nodes(method: str, **nodes: dict[str, Any]) -> Config:
    """A setting with `logger` and `callbacks`, checked as it is when it is composed."""
    config = replace(setting(*TINY, f"regularizer={method}"), **nodes)  # type: ignore[arg-type]
    settings.check(config)
    return config


def new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# ---- of one's own


def test_an_observer_of_ones_own_is_told_everything_and_changes_nothing(own: str, tmp_path: Path) -> None:
    config = with_nodes("si", callbacks={"mine": {"_target_": f"{own}.Mine", "every": 10}})
    made = run(config, new(tmp_path / "with"), Observer())
    run(setting(*TINY, "regularizer=si"), new(tmp_path / "without"), Observer())
    assert accuracies(tmp_path / "with") == accuracies(tmp_path / "without")
    assert told(own) == [
        ("setting", "", "split_mnist-si-s0", tmp_path / "with", 0, 4),
        ("context_done", 0),
        *[("step", 0, False)] * 20,
        ("context_done", 1),
        *[("step", 0, False)] * 20,
        ("context_done", 2),
        ("finished", made.summary.average_accuracy),
    ]


def test_what_an_observer_draws_decides_no_result(own: str, tmp_path: Path) -> None:
    others = [one for one in TINY if not one.startswith("network")]
    plain = setting(*others, "regularizer=si", "network=own", f"network._target_={own}.Net")
    draws = replace(plain, callbacks={"mine": {"_target_": f"{own}.Draws"}})

    class Stops(Observer):
        def context_done(self, cells: Sequence[Cell]) -> None:
            if cells[0].after_context == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(draws, new(tmp_path / "stopped"), Stops())
    runs = {name: new(tmp_path / name) for name in ("plain", "draws")} | {"stopped": tmp_path / "stopped"}
    made = {name: run(plain if name == "plain" else draws, folder, Observer()) for name, folder in runs.items()}
    plainly, *drawing = (torch.cat([p.flatten() for p in one.model.parameters()]) for one in made.values())
    assert all(torch.equal(plainly, one) for one in drawing)


def test_it_is_told_the_curve_between_the_steps(own: str, tmp_path: Path) -> None:
    config = with_nodes("none", callbacks={"mine": {"_target_": f"{own}.Mine"}})
    run(replace(config, evaluate_every=15), None, Observer())
    heard = [one for one in told(own) if one[0] in ("evaluated", "context_done")]
    assert heard == [
        ("context_done", 0),
        *[("evaluated", 15, 1), ("evaluated", 20, 1), ("context_done", 1)],
        *[("evaluated", 35, 2), ("evaluated", 40, 2), ("context_done", 2)],
    ]
    at = told(own).index(("evaluated", 35, 2))
    assert told(own)[:at].count(("step", 0, False)) == 35


@pytest.mark.parametrize("name", ["setting", "step", "context_done"])
def test_what_it_raises_is_said_in_one_line_and_costs_nothing(
    name: str, own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = with_nodes("none", logger={"mine": {"_target_": f"{own}.Mine", "fails_in": name}})
    made = run(config, new(tmp_path / "run"), Observer())
    assert made.summary.status == "finished"
    assert capsys.readouterr().err == (
        f"clsweep: logger.mine: {name} raised RuntimeError: broken on purpose; the run goes on without it.\n"
    )
    assert "Traceback" in caplog.text
    assert told(own)[-1][0] == name


@pytest.mark.parametrize(
    ("group", "node", "sentence"),
    [
        (
            "callbacks",
            {"_target_": "OWN.Mine", "evry": 2},
            "callbacks.a.evry: OWN.Mine takes no evry; did you mean callbacks.a.every?",
        ),
        ("callbacks", {"_target_": "OWN.Min"}, "callbacks.a._target_=OWN.Min: OWN has no Min; did you mean Mine?"),
        (
            "callbacks",
            {"_target_": "OWN.Nothing"},
            "callbacks.a._target_: made Nothing, which has none of an observer's methods; expected one of setting, "
            "step, evaluated, context_done, finished, stopped.",
        ),
        (
            "callbacks",
            {"_target_": "OWN.Mine", "missing": True},
            "callbacks.a._target_=OWN.Mine: making it raised KeyError: 'a key'.",
        ),
        ("callbacks", 3, "callbacks.a=3: expected callbacks.a._target_=my_module.Name and its arguments."),
        (
            "logger",
            {"project": "mine"},
            "logger.a: is not among the loggers; expected logger=a or logger.a._target_=... as well.",
        ),
        (
            "logger",
            {"_target_": "clsweep.training.loggers.tensorboard.TensorBoard", "folder": "x"},
            "logger.a.folder: clsweep.training.loggers.tensorboard.TensorBoard takes no folder; expected no argument "
            "beside logger.a._target_.",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    group: str, node: Any, sentence: str, own: str, tmp_path: Path
) -> None:
    if isinstance(node, dict) and "_target_" in node:
        node = node | {"_target_": node["_target_"].replace("OWN", own)}
    folder = new(tmp_path / "run")
    with pytest.raises(InputError) as caught:
        run(with_nodes("none", **{group: {"a": node}}), folder, Observer())
    assert str(caught.value) == sentence.replace("OWN", own)
    assert list(folder.iterdir()) == []


def test_a_run_of_a_sweep_is_told_its_study_and_its_trial(own: str, tmp_path: Path) -> None:
    node = f"++logger.mine._target_={own}.Mine"
    study = worker(
        tmp_path / "sweep", "regularizer=si", "search.n_trials=2", "search.seeds=2", "search.final_seeds=1", node
    )
    finish(study)
    storage.close(sweeping.opened.pop())
    begun = [one[1:3] for one in told(own) if one[0] == "setting"]
    name = study.plan.name
    assert (name, "trial-0000/seed-0") in begun
    assert (name, "trial-0001/seed-1") in begun
    assert (name, "final-0000") in begun
    assert len(begun) == len(set(begun)) == sum(one[0] in ("finished", "stopped") for one in told(own))


# ---- by name


@dataclass
class Backend:
    """What a logger's backend was told."""

    made: list[dict[str, Any]] = field(default_factory=list)
    logged: list[dict[str, Any]] = field(default_factory=list)
    ended: list[Any] = field(default_factory=list)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    backend = Backend()
    module: Any = ModuleType("wandb")

    def init(**given: Any) -> SimpleNamespace:
        backend.made.append(given)
        return SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            log=backend.logged.append,
            finish=lambda exit_code: backend.ended.append(exit_code),
            summary={},
            offline=True,
            dir=f"{given['dir']}/wandb/offline-run-1/files",
        )

    module.init = init
    module.Settings = SimpleNamespace
    module.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode="online"))
    module.run = None
    module.login = lambda prompt, verify: False
    monkeypatch.setitem(sys.modules, "wandb", module)
    yield backend
    sys.modules.pop("clsweep.training.loggers.wandb", None)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    backend = Backend()

    class Client:
        def __init__(self, tracking_uri: str | None) -> None:
            backend.made.append({"tracking_uri": tracking_uri})

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            backend.made[-1]["experiment"] = name
            return "7"

        def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> SimpleNamespace:
            backend.made[-1] |= {"id": experiment, "tags": tags, "run_name": run_name}
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_batch(self, run: str, metrics: list[Any] = (), params: list[Any] = ()) -> None:  # type: ignore[assignment]
            backend.logged += [dict(zip(("name", "value", "at"), one, strict=True)) for one in metrics]
            backend.made[-1].setdefault("params", {}).update(params)

        def set_tag(self, run: str, name: str, value: str) -> None:
            backend.ended.append(value)

        def set_terminated(self, run: str, status: str) -> None:
            backend.ended.append(status)

    modules: dict[str, Any] = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions")}
    modules["mlflow"].MlflowClient = Client
    modules["mlflow.entities"].Metric = lambda name, value, timestamp, step: (name, value, step)
    modules["mlflow.entities"].Param = lambda name, value: (name, value)
    modules["mlflow.exceptions"].MlflowException = RuntimeError
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield backend
    sys.modules.pop("clsweep.training.loggers.mlflow", None)


def logged(tmp_path: Path, *typed: str) -> tuple[Outcome, pd.Series]:
    """A run, and its accuracies by split, context and when they were measured."""
    made = run(
        setting(*TINY, "regularizer=si", "validation_fraction=0.1", "benchmark.iters=60", *typed),
        new(tmp_path / "run"),
        Observer(),
    )
    cells = pd.read_csv(tmp_path / "run" / "accuracy.csv").set_index(["split", "context", "after_context"])
    return made, cells["accuracy"]


def test_wandb_gets_the_setting_the_accuracies_and_the_metrics(wandb: Backend, tmp_path: Path) -> None:
    made, cells = logged(tmp_path, "logger=[wandb]", "++logger.wandb.mode=offline", "++logger.wandb.project=mine")
    (given,) = wandb.made
    assert (given["project"], given["group"], given["name"]) == ("mine", None, "split_mnist-si-s0")
    assert (given["dir"], given["reinit"]) == (str(tmp_path / "run"), "create_new")
    assert (given["settings"].mode, given["settings"].silent) == ("offline", True)
    config = given["config"]
    assert (config["benchmark"], config["regularizer"], config["reg_strength"]) == (
        "split_mnist",
        "si",
        made.summary.reg_strength,
    )
    assert (config["iters"], config["batch_size"], config["run_id"]) == (60, 128, made.summary.run_id)
    assert "average_accuracy" not in config
    first, second = (one for one in wandb.logged if "test/mean_of_learned" in one)
    assert first == {
        "contexts_learned": 1,
        "test/context_01": cells["test", 1, 1],
        "test/mean_of_learned": cells["test", 1, 1],
        "validation/context_01": cells["validation", 1, 1],
        "validation/mean_of_learned": cells["validation", 1, 1],
    }
    assert second["test/mean_of_learned"] == pytest.approx((cells["test", 1, 2] + cells["test", 2, 2]) / 2)
    losses = [one for one in wandb.logged if "train/loss" in one]
    assert [one["iteration"] for one in losses] == [1, 51, 101]
    assert 0.3 < losses[0]["train/loss"] < 1.5  # two active classes
    assert wandb.logged[-1]["final/average_accuracy"] == made.summary.average_accuracy
    assert wandb.logged[-1]["final/train_seconds"] == made.summary.train_seconds
    assert wandb.ended == [0]
    assert made.places == {"logger.wandb": f"wandb sync {tmp_path}/run/wandb/offline-run-1"}


def test_wandb_where_nobody_is_logged_in_trains_nothing(wandb: Backend, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^logger=wandb: nobody is logged in; expected wandb login, WANDB_API_KEY, or"
    ):
        logged(tmp_path, "logger=wandb")
    assert list((tmp_path / "run").iterdir()) == []
    assert wandb.made == []


def test_mlflow_gets_the_setting_the_accuracies_and_the_metrics(mlflow: Backend, tmp_path: Path) -> None:
    made, cells = logged(tmp_path, "logger=mlflow", "++logger.mlflow.tracking_uri=sqlite:///runs.db")
    (given,) = mlflow.made
    assert (given["tracking_uri"], given["experiment"], given["id"]) == ("sqlite:///runs.db", "clsweep", "7")
    assert (given["run_name"], given["tags"]) == ("split_mnist-si-s0", {})
    assert (given["params"]["regularizer"], given["params"]["iters"]) == ("si", "60")
    values = {(one["name"], one["at"]): one["value"] for one in mlflow.logged}
    assert values["test/context_02", 2] == cells["test", 2, 2]
    assert values["final/average_accuracy", 2] == made.summary.average_accuracy
    assert {at for name, at in values if name == "train/loss"} == {1, 51, 101}
    assert mlflow.ended == ["finished", "FINISHED"]


def test_the_trials_of_a_study_are_a_group_and_an_experiment(wandb: Backend, mlflow: Backend, tmp_path: Path) -> None:
    loggers = ["logger=[wandb,mlflow]", "++logger.wandb.mode=offline"]
    study = worker(tmp_path, "regularizer=si", "search.n_trials=1", "search.final_seeds=0", *loggers)
    finish(study)
    storage.close(sweeping.opened.pop())
    assert [(one["group"], one["name"]) for one in wandb.made] == [(study.plan.name, "trial-0000")]
    assert [(one["experiment"], one["tags"]) for one in mlflow.made] == [(study.plan.name, {"study": study.plan.name})]


@pytest.mark.parametrize("typed", ["logger=tensorboard", "tensorboard=true"])
def test_tensorboard_has_the_accuracies_and_the_final_metrics(typed: str, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made, cells = logged(tmp_path, typed)
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    for split in ("test", "validation"):
        second = events.Scalars(f"{split}/context_02")
        assert [(one.step, one.value) for one in second] == [(2, pytest.approx(cells[split, 2, 2]))]
        means = [(one.step, one.value) for one in events.Scalars(f"{split}/mean_of_learned")]
        both = (cells[split, 1, 2] + cells[split, 2, 2]) / 2
        assert means == [(1, pytest.approx(cells[split, 1, 1])), (2, pytest.approx(both))]
    (final,) = events.Scalars("final/average_accuracy")
    assert final.value == pytest.approx(made.summary.average_accuracy)
    assert made.places == {"logger.tensorboard": f"tensorboard --logdir {tmp_path / 'run'}"}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_without_the_package_it_is_named_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"clsweep.training.loggers.{name}", raising=False)
    monkeypatch.setattr("clsweep.training.loggers.find_spec", lambda package: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(InputError) as caught:
        setting(*TINY, f"logger={name}")
    assert str(caught.value) == (
        f"logger={name}: the package {name} is not installed; expected pip install {name} before it."
    )


def test_a_sweepers_list_of_loggers_is_one_setting(
    wandb: Backend, mlflow: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["logger=[wandb,mlflow]", "logger.wandb.mode=offline", "regularizer=none,l2", "figures=false"]
    assert command(monkeypatch, "--multirun", "hydra/sweeper=basic", *TINY, *typed) == 0
    assert [one["name"] for one in wandb.made] == ["split_mnist-none-s0", "split_mnist-l2-s0"]
    assert len(mlflow.made) == 2
