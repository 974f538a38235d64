from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trees import write_run, write_seeds, write_study

from clsweep import results
from clsweep.report import figures, leaderboard, names
from clsweep.report.command import main
from clsweep.report.plots import contexts, studies
from clsweep.report.plots.style import INK, looks
from clsweep.report.selection import select
from clsweep.results import Results
from clsweep.results.statistics import estimate
from clsweep.results.tuning import best_of
from clsweep.sweeps import space


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and both bounds, a study, and what goes wrong."""
    folder = tmp_path_factory.mktemp("outputs")
    write_seeds(folder, [0.95, 0.96, 0.955], regularizer="si", hyperparameters="reg_strength epsilon")
    write_seeds(folder, [0.93, 0.941, 0.936], regularizer="ewc")
    write_run(folder / "joint", 0.99, regularizer="joint", stream="joint", hyperparameters="")
    write_run(folder / "none", 0.7, regularizer="none", hyperparameters="")
    write_run(folder / "perm", 0.9, benchmark="perm_mnist", scenario="domain", regularizer="<mine>")
    write_run(folder / "broken", status="failed", reason="training diverged")
    write_study(folder / "sweeps" / "split_mnist-online_ewc-0a1b2c3d")
    (folder / "shopping.csv").write_text("milk\n")
    return folder


@pytest.fixture(scope="module")
def made(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report, and what was printed."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(outputs), "--output", str(folder)]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def report(made: tuple[Path, str]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def found(outputs: Path) -> Results:
    return results.load(outputs)


def test_the_report_is_complete(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == {
        "report.html",
        "leaderboard.csv",
        "leaderboard.md",
        "pairs.csv",
        "seeds_needed.csv",
        "expected_best.csv",
        "left_out.csv",
        "figures",
        ".clsweep-report",
    }
    names = {path.stem for path in (report / "figures").iterdir()}
    split, perm = "split_mnist-task-on-mnist-full-budget", "perm_mnist-domain-on-mnist-full-budget"
    study = "study-split_mnist-online_ewc-0a1b2c3d"
    assert names == {
        *(f"{protocol}-{kind}" for protocol in (split, perm) for kind in ("accuracy", "forgetting", "matrices")),
        f"{study}-search",
        f"{study}-sensitivity",
        f"{study}-importance",
    }
    for name in names:
        with Image.open(report / "figures" / f"{name}.png") as image:
            assert min(image.size) > 100
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert "<svg" in (report / "figures" / f"{name}.svg").read_text()
        assert len(pd.read_csv(report / "figures" / f"{name}.csv")) > 0


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    page = (report / "report.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    ids = set(re.findall(r'\bid="([^"]*)"', page))
    assert references
    for reference in references:
        assert reference.startswith(("data:", "#"))
        if reference.startswith("#"):
            assert reference[1:] in ids
    assert "@import" not in page
    assert len(ids) == len(re.findall(r'\bid="', page)), "an id twice"


def test_what_matters_comes_first_and_bookkeeping_last(report: Path) -> None:
    page = (report / "report.html").read_text()
    order = ["leaderboard", "split_mnist-task-on-mnist-full-budget", "studies", "read", "left-out"]
    places = [page.index(f'id="{name}"') for name in order]
    assert places == sorted(places)
    assert page.index("15 runs: 13 finished") > places[-2]


def test_a_study_is_named_by_what_it_is_with_its_folder_beneath(report: Path, outputs: Path) -> None:
    title, folder = "Split-MNIST, full budget: Online EWC", outputs / "sweeps" / "split_mnist-online_ewc-0a1b2c3d"
    page = " ".join((report / "report.html").read_text().split())
    assert f'<h3>{title}</h3> <p class="soft"><code>{folder}</code></p>' in page


def test_studies_of_the_same_kind_are_told_apart(tmp_path: Path) -> None:
    for sweep in ("first", "second"):
        write_study(tmp_path / sweep / "split_mnist-online_ewc-0a1b2c3d")
    assert names.study_titles(results.load(tmp_path)) == [
        "Split-MNIST, full budget: Online EWC (first)",
        "Split-MNIST, full budget: Online EWC (second)",
    ]


def test_figures_on_the_page_take_its_colours(report: Path) -> None:
    _, shown = (report / "report.html").read_text().split("</style>", 1)
    assert INK.lower() not in shown
    assert "currentColor" in shown
    assert INK.lower() in (report / "figures" / "split_mnist-task-on-mnist-full-budget-accuracy.svg").read_text()


def test_names_from_files_cannot_write_html(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page


def test_the_csv_holds_the_leaderboard(report: Path, found: Results) -> None:
    written = pd.read_csv(report / "leaderboard.csv")
    expected = leaderboard.rows(select(found).runs)
    assert list(written["average_accuracy"]) == pytest.approx(list(expected["average_accuracy"]))
    assert list(written["method"]) == list(expected["method"])


def test_the_markdown_marks_the_best_and_shows_intervals(report: Path) -> None:
    text = (report / "leaderboard.md").read_text()
    made = estimate([0.95, 0.96, 0.955])
    assert f"| si |  | **{made.mean:.4f} ± {made.half_width:.4f}** (n=3) |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    heads = {line: line.count("|") for line in rows}
    assert set(heads.values()) == {4, 9}  # the overview, and the protocols' tables
    assert "paired t-test over common seeds" in text


def test_what_is_left_out_is_named(report: Path, outputs: Path) -> None:
    with (report / "left_out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: (row["what"], row["reason"]) for row in csv.DictReader(file)}
    assert rows == {
        "broken": ("failed", "training diverged"),
        "trial-0002": ("pruned", "worse"),
        "shopping.csv": ("skipped", "not a file of a run or a study"),
    }
    page = (report / "report.html").read_text()
    assert all(name in page for name in rows)


def test_the_terminal_shows_means_counts_and_what_was_skipped(made: tuple[Path, str]) -> None:
    _, printed = made
    assert re.search(r"si +│ +│ 0\.9550 ± 0\.0124 \*", printed)
    assert "15 runs: 13 finished, 1 failed, 1 pruned" in printed
    assert "shopping.csv: not a file of a run or a study" in printed
    assert "report.html" in printed


def test_a_second_report_replaces_the_first_and_does_not_read_it(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.9)
    assert main([str(tmp_path)]) == 0
    before = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    (tmp_path / "report" / "figures" / "mine.pdf").write_bytes(b"")
    (tmp_path / "run" / "summary.csv").unlink()
    write_run(tmp_path / "another", 0.9, seed=1, benchmark="perm_mnist")
    write_run(tmp_path / "third", 0.9, seed=2, benchmark="perm_mnist")
    (tmp_path / "run" / "accuracy.csv").unlink()
    assert main([str(tmp_path)]) == 0
    after = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert before.isdisjoint(after)
    assert "mine.pdf" in after
    assert pd.read_csv(tmp_path / "report" / "left_out.csv").empty
    assert list(pd.read_csv(tmp_path / "report" / "leaderboard.csv")["seeds"]) == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: not a folder; expected one with the results of runs, such as outputs/."),
        (["empty"], "empty: no finished run; expected folders below which clsweep has run."),
        (["failed"], "failed: no finished run, 1 failed; expected folders below which clsweep has run."),
        (
            ["damaged"],
            "damaged: no finished run; damaged/run/summary.csv was left out (not a clsweep summary: it lacks the "
            "column run_id); expected folders below which clsweep has run.",
        ),
        (["good", "--output", "other"], "--output=other: holds something else than a report"),
        (["good", "--output", "page"], "--output=page: holds something else than a report"),
        (["good", "--output", "file"], "--output=file: is a file; expected a folder."),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good" / "run")
    write_run(tmp_path / "failed" / "run", status="failed")
    (write_run(tmp_path / "damaged" / "run") / "summary.csv").write_text("a\n1\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "report.html").write_text("mine")
    (tmp_path / "file").write_text("")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"clsweep-report: {message}")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_one_bad_file_or_figure_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "odd", 0.9, regularizer="$\\foo$ [/red]", regularizer_digest="0" * 12)
    study = write_study(tmp_path / "study")
    best = (study / "best.yaml").read_text()
    (study / "best.yaml").write_text(best.replace("interval(0.05, 1)", "interval(1"))

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(figures, "matrices", broken)
    assert main([str(tmp_path)]) == 0
    left = pd.read_csv(tmp_path / "report" / "left_out.csv").set_index("path")["reason"]
    assert "this figure was not drawn (ZeroDivisionError: by zero)" in set(left)
    assert "what was searched can't be read" in left[str(study / "best.yaml")]
    assert len(list((tmp_path / "report" / "figures").glob("*.png"))) == 2
    assert r"| \$\\foo\$ \[/red\] |" in (tmp_path / "report" / "leaderboard.md").read_text()


def test_names_and_reasons_do_no_harm_in_any_file(tmp_path: Path) -> None:
    odd = "=1+1 | <img src=x> _a_"
    write_run(tmp_path / "a", 0.9, regularizer=odd)
    write_run(tmp_path / "b", 0.8, regularizer="online_ewc")
    write_run(tmp_path / "c", 0.8, status="failed", reason='=HYPERLINK("http://x")')
    report = tmp_path / "report"
    assert main([str(tmp_path)]) == 0
    markdown = (report / "leaderboard.md").read_text()
    assert r"| =1+1 \| \<img src=x\> \_a\_ |" in markdown
    assert r"| online\_ewc |" in markdown
    texts = {}
    for path in report.rglob("*.csv"):
        with path.open(newline="") as file:
            texts[path.name] = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cells in texts.values() for cell in cells if cell.startswith("=")]
    assert [name for name, cells in texts.items() if f"'{odd}" in cells] == [
        one for one in texts if one == "leaderboard.csv" or one.startswith("split_mnist")
    ]
    assert '\'=HYPERLINK("http://x")' in texts["left_out.csv"]
    assert odd in results.load(tmp_path).runs["regularizer"].tolist()


def test_an_interrupted_report_is_written_again(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.9)
    assert main([str(tmp_path)]) == 0
    (tmp_path / "report" / "report.html").unlink()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert pd.read_csv(tmp_path / "report" / "left_out.csv").empty


def drawn(found: Results, kind: str) -> pd.DataFrame:
    """The numbers in a figure of split_mnist."""
    chosen = select(found)
    table = leaderboard.rows(chosen.runs)
    part = table[table["benchmark"] == "split_mnist"]
    runs = chosen.runs[chosen.runs["protocol"] == part["protocol"].iloc[0]]
    jobs = list(figures.of_protocol("s", "s", part, runs, found.cells, looks(part["method"])))
    plot = {plot.name: plot for plot in (job() for job in jobs) if plot is not None}[f"s-{kind}"]
    return pd.read_csv(io.BytesIO(plot.csv()))


def cells_of(found: Results, method: str) -> list[pd.DataFrame]:
    """The test cells of each of a method's compared runs."""
    runs = found.runs[(found.runs["regularizer"] == method) & (found.runs["status"] == "finished")]
    return [found.cells[found.cells["folder"] == folder] for folder in runs["folder"]]


def test_accuracy_curves_are_means_over_learned_contexts_and_seeds(found: Results) -> None:
    curves = drawn(found, "accuracy")
    for row in curves[curves["method"] == "si"].to_dict("records"):
        seeds = []
        for cells in cells_of(found, "si"):
            after = cells[cells["after_context"] == row["after_context"]]
            seeds.append(
                float(np.mean([one.accuracy for one in after.itertuples() if one.context <= row["after_context"]]))
            )
        expected = estimate(seeds)
        assert row["mean"] == pytest.approx(expected.mean)
        assert row["high"] - row["mean"] == pytest.approx(expected.half_width)
        assert row["seeds"] == 3
    assert list(curves[curves["method"] == "si"]["after_context"]) == [1, 2, 3]
    assert list(curves[curves["method"] == "joint"]["after_context"]) == [3]
    assert list(dict.fromkeys(curves["method"])) == ["si", "ewc", "online_ewc", "joint", "none"]


def test_forgetting_curves_start_where_a_context_is_learned(found: Results) -> None:
    curves = drawn(found, "forgetting")
    mine = curves[(curves["method"] == "ewc") & (curves["context"] == 2)]
    assert list(mine["after_context"]) == [2, 3]
    values = [
        float(cells[(cells["after_context"] == 3) & (cells["context"] == 2)]["accuracy"].iloc[0])
        for cells in cells_of(found, "ewc")
    ]
    assert mine["mean"].iloc[-1] == pytest.approx(np.mean(values))
    assert "joint" not in set(curves["method"])


def test_matrices_hold_every_cell(found: Results) -> None:
    cells = drawn(found, "matrices")
    assert len(cells[cells["method"] == "si"]) == 9
    assert set(cells["after_context"]) == {1, 2, 3}


SPACE = space.parse({"reg_strength": "tag(log, interval(0.1, 1e6))", "gamma": "interval(0.05, 1)"})


def test_a_search_shows_pruned_trials_where_they_were_stopped(found: Results) -> None:
    plot = studies.search("s", found.trials, SPACE, "study")
    reached = plot.data.set_index("number")["accuracy"]
    assert reached.drop(3).to_dict() == {0: 0.8, 1: 0.95, 2: 0.99, 4: 0.9, 5: 0.94}
    assert np.isnan(reached[3])  # failed before it had measured anything
    trial, best_of_n = plot.figure.axes
    (best,) = trial.get_lines()
    assert list(np.asarray(best.get_ydata(), dtype=float)) == [0.8, 0.95, 0.95, 0.95]
    labels = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert labels == [
        "complete (4)",
        "pruned (1)",
        "failed (1)",
        "best so far",
        "best of n, expected",
        "in 80 % of searches",
    ]
    (expected,) = best_of_n.get_lines()
    made = best_of([0.8, 0.95, 0.95, 0.8, 0.9, 0.94])  # the pruned one stood as well as the best, another failed
    assert list(np.asarray(expected.get_ydata(), dtype=float)) == pytest.approx(list(made.mean))
    assert plot.data["n"].tolist() == [1, 2, 3, 4, 5, 6]
    assert plot.data["best_of_n_low"].tolist() == made.low.tolist()


def test_sensitivity_shows_complete_trials_and_where_others_were_tried(found: Results) -> None:
    plot = studies.sensitivity("s", found.trials, SPACE, "study")
    assert plot is not None
    strength, gamma = plot.figure.axes
    assert (strength.get_xscale(), gamma.get_xscale()) == ("log", "linear")
    assert plot.data["state"].value_counts().to_dict() == {"COMPLETE": 4, "PRUNED": 1, "FAIL": 1}
    stopped = plot.data[plot.data["state"] != "COMPLETE"]
    assert stopped[["validation_average_accuracy", "test_average_accuracy"]].isna().all(axis=None)
    drawn = [(line.get_marker(), np.asarray(line.get_xydata()).tolist()) for line in strength.get_lines()]
    test, _, validation, _, best = drawn
    assert test == ("o", [[1.0, 0.79], [10.0, 0.94], [30.0, 0.9], [100.0, 0.89]])
    assert validation == ("o", [[1.0, 0.8], [10.0, 0.95], [30.0, 0.94], [100.0, 0.9]])
    assert best == ("o", [[10.0, 0.95]])
    pruned, failed = strength.collections
    assert [np.asarray(one.get_offsets())[0, 0] for one in (pruned, failed)] == [1000.0, 100_000.0]


def test_a_very_bad_trial_does_not_flatten_the_curve(found: Results) -> None:
    accuracy = found.trials["validation_average_accuracy"].replace(0.8, 0.1)
    trials = found.trials.assign(validation_average_accuracy=accuracy)
    plot = studies.sensitivity("s", trials, {"reg_strength": SPACE["reg_strength"]}, "study")
    assert plot is not None
    (plain,) = plot.figure.axes
    low, high = plain.get_ylim()
    assert (low, high) == pytest.approx((0.75, 0.95), abs=0.07)
    triangles = [line for line in plain.get_lines() if line.get_marker() == "v"]
    assert [np.asarray(line.get_xdata()).tolist() for line in triangles] == [[], [1.0]]
    assert "triangle" in plot.caption
    assert plot.data["validation_average_accuracy"].min() == 0.1


def test_without_a_complete_trial_there_is_no_sensitivity(found: Results) -> None:
    stopped = found.trials[found.trials["state"] != "COMPLETE"]
    assert studies.sensitivity("s", stopped, SPACE, "study") is None
    assert len(studies.search("s", stopped, SPACE, "study").figure.axes) == 1


def test_importances_name_their_evaluator_and_the_number_of_trials(found: Results) -> None:
    plot = studies.importances("s", found.trials, SPACE, "study")
    assert plot is not None
    assert set(plot.data["hyperparameter"]) == {"reg_strength", "gamma"}
    assert plot.data["importance"].sum() == pytest.approx(1)
    assert plot.data[["evaluator", "complete_trials"]].drop_duplicates().to_numpy().tolist() == [["PED-ANOVA", 4]]
    assert plot.figure.axes[0].get_xlabel() == "importance (PED-ANOVA, 4 complete trials)"


def test_there_are_no_importances_of_one_hyperparameter_or_of_few_trials(found: Results) -> None:
    assert studies.importances("s", found.trials, {"gamma": SPACE["gamma"]}, "study") is None
    assert studies.importances("s", found.trials.iloc[:3], SPACE, "study") is None


def test_a_trial_outside_of_the_range_is_drawn_and_counted(found: Results) -> None:
    narrow = space.parse({"reg_strength": "tag(log, interval(5, 20))", "gamma": "interval(0.4, 0.6)"})
    assert studies.importances("s", found.trials, narrow, "study") is not None


def test_a_search_of_integers_is_drawn(found: Results) -> None:
    integers = space.parse({"reg_strength": "tag(log, int(interval(5, 20)))", "gamma": "interval(0.4, 0.6)"})
    plot = studies.sensitivity("s", found.trials, integers, "study")
    assert plot is not None
    assert plot.figure.axes[0].get_xscale() == "log"
    made = studies.importances("s", found.trials, integers, "study")
    assert made is not None
    assert set(made.data["complete_trials"]) == {4}
    fractions = found.trials.assign(reg_strength=found.trials["reg_strength"] + 0.5)  # of another space
    assert studies.importances("s", fractions, integers, "study") is None


def test_every_method_keeps_its_look_and_strangers_differ() -> None:
    first = looks(["ewc", "mine", "yours", "custom @abc"])
    assert first["ewc"] == looks(["si", "ewc"])["ewc"]
    assert len({(look.colour, look.line) for look in first.values()}) == 4


def test_figures_are_the_same_twice(found: Results) -> None:
    for draw in (studies.search, studies.sensitivity):
        first, second = (draw("s", found.trials, SPACE, "study") for _ in range(2))
        assert first is not None
        assert second is not None
        assert first.svg() == second.svg()


def test_a_single_run_is_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.9)
    contexts.draw_run(folder)
    for name in ("accuracy_matrix", "curves"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 300


def test_a_single_runs_curves_are_its_cells(tmp_path: Path) -> None:
    cells = pd.read_csv(write_run(tmp_path / "run", 0.9) / "accuracy.csv")
    figure = contexts.run_curves(cells)
    *each, mean = figure.axes[0].get_lines()
    second = cells[(cells["context"] == 2) & (cells["after_context"] >= 2)]
    assert list(np.asarray(each[1].get_ydata(), dtype=float)) == pytest.approx(list(second["accuracy"]))
    assert np.asarray(mean.get_ydata(), dtype=float)[-1] == pytest.approx(0.9)


def test_a_joint_run_is_drawn(tmp_path: Path) -> None:
    contexts.draw_run(write_run(tmp_path / "run", 0.9, stream="joint"))
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.mark.parametrize("contexts_of_run", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_very_few_and_very_many_contexts_are_drawn(tmp_path: Path, contexts_of_run: int) -> None:
    write_run(tmp_path / "one", 0.8, contexts=contexts_of_run)
    write_run(tmp_path / "two", 0.7, contexts=contexts_of_run, regularizer="si")
    assert main([str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "report" / "left_out.csv").empty
    contexts.draw_run(tmp_path / "one")


@pytest.mark.parametrize(("low", "high", "labels"), [(2e4, 5e4, {"2e4", "5e4"}), (1e-5, 1e6, {"1e-4", "1", "1e4"})])
def test_a_log_axis_has_labels_whatever_its_range(low: float, high: float, labels: set[str]) -> None:
    trials = pd.DataFrame({"number": [0, 1], "state": "COMPLETE", "validation_average_accuracy": [0.8, 0.9]})
    trials = trials.assign(reg_strength=[low, high], gamma=1.0, epsilon=1.0, seconds=1.0, reason="")
    plot = studies.sensitivity("s", trials, space.parse({"reg_strength": "tag(log, interval(1e-9, 1e9))"}), "study")
    assert plot is not None
    plot.figure.canvas.draw()
    assert labels <= {text.get_text() for text in plot.figure.axes[0].get_xticklabels()}
