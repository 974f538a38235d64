"""The script that replays sweeps against recorded learning curves, and the tables that it makes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import ROOT
from optuna.pruners import BasePruner

from clsweep.space import parse
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.samplers import sampler

STRENGTHS = np.logspace(0, 13, 14)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import compare_search

    return compare_search


@pytest.fixture
def case(script: ModuleType) -> Any:
    """The search of ewc on split_mnist, as it ships."""
    return script.CASES[0]


@pytest.fixture
def curves(script: ModuleType) -> Any:
    """Best at a strength of 1e4; one in three contexts' worth of difference shows after each context."""
    table = pd.DataFrame({"reg_strength": STRENGTHS, "seconds": 1.0})
    for after in range(1, 6):
        table[f"validation_after_{after}"] = 0.9 - 0.01 * (after - 1) * np.abs(np.log10(STRENGTHS) - 4)
    return script.Curves(table, ["reg_strength"], [True])


def test_between_two_points_a_curve_is_a_line_over_the_logarithm(curves: Any) -> None:
    assert curves({"reg_strength": 1e4}) == pytest.approx([0.9] * 5)
    assert curves({"reg_strength": 10**5.5}) == pytest.approx([0.9, 0.885, 0.87, 0.855, 0.84])
    assert curves.best(parse({"reg_strength": "tag(log, interval(1, 1e13))"})) == pytest.approx(0.9)
    assert curves.best(parse({"reg_strength": "tag(log, interval(1, 316.227766))"})) == pytest.approx(0.84)


def test_two_hyperparameters_may_have_different_scales(script: ModuleType) -> None:
    rows = [(a, b, np.log10(a) + b) for a in (1, 100) for b in (0.0, 1.0)]
    table = pd.DataFrame(rows, columns=["reg_strength", "gamma", "validation_after_1"])
    between = script.Curves(table, ["reg_strength", "gamma"], [True, False])
    assert between({"gamma": 0.25, "reg_strength": 10.0}) == pytest.approx([1.25])


def replayed(script: ModuleType, case: Any, curves: Any, judges: BasePruner, n: int) -> list[Any]:
    trials = script.replay(case, curves, sampler("tpe", None, 0), judges)
    return [next(trials) for _ in range(n)]


def test_a_replay_starts_where_a_sweep_does_and_finds_what_the_curves_have(
    script: ModuleType, case: Any, curves: Any
) -> None:
    trials = replayed(script, case, curves, pruner(None, None, 5), 20)
    assert trials[0].point == {"reg_strength": 1e6}
    assert [trial.value for trial in trials] == pytest.approx([curves(trial.point)[-1] for trial in trials])
    assert {trial.contexts for trial in trials} == {4}  # the first is shared
    assert max(trial.value for trial in trials) > 0.88


@pytest.mark.parametrize("name", ["median", "successive_halving"])
def test_what_is_stopped_has_no_value_and_no_context_is_trained_twice(
    script: ModuleType, case: Any, curves: Any, name: str
) -> None:
    trials = replayed(script, case, curves, pruner(name, None, 5), 40)
    contexts: dict[float, int] = defaultdict(int)
    for trial in trials:
        contexts[trial.point["reg_strength"]] += trial.contexts
        assert (contexts[trial.point["reg_strength"]] == 4) == (trial.value is not None)
    assert 0 < sum(trial.value is None for trial in trials) < 40
    assert all(trial.is_new for trial in trials) == (name == "median")
    assert len(contexts) == sum(trial.is_new for trial in trials)


def test_time_goes_by_contexts_and_what_is_not_finished_by_then_does_not_count(
    script: ModuleType, case: Any, curves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(
        [script.Replayed({"reg_strength": 1e4}, value, c, True) for value, c in ((0.5, 4), (None, 1), (0.7, 4))]
    )
    monkeypatch.setattr(script, "replay", lambda *_: made)
    monkeypatch.setattr(script, "BUDGETS", (1, 2))
    tables = script.Tables(Path())
    monkeypatch.setattr(tables, "of", lambda _: curves)
    row = script.measured(case, tables, "random", "none", 0)
    assert (row["found_trials_1"], row["found_trials_2"]) == (0.5, 0.5)
    assert (row["found_time_1"], row["begun_time_1"]) == (0.5, 1)
    assert (row["found_time_2"], row["begun_time_2"]) == (0.5, 2)  # 4 + 1 + 4 contexts are more than 2 runs of 4
