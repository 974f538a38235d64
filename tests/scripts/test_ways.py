"""The experiment on what to tune on: ways differ in what judges a trial, and in nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from builders import ROOT

from clsweep.config import RegularizerConfig
from clsweep.methods.loading import load
from clsweep.sweeps import command
from clsweep.sweeps.plan import StudyPlan

sys.path.insert(0, str(ROOT / "scripts"))
from evaluation import ways
from evaluation.declared import EXPERIMENTS
from evaluation.experiment import NOTHING, Made, Setting

MNIST = "dataset.root=somewhere"


def studies(benchmark: str, method: str) -> dict[str, StudyPlan]:
    """The study of each way that searches, as its sweep is typed."""
    made = {}
    for setting in EXPERIMENTS["tuning"].settings:
        if setting.trials and setting.name.startswith(benchmark):
            own = next(one for one in setting.methods if one.name == method)
            (run,) = setting.searches(own)
            (made[setting.name.removeprefix(f"{benchmark}_")],) = command.read([*run.overrides, MNIST], Path("x")).plans
    return made


@pytest.mark.parametrize(
    ("benchmark", "method", "trials"), [("split_mnist", "si", 15), ("perm_mnist", "online_ewc", 8)]
)
def test_all_ways_begin_alike_and_search_the_same(benchmark: str, method: str, trials: int) -> None:
    made = studies(benchmark, method)
    assert list(made) == ["stream", "first_contexts", "other_data"]
    ways = [one.way.shown for one in made.values()]
    assert ways == ["stream", "first_contexts 3", "other_data mnist_5k"]
    first, *others = made.values()
    assert all((one.default, one.ranges) == (first.default, first.ranges) for one in others)
    assert {one.name_on_stream for one in made.values()} == {first.name}
    assert {one.n_trials for one in made.values()} == {trials}


def test_the_default_values_are_those_that_methods_declare() -> None:
    settings = [one for one in EXPERIMENTS["tuning"].settings if one.name.endswith("_defaults")]
    assert len(settings) == 2
    for setting in settings:
        for method in setting.methods:
            typed = dict(one.removeprefix("regularizer.").split("=") for one in method.overrides)
            name = typed.pop("regularizer")
            typed.pop("fisher.examples", None)  # how it is estimated, in all ways
            found = load(
                RegularizerConfig(name, file=str(ROOT / "custom_regularization.py"))
                if name == "custom"
                else RegularizerConfig(name, _target_=_target(name))
            )
            assert {key: float(value) for key, value in typed.items()} == {
                key: found.declared[key].default for key in found.spaces
            }


def test_values_of_the_table_are_hyperparameters_alone() -> None:
    (setting,) = (one for one in EXPERIMENTS["tuning"].settings if one.name == "perm_mnist_defaults")
    told = {method.name: ways._values(setting, method, NOTHING) for method in setting.methods}
    assert told["ewc"] == "reg_strength 1"
    assert told["online_ewc"] == "reg_strength 1, gamma 1"


def _target(name: str) -> str:
    text = (ROOT / "conf" / "regularizer" / f"{name}.yaml").read_text()
    return next(line.partition(": ")[2] for line in text.splitlines() if line.startswith("_target_"))


def test_the_table_pairs_seeds_and_ranks_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = EXPERIMENTS["tuning"]
    assert ways.table(experiment, NOTHING).startswith("Not run yet: 152 runs, about ")

    reached = {"stream": [0.9, 0.8, 0.7, 0.6], "first_contexts": [0.88, 0.85, 0.7, 0.6]}

    def of(_: Made, setting: Setting) -> pd.DataFrame:
        way = setting.name.removeprefix("split_mnist_")
        rows = [
            {"method": method.name, "seed": seed, "average_accuracy": accuracy + 0.01 * (seed - 5000)}
            for method, accuracy in zip(setting.methods, reached.get(way, []), strict=False)
            for seed in (5000, 5001)
        ]
        return pd.DataFrame(rows, columns=["method", "seed", "average_accuracy"])

    monkeypatch.setattr(Made, "of", of)
    lines = ways.table(experiment, NOTHING).splitlines()
    shipped, ewc = (
        [line for line in lines if f"| {name} |" in line][:2] for name in ("`custom_regularization.py`", "EWC")
    )
    assert shipped[0].endswith("|  | 1 of 4 |")
    assert shipped[1].endswith("| +0.0200 | 1 of 4 |")  # without an interval: both seeds differ by the same
    assert ewc[1].endswith("| -0.0500 | 2 of 4 |")
