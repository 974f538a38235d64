"""Methods in pairs: which runs are compared, the files, and the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from trees import write_run, write_seeds

from clsweep import results
from clsweep.report import leaderboard, pairs
from clsweep.report.command import main
from clsweep.report.selection import select
from clsweep.results import power, rivals
from clsweep.results.rivals import Resampling

PERM: dict[str, Any] = {"benchmark": "perm_mnist", "scenario": "domain"}
SI: dict[str, Any] = {"regularizer": "si", "hyperparameters": "reg_strength epsilon"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    write_seeds(folder, [0.95, 0.96, 0.955], **SI)
    write_seeds(folder, [0.93, 0.941, 0.936])
    write_seeds(folder, [0.94], regularizer="mas")
    write_seeds(folder, [0.5, 0.5, 0.5, 0.5], regularizer="mas", reg_strength=0.1, benchmark="rotated_mnist")
    for bound, accuracy in (("joint", 0.99), ("none", 0.7)):
        write_run(folder / bound, accuracy, regularizer=bound, stream="joint" if bound == "joint" else "sequential")
    write_seeds(folder, [0.90, 0.91, 0.89], **PERM, **SI)
    for seed, accuracy in ((7, 0.91), (8, 0.92)):
        write_run(folder / f"perm-{seed}", accuracy, seed=seed, **PERM)
    return folder


@pytest.fixture(scope="module")
def report(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "report"
    assert main([str(outputs), "--output", str(folder)]) == 0
    return folder


def read(outputs: Path) -> tuple[pairs.Scores, pd.DataFrame]:
    chosen = select(results.load(outputs))
    table = leaderboard.rows(chosen.runs)
    return pairs.scores(table, chosen.runs), table


def test_each_methods_own_row_is_compared_and_no_bound(outputs: Path) -> None:
    made, table = read(outputs)
    assert set(made) == {"si", "ewc", "mas"}
    assert made["si"]["split_mnist"] == pytest.approx({0: 0.95, 1: 0.96, 2: 0.955})
    assert made["ewc"]["perm_mnist"] == pytest.approx({7: 0.91, 8: 0.92})
    (gap,) = pairs.gaps(table).items()
    assert gap[0] == "split_mnist"
    assert gap[1] == pytest.approx((0.7, 0.99))


def test_pairs_are_compared_over_all_benchmarks_and_on_each(outputs: Path, report: Path) -> None:
    written = pd.read_csv(report / "pairs.csv").set_index("scope")
    assert set(written.index) == {"all", "split_mnist", "perm_mnist"}
    made, _ = read(outputs)
    whole = rivals.compare(made["si"], made["ewc"], Resampling())
    assert whole is not None
    row = written.loc["all"]
    assert (row["first"], row["second"], row["scale"]) == ("si", "ewc", "accuracy")  # perm_mnist has no bounds
    assert row["improvement"] == whole.improvement.value == pytest.approx((1 + 0.5 / 6) / 2)
    assert row["iqm_difference_low"] == pytest.approx(whole.difference.low)
    assert (row["common_seeds"], row["paired_benchmarks"]) == (3, 1)
    assert written.loc["perm_mnist", "first"] == "ewc"  # more often better there
    assert written.loc["perm_mnist", "common_seeds"] == 0


def test_several_benchmarks_are_pooled_as_shares_of_the_gap_where_the_bounds_are_known() -> None:
    made: pairs.Scores = {
        "a": {"easy": {0: 0.98, 1: 0.97, 2: 0.99}, "hard": {0: 0.60, 1: 0.58, 2: 0.59}},
        "b": {"easy": {0: 0.96, 1: 0.97, 2: 0.95}, "hard": {0: 0.50, 1: 0.52, 2: 0.51}},
    }
    bounds = {"easy": (0.8, 1.0), "hard": (0.4, 0.65)}
    table = pairs.pairs(made, bounds, {}).set_index("scope")
    assert table["scale"].to_dict() == {"all": "share of the gap", "easy": "accuracy", "hard": "accuracy"}
    shares = {
        name: {where: {seed: (one - low) / (high - low) for seed, one in values[where].items()}
               for where, (low, high) in bounds.items()}
        for name, values in made.items()
    }  # fmt: skip
    expected = rivals.compare(shares["a"], shares["b"], Resampling())
    assert expected is not None
    assert table.loc["all", "iqm_difference"] == pytest.approx(expected.difference.value)
    plain = rivals.compare(made["a"], made["b"], Resampling())
    assert plain is not None
    assert table.loc["all", "improvement"] == plain.improvement.value  # no scale changes which run is better
    without = pairs.pairs(made, {"easy": bounds["easy"]}, {}).set_index("scope")
    assert without.loc["all", "scale"] == "accuracy"
    assert without.loc["all", "iqm_difference"] == pytest.approx(plain.difference.value)


def test_seeds_needed_are_those_of_the_differences_that_were_seen(outputs: Path, report: Path) -> None:
    written = pd.read_csv(report / "seeds_needed.csv")
    made, _ = read(outputs)
    for row in written.to_dict("records"):
        one, other = (made[row[place]][row["benchmark"]] for place in ("first", "second"))
        expected = power.needed(one, other, 0.005)
        assert expected is not None
        assert row["test"] == ("paired" if expected.paired else "unpaired")
        assert [row[name] for name in ("seeds", "deviation", "needed", "needed_low", "needed_high")] == pytest.approx(
            [expected.seeds, expected.deviation, expected.needed, expected.low, expected.high]
        )
    first = written[written["benchmark"] == "split_mnist"].iloc[0]
    assert (first["first"], first["second"]) == ("si", "mas")  # the two highest means
    assert set(written[written["benchmark"] == "perm_mnist"]["test"]) == {"unpaired"}


def test_the_page_has_one_open_table_for_pairs_and_one_for_seeds(report: Path) -> None:
    page = (report / "report.html").read_text()
    part = page[page.index('<section id="pairs">') :]
    part = part[: part.index("</section>")]
    assert part.count("<table") - part.count("<details>") == 2
    assert "Probability of improvement" in part
    assert "2,000" in part
    assert "no common seeds" in part
    assert "Seeds needed for a difference of 0.005" in part
    assert '<a href="#pairs">' in page


@pytest.mark.slow
def test_two_reports_say_the_same(outputs: Path, report: Path, tmp_path: Path) -> None:
    assert main([str(outputs), "--output", str(tmp_path / "again")]) == 0
    for name in ("pairs.csv", "seeds_needed.csv", "expected_best.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes()


def test_a_pair_says_how_many_runs_of_each_failed(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.95, 0.96, 0.955], **SI)
    write_seeds(tmp_path, [0.93, 0.94, 0.935])
    for seed in (3, 4):
        write_run(tmp_path / f"failed-{seed}", seed=seed, status="failed", reason="NaN", **SI)
    assert main([str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    row = pd.read_csv(tmp_path / "report" / "pairs.csv").iloc[0]
    assert row[["first", "first_runs", "first_failed"]].tolist() == ["si", 3, 2]
    assert row[["second", "second_runs", "second_failed"]].tolist() == ["ewc", 3, 0]
    page = (tmp_path / "report" / "report.html").read_text()
    part = page[page.index('<section id="pairs">') :]
    assert "<td>si (2 failed)</td><td>ewc</td>" in part


def test_one_method_alone_has_no_pairs(tmp_path: Path) -> None:
    write_seeds(tmp_path / "runs", [0.9, 0.91])
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    assert pd.read_csv(tmp_path / "report" / "pairs.csv").empty
    assert pd.read_csv(tmp_path / "report" / "seeds_needed.csv").empty
    assert 'id="pairs"' not in (tmp_path / "report" / "report.html").read_text()


def test_many_pairs_are_in_the_file_and_few_are_open() -> None:
    made: pairs.Scores = {
        f"m{i:02}": {"b": {seed: 0.9 - 0.01 * i + 0.001 * math.sin(i * seed) for seed in range(4)}} for i in range(30)
    }
    compared, needed = pairs.pairs(made, {}, {}), pairs.seeds_needed(made)
    assert (len(compared), len(needed)) == (435, 435)
    shown = pairs.comparisons(compared, needed, made)
    assert (len(shown.pairs), len(shown.seeds)) == (12, 1)
    assert {row.first for row in shown.pairs} == {"m00"}
    assert (len(shown.more_pairs), len(shown.more_seeds)) == (200, 200)
    assert shown.hidden == 435 - 12 - 200 + 435 - 1 - 200
