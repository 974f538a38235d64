"""The page of strengths, held against the kept rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from builders import CONF, ROOT

from clsweep import results

sys.path.insert(0, str(ROOT / "scripts"))
import strengths
from evaluation import pages


@pytest.fixture(scope="module", autouse=True)
def from_the_root() -> Iterator[None]:
    """Folders are named from where one is, and sorted by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


def cells(text: str) -> list[list[str]]:
    """Of the tables in a text, line by line."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.slow
def test_the_page_is_what_the_kept_rows_give() -> None:
    page = strengths.PAGE.read_text()
    assert page == pages.renewed(page, strengths.tables(), strengths.BEGIN), "python scripts/strengths.py writes it"


def test_strengths_of_another_estimator_are_not_the_usual_ones() -> None:
    found = results.load(strengths.REFERENCE / "experiments" / "fisher_estimators")
    runs = found.runs[found.runs["validation_fraction"] > 0]
    usual = runs["method_options"] == "fisher.labels=exact fisher.examples=null"
    assert usual.any()
    assert not usual.all()
    (scan,) = strengths._scans(found)
    assert sorted(scan.trials["folder"]) == sorted(runs.loc[usual, "folder"])


@pytest.mark.parametrize("benchmark", strengths.TUNED)
def test_the_page_has_every_tuned_value_and_a_figure(benchmark: str) -> None:
    page = strengths.PAGE.read_text()
    head, *rows = cells(page.split("## Where to start", 1)[1])
    column = head.index(f"`{benchmark}`")
    for file in (CONF / "tuned" / benchmark).glob("*.yaml"):
        row = next(row for row in rows if row[0] == f"`{file.stem}`")
        start = row[column].split(",")[0]
        assert float(start) == float(yaml.safe_load(file.read_text())["reg_strength"])
    assert f"](figures/strengths-{benchmark}.svg)" in page
    assert (strengths.FIGURES / f"strengths-{benchmark}.svg").is_file()


def test_a_row_says_what_a_sweep_found() -> None:
    """The sweep of EWC on the benchmark's usual setting that tried the value to start from."""
    found = results.load(strengths.REFERENCE / "experiments" / "arena")
    is_ewcs = found.trials["study"].str.contains("/split_mnist-ewc-")
    trials = found.trials[is_ewcs & (found.trials["state"] == "COMPLETE")]
    best, start, strength = 0.0, 0.0, 0.0
    for _, row in trials.iterrows():
        if row["validation_average_accuracy"] > best:
            best, strength = row["validation_average_accuracy"], row["reg_strength"]
        if abs(row["reg_strength"] - 4.1e5) < 1e4:
            start = row["validation_average_accuracy"]
    expected = f"| {strength:.3g} | {best:.4f} | {start:.4f} |".replace("e+0", "e")
    text = strengths.PAGE.read_text()
    assert expected in next(line for line in text.splitlines() if line.startswith("| `ewc` | 2,000 iterations; "))
    first = strengths.of("split_mnist", "ewc")[0]
    assert (first.iters, first.searched, first.unusual) == (2_000, ("reg_strength",), False)
    assert first.complete["validation_average_accuracy"].max() == best


def test_the_last_table_has_the_best_strength_of_every_setting() -> None:
    head, _, *rows = cells(strengths.PAGE.read_text().split("## How the best strength moves", 1)[1])
    told = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    quick = max(
        (one for one in strengths.of("split_mnist", "si") if one.setting == "200 iterations"),
        key=lambda one: len(one.attempts),
    )
    assert told["`split_mnist`, 200 iterations"]["`si`"] == f"1e3 ({len(quick.attempts)})"
    assert quick.best["reg_strength"] == 1e3
    assert len(told) == len({(one.benchmark, one.setting) for one in strengths.searches()})


def test_a_grid_is_one_search_with_all_of_its_points() -> None:
    grid = pd.read_csv(strengths.REFERENCE / "search" / "split_mnist-si-seed0.csv")
    mine = next(one for one in strengths.of("split_mnist", "si") if len(one.trials) == len(grid))
    assert mine.searched == ("reg_strength", "epsilon")
    row = max(grid.to_dict("records"), key=lambda one: one["validation_after_5"])
    assert mine.best["reg_strength"] == row["reg_strength"]
    at = mine.at({"reg_strength": row["reg_strength"], "epsilon": row["epsilon"]})
    assert at == row["validation_after_5"]
    assert np.isnan(mine.at({"reg_strength": 12_345.0}))


def test_what_is_unusual_about_a_search_is_said() -> None:
    settings = {one.setting for one in strengths.searches()}
    assert {"2,000 iterations", "500 iterations, network mlp 100 100", "500 iterations, 3 contexts"} <= settings
    assert "200 iterations, 5,378 training images" in settings
    assert not any("None" in one for one in settings)


def test_methods_that_were_never_tuned_are_named() -> None:
    made = strengths.untuned()
    assert made["owm"] == "alpha 0.001"
    assert not set(made) & {"ewc", "si", "lwf", "custom", "none"}


def test_a_figure_has_a_panel_for_each_method_that_was_searched() -> None:
    plot = strengths.draw("perm_mnist")
    titles = [plain.get_title(loc="left") for plain in plot.figure.axes]
    assert titles == ["custom", "ewc", "kfac_ewc", "online_ewc", "rwalk", "si"]
    dashed = [line for line in plot.figure.axes[1].get_lines() if line.get_linestyle() == "--"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in dashed] == [250.0]


def test_what_has_changed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figure.svg"
    pages.tell([pages.replaced(file, b"new"), pages.replaced(file, b"new"), pages.replaced(file, b"other")])
    assert capsys.readouterr().out == f"changed  {file}\nchanged  {file}\n"
    pages.tell([pages.replaced(file, b"other")])
    assert capsys.readouterr().out == "nothing has changed\n"


@pytest.mark.slow
def test_a_figure_is_the_same_file_each_time() -> None:
    assert strengths.draw("perm_mnist").svg() == strengths.draw("perm_mnist").svg()
