"""What each way of tuning costs: paired over common seeds, and whether the ranking holds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clsweep import results
from clsweep.report import regret
from clsweep.results import Results

FIRST, OTHER, NONE = "first_contexts 3", "other_data mnist_5k", "defaults"
Accuracies = dict[int, float]
# By method and way; the default values of studies that search are in it to be left out.
SI: dict[str, Accuracies] = {
    "stream": {5: 0.90, 6: 0.92, 7: 0.91},
    FIRST: {5: 0.89, 6: 0.89, 7: 0.91},
    NONE: {5: 0.7, 6: 0.8, 8: 0.1},
}
EWC: dict[str, Accuracies] = {
    "stream": {5: 0.88, 6: 0.91, 7: 0.90},
    FIRST: {5: 0.895, 6: 0.915, 7: 0.905},
    OTHER: {9: 0.5},
    NONE: {5: 0.88, 6: 0.91, 7: 0.90},
}
ALONE: dict[str, Accuracies] = {FIRST: {5: 0.99}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    finals, studies = [], []
    for method, ways in (("si", SI), ("ewc", EWC), ("mas", ALONE)):
        for way, by_seed in ways.items():
            study = f"{method} {way}"
            studies.append({"study": study, "benchmark": "split_mnist", "method": method})
            settings = ["default"] if way == NONE else ["tuned", "default"]
            for setting in settings:
                shift = 0.3 if setting == "default" and len(settings) > 1 else 0.0
                finals += [
                    {"study": study, "setting": setting, "protocol": "p", "seed": seed, "tune_on": way}
                    | {"test_average_accuracy": value - shift, "comparable": f"study of {method}"}
                    for seed, value in by_seed.items()
                ]
    empty = results.load(tmp_path_factory.mktemp("empty"))
    return replace(empty, finals=pd.DataFrame(finals), studies=pd.DataFrame(studies))


def row(table: pd.DataFrame, method: str, way: str) -> pd.Series:
    (index,) = table.index[(table["method"] == method) & (table["tune_on"] == way)]
    made: pd.Series = table.loc[index]
    return made


@pytest.mark.parametrize(("method", "ways"), [("si", SI), ("ewc", EWC)])
@pytest.mark.parametrize("way", [FIRST, NONE])
def test_regret_is_the_mean_difference_over_common_seeds(
    method: str, ways: dict[str, Accuracies], way: str, found: Results
) -> None:
    made = row(regret.rows(found), method, way)
    common = sorted(ways["stream"].keys() & ways[way].keys())
    lost = np.array([ways["stream"][seed] - ways[way][seed] for seed in common])
    assert made["common_seeds"] == len(common)
    assert made["regret"] == pytest.approx(lost.mean(), abs=1e-12)
    if lost.std() == 0:
        assert math.isnan(made["regret_low"])
        return
    half = stats.t.ppf(0.975, len(lost) - 1) * lost.std(ddof=1) / math.sqrt(len(lost))
    assert (made["regret_low"], made["regret_high"]) == pytest.approx((lost.mean() - half, lost.mean() + half))


def test_every_way_has_the_mean_of_its_own_seeds(found: Results) -> None:
    table = regret.rows(found)
    for method, ways in (("si", SI), ("ewc", EWC)):
        for way, by_seed in ways.items():
            made = row(table, method, way)
            assert made["test_average_accuracy"] == pytest.approx(np.mean(list(by_seed.values())))
            assert made["seeds"] == len(by_seed)
    assert "mas" not in set(table["method"])  # there is nothing to compare it with
    without = row(table, "ewc", OTHER)
    assert math.isnan(without["regret"])
    assert without["common_seeds"] == 0


def test_the_ranking_is_compared_among_methods_that_have_both_ways(found: Results) -> None:
    table = regret.rows(found)
    ranks = {way: [row(table, method, way)["rank"] for method in ("si", "ewc")] for way in ("stream", FIRST, NONE)}
    assert ranks == {"stream": [1, 2], FIRST: [2, 1], NONE: [2, 1]}
    assert row(table, "si", FIRST)["rank_on_stream"] == 1
    assert (row(table, "ewc", OTHER)["rank"], row(table, "ewc", OTHER)["ranked"]) == (1, 1)


def test_the_page_says_whether_the_ranking_holds(found: Results) -> None:
    (part,) = regret.parts(regret.rows(found), pd.DataFrame(columns=["protocol"]))
    assert part.title == "split_mnist, protocol p"
    assert part.told == [
        f"{way}: ranks 2 of 2 methods otherwise than stream: si 1 → 2, ewc 2 → 1." for way in (FIRST, NONE)
    ]
    shown = {(one.method, one.way): one for one in part.rows}
    assert shown["si", FIRST].regret.startswith("+0.0133 [")
    assert shown["ewc", OTHER].regret == "no common seed"
    assert shown["ewc", OTHER].rank == ""
    assert shown["si", "stream"].regret == ""
    assert shown["si", "stream"].rank == "1 of 2"


def test_results_of_before_have_none(found: Results) -> None:
    before = replace(found, finals=found.finals.assign(comparable="", tune_on="stream"))
    assert regret.rows(before).empty
    assert regret.parts(regret.rows(before), pd.DataFrame(columns=["protocol"])) == []
    assert list(regret.rows(results.load(Path(__file__).parent)).columns) == list(regret.COLUMNS)
