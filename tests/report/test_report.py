from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import signal
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from PIL import Image
from trees import write_run, write_seeds, write_study

from clsweep import results, space
from clsweep.report import figures, leaderboard, names, page
from clsweep.report.command import main
from clsweep.report.plots import contexts, studies
from clsweep.report.plots.style import INK, LOOKS, PALETTE, Plot, looks
from clsweep.report.selection import select
from clsweep.report.svg import Inlined
from clsweep.results import Results
from clsweep.results.statistics import estimate, estimates
from clsweep.results.tuning import best_of


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
        "regret.csv",
        "leaderboard.tex",
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
        printed = {path.suffix for path in (report / "figures").glob(f"{name}.*")} - {".svg", ".csv"}
        assert printed == (set() if name.startswith(study) else {".pdf", ".png"})
        if printed:
            with Image.open(report / "figures" / f"{name}.png") as image:
                assert min(image.size) > 100
                assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert (report / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<svg" in (report / "figures" / f"{name}.svg").read_text()
        assert len(pd.read_csv(report / "figures" / f"{name}.csv")) > 0


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    page = (report / "report.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    ids = set(re.findall(r'\bid="([^"]*)"', page))
    assert references
    files = {reference for reference in references if reference.startswith("figures/")}
    assert files == {f"figures/{path.name}" for path in (report / "figures").iterdir()}
    for reference in set(references) - files:
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
    assert page.index("runs: 15 (13 finished") > places[-2]


def test_a_study_is_named_by_what_it_is_with_its_folder_beneath(report: Path, outputs: Path) -> None:
    title, folder = "Split-MNIST, full budget: Online EWC", outputs / "sweeps" / "split_mnist-online_ewc-0a1b2c3d"
    page = " ".join((report / "report.html").read_text().split())
    assert f'<h3>{title}</h3> <p class="soft"><code>{folder}</code></p>' in page


def test_studies_of_the_same_kind_are_told_apart(tmp_path: Path) -> None:
    for sweep in ("first", "second"):
        study = write_study(tmp_path / sweep / "split_mnist-online_ewc-0a1b2c3d")
    trials = study / "trials.csv"
    trials.write_text(trials.read_text().replace(",3.5,", ",4.5,"))  # another machine's, and no copy
    assert names.study_titles(results.load(tmp_path)) == [
        "Split-MNIST, full budget: Online EWC (first)",
        "Split-MNIST, full budget: Online EWC (second)",
    ]


def test_figures_on_the_page_take_its_colours(report: Path) -> None:
    head, shown = (report / "report.html").read_text().split("</style>", 1)
    drawn_styles = "\n".join(re.findall(r"^\.f-\d+ \{.*\}$", head, re.MULTILINE))
    assert INK.lower() not in shown + drawn_styles
    assert "fill: currentColor" in drawn_styles
    assert set(re.findall(r'class="(f-\d+)"', shown)) == set(re.findall(r"^\.(f-\d+) ", head, re.MULTILINE))
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
    assert "split_mnist: si has the highest mean, and is told from every method that it was compared with." in printed
    assert "runs: 15 (13 finished, 1 failed, 1 pruned)" in printed
    assert "shopping.csv: not a file of a run or a study" in printed
    assert "report.html" in printed


@pytest.mark.slow
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
    assert len(list((tmp_path / "report" / "figures").glob("*.svg"))) == 2
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
    plot = {plot.name: plot for plot in _plots(found)}[f"s-{kind}"]
    return pd.read_csv(io.BytesIO(plot.csv()))


def _plots(found: Results) -> list[Plot]:
    """The figures of split_mnist."""
    chosen = select(found)
    table = leaderboard.rows(chosen.runs)
    part = table[table["benchmark"] == "split_mnist"]
    runs = chosen.runs[chosen.runs["protocol"] == part["protocol"].iloc[0]]
    jobs = figures.of_protocol("s", "s", part, runs, found.cells, looks(part["method"]))
    return [plot for plot in (job() for job in jobs) if plot is not None]


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
        "best",
        "best so far",
        "best of n, expected",
        "in 80 % of searches",
    ]
    assert np.asarray(trial.collections[-1].get_offsets()).tolist() == [[1, 0.95]]
    complete, pruned, _, star = trial.collections
    assert star.get_zorder() > complete.get_zorder() > pruned.get_zorder()
    (expected,) = best_of_n.get_lines()
    made = best_of([0.8, 0.95, 0.95, 0.8, 0.9, 0.94])  # the pruned one stood as well as the best, another failed
    assert list(np.asarray(expected.get_ydata(), dtype=float)) == pytest.approx(list(made.mean))
    assert plot.data["n"].tolist() == [1, 2, 3, 4, 5, 6]
    assert plot.data["best_of_n_low"].tolist() == made.low.tolist()


def test_a_search_shows_no_trial_that_was_interrupted(found: Results) -> None:
    trials = found.trials.assign(ended=["", "", "", "interrupted", "", ""])
    assert studies.search("s", trials, SPACE, "study").data["number"].tolist() == [0, 1, 2, 4, 5]


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


def test_every_panel_marks_the_earliest_of_the_best_trials(found: Results) -> None:
    accuracy = found.trials["validation_average_accuracy"].replace({0.94: 0.95, 0.9: 0.95})
    plot = studies.sensitivity("s", found.trials.assign(validation_average_accuracy=accuracy), SPACE, "study")
    assert plot is not None
    marked = [np.asarray(plain.get_lines()[-1].get_xydata()).tolist() for plain in plot.figure.axes]
    assert marked == [[[10.0, 0.95]], [[0.5, 0.95]]]


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
    assert [text.get_text() for text in plot.figure.axes[0].texts] == ["importance (PED-ANOVA, 4 complete trials)"]


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
    assert len({look.colour for look in first.values()}) == 4
    named = [method for method in LOOKS if method not in ("none", "joint")]
    sixteen = looks([*named, *(f"mine {number}" for number in range(16 - len(named)))])
    assert len({look.colour for look in sixteen.values()}) == 16
    assert len({look.marker for look in sixteen.values()}) == 16
    forty = looks(f"mine {number}" for number in range(40))
    assert len({(look.colour, look.marker) for look in forty.values()}) == 40


# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), at
# severity 1, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


@pytest.mark.parametrize(("sight", "least"), [("normal", 25.0), ("protanopia", 15.0), ("deuteranopia", 10.0)])
def test_colours_are_told_apart(sight: str, least: float) -> None:
    linear = np.array([_linear(colour) for colour in PALETTE]) @ SIGHTS[sight].T
    lab = _lab(np.clip(linear, 0, 1))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(len(lab))
    assert distances.min() > least


@pytest.mark.parametrize("paper", ["#ffffff", "#1d2024"])  # the cards of templates/style.css
def test_colours_show_on_both_papers(paper: str) -> None:
    luminances = [float(_XYZ[1] @ _linear(colour)) for colour in PALETTE]
    ground = float(_XYZ[1] @ _linear(paper))
    contrasts = [(max(one, ground) + 0.05) / (min(one, ground) + 0.05) for one in luminances]  # WCAG 2.2
    assert min(contrasts) > 1.9


_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def _linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    scaled = linear @ _XYZ.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    light, green, blue = root[:, 1], root[:, 0] - root[:, 1], root[:, 1] - root[:, 2]
    return np.stack([116 * light - 16, 500 * green, 200 * blue], axis=-1)


@pytest.mark.parametrize("contexts_shown", [5, 10, 13, 20])
def test_numbers_in_a_matrix_fit_into_their_cells_or_are_left_out(contexts_shown: int) -> None:
    learned = [(after, one) for after in range(1, contexts_shown + 1) for one in range(1, after + 1)]
    cells = pd.DataFrame(learned, columns=["after_context", "context"]).assign(method="ewc", mean=0.999)
    figure = contexts.matrices("m", cells, "here").figure
    figure.canvas.draw()
    panel = figure.axes[0]
    numbers = [text for text in panel.texts if text.get_horizontalalignment() == "center"]
    numbers = [text for text in numbers if text.get_text() in ("100", "99.9")]
    width = panel.get_window_extent().width / contexts_shown
    assert all(text.get_window_extent().width < width for text in numbers)
    assert all(float(text.get_fontsize()) >= 6 for text in numbers)
    assert len(numbers) == (len(learned) if contexts_shown <= 10 else 0)
    assert len(figure.axes) == (1 if numbers else 2)  # a scale of the colours instead


def test_single_seeds_are_thin_lines_and_intervals_bars(found: Results) -> None:
    plot = next(made for made in _plots(found) if made.name.endswith("-accuracy"))
    left, right = plot.figure.axes
    assert not left.patches
    lines = [one for one in left.collections if isinstance(one, LineCollection)]
    assert sorted(len(one.get_segments()) for one in lines) == [2, 3, 3]  # online_ewc's, si's and ewc's seeds
    si = plot.data[(plot.data["method"] == "si") & (plot.data["after_context"] == 3)].iloc[0]
    bars = [list(np.asarray(line.get_xdata(), dtype=float)) for line in right.get_lines()]
    assert [pytest.approx(si["low"]), pytest.approx(si["high"])] in bars


def _accuracy_curves(seeds: dict[str, list[list[float]]]) -> Plot:
    """A figure of methods from the accuracies of each seed over the contexts."""
    rows = [
        (method, f"{method}-{seed}", context, accuracy)
        for method, runs in seeds.items()
        for seed, run in enumerate(runs)
        for context, accuracy in enumerate(run, 1)
    ]
    cells = pd.DataFrame(rows, columns=["method", "folder", "after_context", "accuracy"])
    means = estimates(cells, ["method", "after_context"], "accuracy")
    return contexts.accuracy_curves("a", means, cells, "here", looks(seeds))


@pytest.mark.parametrize("last", [[0.90, 0.91, 0.95], [0.9, 0.9, 0.5], [0.95, 0.95, 0.99], [0.5, 0.7, 0.9]])
def test_the_frame_cuts_no_seed_and_no_interval_of_three(last: list[float]) -> None:
    early = [0.99, 0.97, 0.6]  # a seed far from the others in the middle, too
    plot = _accuracy_curves(
        {"ewc": [[0.99, *two] for two in zip(early, last, strict=True)], "si": [[0.99, 0.98, 0.96]] * 3}
        | {"none": [[0.99, 0.4, 0.2]] * 3}
    )
    left, right = plot.figure.axes
    bottom, top = left.get_ylim()
    assert bottom < min(*early, *last)
    assert top > 0.99
    interval = estimate(last)
    low, high = right.get_xlim()
    assert low < min(interval.mean - interval.half_width, *last)
    assert high > max(interval.mean + interval.half_width, *last)
    assert low > 0.2 or min(last) == 0.5  # a bound is no reason to widen it


def test_an_interval_of_two_seeds_leaves_the_rest_to_be_seen() -> None:
    plot = _accuracy_curves({"ewc": [[0.99, 0.90], [0.99, 0.92]], "si": [[0.99, 0.95]] * 2})
    wide = estimate([0.90, 0.92])
    low, high = plot.figure.axes[1].get_xlim()
    assert wide.mean - wide.half_width < low < 0.90
    assert 0.95 < high < wide.mean + wide.half_width


def test_the_panels_of_forgetting_show_every_seed_that_is_drawn() -> None:
    seeds = pd.DataFrame(
        [("ewc", str(seed), 1, after, accuracy) for seed, end in enumerate([0.5, 0.9, 0.9]) for after, accuracy in
         ((1, 0.99), (2, end))] + [("ewc", str(seed), 2, 2, 0.98) for seed in range(3)],
        columns=["method", "folder", "context", "after_context", "accuracy"],
    )  # fmt: skip
    means = estimates(seeds, ["method", "context", "after_context"], "accuracy")
    for panel in contexts.forgetting_curves("f", means, seeds, "here", looks(["ewc"])).figure.axes:
        bottom, top = panel.get_ylim()
        assert bottom < 0.5 < 0.99 < top


def test_ticks_are_the_figures_and_stand_within_the_frame(found: Results) -> None:
    plot = studies.sensitivity("s", found.trials, SPACE, "study")
    assert plot is not None
    for panel in plot.figure.axes:
        assert not panel.xaxis.get_visible()
        assert not panel.yaxis.get_visible()
    texts = [text.get_text() for text in plot.figure.texts]
    assert {"1", "100", "0.9"} <= set(texts)
    plot.figure.canvas.draw()
    for text in plot.figure.texts:
        assert plot.figure.bbox.padded(1).contains(*text.get_window_extent().get_points().mean(axis=0))


@pytest.mark.parametrize(("values", "labels"), [([1e8, 5e8], {"100000000"}), ([1000.01, 1000.05], {"1000.010"})])
def test_values_along_an_axis_are_written_in_full(found: Results, values: list[float], labels: set[str]) -> None:
    trials = found.trials[found.trials["state"] == "COMPLETE"].head(2).assign(gamma=values)
    plot = studies.sensitivity("s", trials, {"gamma": SPACE["gamma"]}, "study")
    assert plot is not None
    assert labels <= {text.get_text() for text in plot.figure.texts}


@pytest.mark.slow
def test_percent_is_for_tables_and_figures_alike(outputs: Path, tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(outputs), "--output", str(tmp_path / "report"), "--percent"]) == 0
    shown = estimate([0.95, 0.96, 0.955])
    cell = f"{100 * shown.mean:.2f} ± {100 * shown.half_width:.2f}"
    assert f"{cell} *" in printed.getvalue()
    for name in ("report.html", "leaderboard.md", "leaderboard.tex"):
        text = (tmp_path / "report" / name).read_text().replace(r"$\pm$", "±")
        assert cell in text
        assert "in percent" in text
        assert "from 0 to 1" not in text
        assert f"{shown.mean:.4f}" not in text
    figure = "split_mnist-task-on-mnist-full-budget-accuracy"
    drawn_texts = re.findall(r"<text[^>]*>([^<]*)<", (tmp_path / "report" / "figures" / f"{figure}.svg").read_text())
    assert "mean test accuracy (%)" in drawn_texts
    assert {"92", "94", "96"} <= set(drawn_texts)
    numbers = pd.read_csv(tmp_path / "report" / "figures" / f"{figure}.csv")["mean"]
    assert numbers.between(0, 1).all()


@pytest.mark.slow
def test_all_figures_are_printed_where_they_are_asked_for(outputs: Path, tmp_path: Path) -> None:
    assert main([str(outputs / "sweeps"), "--output", str(tmp_path / "report"), "--all-figures"]) == 0
    names_of = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert names_of == {path.stem for path in (tmp_path / "report" / "figures").glob("*.pdf")}
    assert names_of == {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}


def test_the_tex_has_the_pages_marks_and_whole_rows(report: Path) -> None:
    text = (report / "leaderboard.tex").read_text()
    made = estimate([0.95, 0.96, 0.955])
    assert rf"\textbf{{{made.mean:.4f} $\pm$ {made.half_width:.4f}}}" in text
    tables = re.findall(
        r"\\begin\{tabular\}\{([^\n]*)\}\n\\toprule\n(.*?)\\bottomrule\n\\end\{tabular\}", text, re.DOTALL
    )
    assert len(tables) == 3  # the overview, and two protocols
    for columns, body in tables:
        count = len(re.sub(r"\{[^}]*\}", "", columns))
        rows = [line for line in body.splitlines() if line != r"\midrule"]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {count - 1}
        assert all(row.endswith(r"\\") for row in rows)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    assert " & $-$0.0" in text  # a minus sign, no hyphen
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a_b & 50 % #1 $x$ {y}", r"a\_b \& 50 \% \#1 \$x\$ \{y\}"),
        (r"\input{/etc}", r"\textbackslash{}input\{/etc\}"),
        ("<~^|>", r"\textless{}\textasciitilde{}\textasciicircum{}\textbar{}\textgreater{}"),
        ("1e-3 -- x", "1e-3 -{}- x"),
        ("0.9 ± 0.1 λ", r"0.9 $\pm$ 0.1 [U+03BB]"),
    ],
)
def test_names_do_no_harm_in_latex(text: str, printed: str) -> None:
    assert page.latex(text) == printed


def test_what_is_inlined_is_what_was_drawn(found: Results) -> None:
    plot = studies.search("s", found.trials, SPACE, "study")
    inlined = Inlined()
    short, again = inlined.add(plot.svg()), inlined.add(plot.svg())
    texts = r"<text[^>]*>([^<]*)</text>"
    assert re.findall(texts, short) == re.findall(texts, plot.svg().decode())
    assert short.count("<use") == plot.svg().decode().count("<use")
    assert len(short) < len(plot.svg()) / 2
    assert set(re.findall(r'\bid="([^"]*)"', short)).isdisjoint(re.findall(r'\bid="([^"]*)"', again))
    classes = set(re.findall(r'class="([^"]*)"', short))
    assert classes == set(re.findall(r"^\.(\S+) \{", inlined.sheet(), re.MULTILINE))
    ElementTree.fromstring(short)


def _mortal(_: str, here: int) -> Plot | None:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return None


def test_a_worker_that_dies_costs_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    jobs = [partial(_mortal, f"figure {number}", os.getpid()) for number in range(12)]
    assert figures.draw(jobs, [False] * 12) == [None] * 12


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
    assert labels <= {text.get_text() for text in plot.figure.texts}
