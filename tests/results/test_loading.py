from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import ROOT, setting
from trees import BEST, FINAL, TRIALS, write_run, write_study

from clsweep import results
from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.protocol import Protocol
from clsweep.report import leaderboard
from clsweep.report.selection import select
from clsweep.results import Summary, loading


def test_every_run_at_any_depth_is_a_row_with_typed_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "deep" / "run", 0.9, seed=3, normalize=True, started_at="2026-11-23T01:02:03+00:00")
    write_run(tmp_path / "b", 0.8, seed=4)
    found = results.load(tmp_path / "a", str(tmp_path / "b"))
    runs = found.runs
    assert list(runs["seed"]) == [3, 4]
    assert list(runs["average_accuracy"]) == pytest.approx([0.9, 0.8])
    assert list(runs["normalize"]) == [True, False]
    assert runs["started_at"].iloc[0] == pd.Timestamp("2026-11-23 01:02:03", tz="UTC")
    assert runs["validation_average_accuracy"].isna().all()
    types = {"seed": "Int64", "lr": "float64", "normalize": "boolean", "regularizer": "str", "role": "str"}
    assert {name: str(runs[name].dtype) for name in types} == types
    assert str(runs["started_at"].dtype) == "datetime64[us, UTC]"
    assert found.problems == []


def test_cells_belong_to_their_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.9)
    cells = results.load(tmp_path).cells
    written = pd.read_csv(folder / "accuracy.csv")
    assert list(cells["accuracy"]) == list(written["accuracy"])
    assert set(cells["folder"]) == {str(folder)}
    assert [str(cells[name].dtype) for name in ("after_context", "context", "n", "accuracy")] == [
        *["Int64"] * 3,
        "float64",
    ]


def test_nothing_at_all_gives_empty_frames_with_their_columns(tmp_path: Path) -> None:
    found = results.load(tmp_path)
    for frame, column in (
        (found.runs, "run_id"),
        (found.cells, "accuracy"),
        (found.trials, "state"),
        (found.finals, "setting"),
        (found.studies, "space"),
    ):
        assert frame.empty
        assert column in frame


def test_a_file_of_version_1_lacks_columns_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.9)
    old = pd.read_csv(folder / "summary.csv").drop(
        columns=["format_version", "threads", "hyperparameters", "image_size"]
    )
    old.to_csv(folder / "summary.csv", index=False)
    found = results.load(tmp_path)
    assert found.problems == []
    row = found.runs.iloc[0]
    assert row["format_version"] == 1
    assert row["hyperparameters"] == ""
    assert found.runs[["threads", "image_size"]].isna().all(axis=None)
    assert str(found.runs["threads"].dtype) == "Int64"
    assert row["average_accuracy"] == pytest.approx(0.9)


# Runs and a study of each format as they were written, with validation data and of joint training among them.
KEPT = [Path(__file__).parent / "files" / f"format_{version}" for version in (1, 2)]


def test_a_column_more_leaves_earlier_files_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    before = results.load(*KEPT)
    more = [("energy", "float"), ("host", "str"), ("workers", "int"), ("compiled", "bool")]
    columns = [(name, kind, dataclasses.field(default=None)) for name, kind in more]
    monkeypatch.setattr(
        loading, "Summary", dataclasses.make_dataclass("Larger", columns, bases=(Summary,), frozen=True)
    )
    after = results.load(*KEPT)
    assert after.problems == before.problems == []
    assert set(after.runs["format_version"]) == {1, 2}
    assert after.runs[["energy", "workers", "compiled"]].isna().all(axis=None)
    assert set(after.runs["host"]) == {""}
    pd.testing.assert_frame_equal(after.runs.drop(columns=[name for name, _ in more]), before.runs)
    pd.testing.assert_frame_equal(select(after).runs[select(before).runs.columns], select(before).runs)


def test_files_of_every_format_are_read_and_say_their_protocol() -> None:
    found = results.load(*KEPT)
    assert found.problems == []
    made = {Path(row["folder"]).relative_to(short(KEPT[0].parent)): Protocol.of_row(row) for row in rows_of(found)}
    said = {str(folder): protocol.sentence() for folder, protocol in made.items()}
    alike = "2,000 iterations a context, batch 128, Adam lr 0.001, "
    assert said == {
        "format_1/held_out": f"task-incremental, 5 contexts, mnist, 0.1 held out, {alike}network not recorded, float32",
        "format_1/joint": f"task-incremental, 5 contexts, mnist, {alike}mlp 400 400, float32",
        "format_1/si": f"task-incremental, 5 contexts, mnist, {alike}mlp 400 400, float32",
        "format_2/custom": f"class-incremental, 5 contexts of 2 classes, mnist, {alike}mlp 400 400, float32".replace(
            "2,000", "200"
        ),
        "format_2/joint": f"task-incremental, 5 contexts of 2 classes, mnist, {alike}mlp 400 400, float32",
    }
    of_now = Protocol.of(setting("+benchmark=split_mnist"))
    assert made[Path("format_2/joint")] == of_now
    assert set(made[Path("format_1/si")].differences(of_now)) == {"classes_per_context", "image_size", "normalize"}
    assert list(found.studies["method"]) == ["si", "rwalk"]
    assert len(found.trials) == 15 + 15
    assert set(found.finals["setting"]) == {"tuned", "default"}


def rows_of(found: results.Results) -> list[dict[str, Any]]:
    return found.runs.to_dict("records")  # type: ignore[return-value]


NEEDED = (
    *(
        "run_id",
        "status",
        "benchmark",
        "scenario",
        "stream",
        "dataset",
        "dataset_digest",
        "network",
        "n_train",
        "n_test",
    ),
    *("contexts", "classes_per_context", "image_size", "normalize", "regularizer", "regularizer_file"),
    *("regularizer_digest", "hyperparameters", "method_options", "reg_strength", "reg_strength_scale", "gamma"),
    *("epsilon", "seed", "budget", "iters", "batch_size", "lr", "validation_fraction", "precision"),
    "average_accuracy",
)


def test_only_the_columns_that_a_comparison_needs_are_required(tmp_path: Path) -> None:
    shutil.copytree(KEPT[1] / "custom", tmp_path / "run")
    whole = pd.read_csv(tmp_path / "run" / "summary.csv")
    optional = [name for name in whole if name not in (*NEEDED, "format_version")]
    assert {"threads", "train_seconds", "started_at", "reason"} <= set(optional)
    whole.drop(columns=optional).to_csv(tmp_path / "run" / "summary.csv", index=False)
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.runs[["train_seconds", "started_at", "threads", "forgetting"]].isna().all(axis=None)
    (row,) = leaderboard.rows(select(found).runs).to_dict("records")
    assert row["average_accuracy"] == whole["average_accuracy"][0]
    for name in NEEDED:
        (tmp_path / name).mkdir()
        whole.drop(columns=name).to_csv(tmp_path / name / "summary.csv", index=False)
        shutil.copy(tmp_path / "run" / "accuracy.csv", tmp_path / name)
    found = results.load(tmp_path)
    assert len(found.runs) == 1
    messages = {Path(problem.path).parent.name: problem.message for problem in found.problems}
    assert all(messages[name].endswith(f"it lacks the column {name}") for name in NEEDED)


def test_other_files_may_have_columns_more_or_less_too(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    trials, final = (pd.read_csv(study / name) for name in ("trials.csv", "final.csv"))
    trials.drop(columns=["seconds", "epsilon"]).assign(host="a", heat=1.5).to_csv(study / "trials.csv", index=False)
    final.drop(columns="gamma").assign(host="a").to_csv(study / "final.csv", index=False)
    cells = pd.read_csv(study / "final-0000" / "accuracy.csv")
    cells.drop(columns="n").assign(loss=0.5).to_csv(study / "final-0000" / "accuracy.csv", index=False)
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.trials[["seconds", "epsilon"]].isna().all(axis=None)
    assert found.trials[["host", "heat"]].drop_duplicates().to_numpy().tolist() == [["a", 1.5]]
    assert found.trials["validation_after_1"].dtype == found.trials["heat"].dtype == "float64"
    assert found.finals["gamma"].isna().all()
    mine = found.cells[found.cells["folder"] == str(study / "final-0000")]
    assert mine["n"].isna().all()
    assert list(mine["accuracy"]) == list(cells["accuracy"])


ODD = ("=1+1", "+1", "-1", "@x", "\t=1", "'=1", "''@x", "'quoted'", "plain", "a,b", "\uff1d1")


def test_a_formula_is_text_for_a_spreadsheet_and_as_it_was_for_us(tmp_path: Path) -> None:
    for number, name in enumerate(ODD):
        write_run(tmp_path / str(number), seed=number, regularizer=name, reg_strength=-0.5, regularizer_file="@a.py")
    found = results.load(tmp_path)
    assert found.problems == []
    assert list(found.runs.sort_values("seed")["regularizer"]) == list(ODD)
    assert set(found.runs["reg_strength"]) == {-0.5}
    for path in tmp_path.rglob("summary.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert row["reg_strength"] == "-0.5"
        assert row["regularizer"][0] not in "=+-@\t\uff1d"
        assert row["regularizer_file"] == "'@a.py"


def test_copies_of_a_run_and_folders_given_twice_count_once(tmp_path: Path) -> None:
    write_run(tmp_path / "one", run_id="same")
    write_run(tmp_path / "two", run_id="same")
    found = results.load(tmp_path, tmp_path / "one")
    assert len(found.runs) == 1
    assert [one.message for one in found.problems] == [f"the same run as in {tmp_path / 'one'}: counted once"]


def test_a_run_without_a_summary_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "empty").mkdir()
    found = results.load(tmp_path)
    assert found.runs[["folder", "status"]].to_numpy().tolist() == [[str(tmp_path / "run"), "unfinished"]]


def test_a_report_is_no_result(tmp_path: Path) -> None:
    write_run(tmp_path / "report" / "run")
    (tmp_path / "report" / ".clsweep-report").write_text("")
    assert results.load(tmp_path).runs.empty


def test_reference_results_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "reference" / "run")
    (tmp_path / "reference" / ".clsweep-reference").write_text("")
    assert results.load(tmp_path).runs.empty
    assert len(results.load(tmp_path / "reference").runs) == 1


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    write_run(tmp_path / "scratch" / "run")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "linked").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "back").symlink_to(tmp_path / "outputs")
    found = results.load(tmp_path / "outputs")
    assert list(found.runs["folder"]) == [str(tmp_path / "outputs" / "linked" / "run")]


def test_a_damaged_copy_does_not_cost_the_good_one(tmp_path: Path) -> None:
    broken = write_run(tmp_path / "a", run_id="same")
    replace("summary.csv", ",60000,", ",many,")(broken)
    write_run(tmp_path / "b", run_id="same")
    assert list(results.load(tmp_path).runs["folder"]) == [str(tmp_path / "b")]


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def edit(path: Path, **values: float | str) -> None:
    pd.read_csv(path).assign(**values).to_csv(path, index=False)


def change(name: str, folder: Path, value: float = 0.123) -> None:
    edit(folder / "summary.csv", **{name: value})


def cut(path: Path, end: str, instead: str = "") -> None:
    text = path.read_text()
    assert text.endswith(end)
    path.write_text(text.removesuffix(end) + instead)


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def double(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (write("summary.csv", b"a,b\n1,2\n"), "not a clsweep summary: it lacks the column run_id"),
    "empty": (write("summary.csv", b""), "empty"),
    "binary": (write("summary.csv", b"\xff\xfe\x00\x81"), "cannot be read as CSV"),
    "newer": (replace("summary.csv", "\n3,", "\n4,"), "format version 4, written by a newer clsweep"),
    "no version": (replace("summary.csv", "\n3,", "\ntwo,"), "format_version=two; expected a number"),
    "claims a version": (
        replace("summary.csv", ",normalize,", ",normalise,"),
        "format version 3, but it lacks the column normalize",
    ),
    "status": (
        replace("summary.csv", ",finished,", ",done,"),
        "status=done; expected one of running, finished, interrupted",
    ),
    "number": (replace("summary.csv", ",60000,", ",many,"), "n_train=many; expected a whole number"),
    "fraction": (replace("summary.csv", ",60000,", ",6.5,"), "n_train=6.5; expected a whole number"),
    "huge": (replace("summary.csv", ",60000,", f",{2**64},"), "expected a whole number of up to 18 digits"),
    "endless": (replace("summary.csv", ",60000,", ",inf,"), "n_train=inf; expected a whole number"),
    "odd version": (replace("summary.csv", "\n3,", "\n²,"), "format_version=²; expected a number"),
    "two columns": (replace("summary.csv", ",threads,", ",device,"), "two columns of the same name"),
    "no seed": (replace("summary.csv", ",,7,,,,full,", ",,,,,,full,"), "seed is empty, but the run is finished"),
    **{
        f"{count} contexts": (partial(change, "contexts", value=count), "12 accuracies on test data; expected ")
        for count in (-1, -5, 0, 500_000_000)
    },
    "no contexts": (lambda folder: edit(folder / "summary.csv", contexts=""), "contexts is empty"),
    **{
        name: (partial(change, name), f"{name}=0.123, but accuracy.csv beside it says otherwise")
        for name in (
            *("average_accuracy", "learning_accuracy", "forgetting", "backward_transfer"),
            "validation_average_accuracy",
        )
    },
    "shortened": (lambda folder: shorten(folder / "accuracy.csv"), "11 accuracies on test data; expected 12"),
    "twice": (lambda folder: double(folder / "accuracy.csv"), "an accuracy is given twice"),
    "truth": (replace("summary.csv", ",False,", ",perhaps,"), "normalize=perhaps; expected True or False"),
    "no cells": (lambda folder: (folder / "accuracy.csv").unlink(), "accuracy.csv is not beside it"),
    "cut": (replace("accuracy.csv", ",test,", "\n"), "accuracy.csv beside it: line 2 has 3 values; expected 6"),
    "other cells": (
        write("accuracy.csv", b"x,y\n1,2\n"),
        "accuracy.csv beside it is not one of a clsweep run: it lacks",
    ),
    "cells of another": (replace("accuracy.csv", "run-", "runs-"), "accuracy.csv beside it is of another run"),
    "nothing measured": (
        write("accuracy.csv", b"run_id,after_context,context,split,accuracy,n\n"),
        "accuracy.csv beside it holds no accuracies",
    ),
    "accuracy": (replace("accuracy.csv", ",test,0.", ",test,9."), "expected a number from 0 to 1"),
    "no line end": (
        lambda folder: cut(folder / "accuracy.csv", "\n"),
        "accuracy.csv beside it: its last line has no end: a part of the file is missing",
    ),
    "no line end of the summary": (lambda folder: cut(folder / "summary.csv", "\n"), "its last line has no end"),
    "lost digit": (
        lambda folder: cut(folder / "accuracy.csv", "0\n", "\n"),
        "n=100 and 10 for context 3 (test); expected one number",
    ),
    "lost digits": (lambda folder: edit(folder / "accuracy.csv", n=10), "adds up to 30, but summary.csv beside it has"),
    "no n": (lambda folder: cut(folder / "accuracy.csv", "100\n", "\n"), "n=100 and <NA> for context 3 (test)"),
    "other test images": (lambda folder: edit(folder / "summary.csv", n_test=99), "adds up to 300, but summary.csv"),
    "no data set": (
        lambda folder: edit(folder / "summary.csv", dataset=""),
        "dataset is empty, but the run is finished",
    ),
    "no batch": (lambda folder: edit(folder / "summary.csv", batch_size=""), "batch_size is empty, but the run is"),
    "no accuracy": (replace("accuracy.csv", ",test,0.", ",test,zero"), "expected a number"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_named_and_skipped(tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    write_run(tmp_path / "good", 0.9)
    broken = write_run(tmp_path / "broken", 0.8, seed=7, epsilon=float("nan"), regularizer_file="", gamma=float("nan"))
    change(broken)
    found = results.load(tmp_path)
    assert list(found.runs["folder"]) == [str(tmp_path / "good")]
    assert set(found.cells["folder"]) == {str(tmp_path / "good")}
    (problem,) = found.problems
    assert Path(problem.path).parent == broken
    assert message in problem.message


def test_another_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "shopping.csv").write_text("milk\n")
    (problem,) = results.load(tmp_path).problems
    assert problem == results.Problem(str(tmp_path / "shopping.csv"), "not a file of a run or a study")


def test_a_study_is_read_with_its_trials_and_the_roles_of_its_runs(tmp_path: Path) -> None:
    study = write_study(tmp_path / "sweeps" / "split_mnist-online_ewc-0a1b2c3d")
    write_run(study / "trial-0004" / "seed-0", 0.7, validation_fraction=0.1)  # of a trial with several seeds
    write_run(tmp_path / "trial-of-mine")
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.runs.groupby("role").size().to_dict() == {"final": 3, "single": 1, "trial": 3}
    assert set(found.runs[found.runs["role"] != "single"]["study"]) == {str(study)}
    assert list(found.trials["state"]) == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE", "COMPLETE"]
    assert list(found.trials["validation_average_accuracy"].dropna()) == [0.8, 0.95, 0.9, 0.94]
    assert list(found.trials["validation_after_1"].dropna()) == [0.9, 0.97, 0.99, 0.96, 0.96]
    assert str(found.trials["number"].dtype) == "Int64"
    assert list(found.finals["setting"]) == ["tuned", "tuned", "default"]
    (row,) = found.studies.to_dict("records")
    assert row["name"] == "split_mnist-online_ewc-0a1b2c3d"
    assert row["method"] == "online_ewc"
    assert (row["budget"], row["iters"]) == ("full", 2000)
    assert row["space"] == {"reg_strength": "tag(log, interval(0.1, 1e6))", "gamma": "interval(0.05, 1)"}


def test_studies_that_were_stopped_in_their_first_moments_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        study = write_study(tmp_path / name)
        head, first, *_ = (study / "trials.csv").read_text().splitlines()
        values = dict(zip(head.split(","), first.split(","), strict=True)) | {"state": "RUNNING", "folder": ""}
        (study / "trials.csv").write_text(f"{head}\n{','.join(values.values())}\n")
    found = results.load(tmp_path)
    assert len(found.studies) == 2
    assert not any("the same study" in problem.message for problem in found.problems)


@pytest.mark.parametrize(
    ("typed", "budget", "iters"),
    [
        ("iters: '${.iters_by_budget.${budget}}'", "quick", 200),
        ("iters: 200", "quick", 200),
        ("iters: 20", "custom", 20),
        ("iters: 20, epochs: 3", "custom", None),
    ],
)
def test_a_studys_budget_is_that_of_its_runs(tmp_path: Path, typed: str, budget: str, iters: int | None) -> None:
    study = write_study(tmp_path / "study")
    (study / "best.yaml").write_text(BEST.replace("iters: 2000", typed, 1).replace("budget: full", "budget: quick"))
    (row,) = results.load(tmp_path).studies.to_dict("records")
    assert (row["budget"], None if pd.isna(row["iters"]) else row["iters"]) == (budget, iters)


def test_a_setting_without_the_benchmarks_budgets_has_the_budget_that_it_names(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    (study / "best.yaml").write_text(BEST.replace(", iters_by_budget: {full: 2000, quick: 200}", ""))
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.studies[["budget", "iters"]].to_dict("records") == [{"budget": "full", "iters": 2000}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trials.csv", "number,state\n0,COMPLETE\n", "it lacks the column validation_average_accuracy"),
        ("final.csv", "setting,seed\ntuned,0\n", "it lacks the column test_average_accuracy"),
        ("final.csv", "setting,seed,test_average_accuracy,folder\ntuned,0,good,f\n", "good"),
        ("trials.csv", TRIALS.replace("\n2,0,", "\n9,0,"), "format version 9, written by a newer clsweep"),
        ("trials.csv", TRIALS.replace("2,0,COMPLETE", f"2,{2**70},COMPLETE"), "too large"),
        ("final.csv", FINAL.replace("\n2,", "\n4,"), "format version 4"),
        ("trials.csv", TRIALS + TRIALS.splitlines()[-1] + "\n", "number 5 is given twice"),
        ("final.csv", FINAL + FINAL.splitlines()[-1] + "\n", "setting default, seed 0 is given twice"),
        ("best.yaml", BEST.replace("space: {", "space: abc #"), "expected ranges by hyperparameter"),
        ("best.yaml", BEST.replace("gamma:", "delta:"), "trials.csv beside it lacks the column delta"),
        ("best.yaml", "{", "not the setting of a study's best trial"),
        ("best.yaml", "a: b\n", "not the setting of a study's best trial"),
    ],
)
def test_a_damaged_file_of_a_study_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    study = write_study(tmp_path / "study")
    (study / name).write_text(content)
    (problem,) = results.load(tmp_path).problems
    assert problem.path == str(study / name)
    assert message in problem.message


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: not a folder; expected one with the results of runs"):
        results.load(tmp_path / "nowhere")


def test_the_documented_types_are_the_real_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    runs = results.load(tmp_path).runs
    text = (ROOT / "docs" / "files.md").read_text()
    table = dict(re.findall(r"^\| `([\w\[\], ]+)` \| (`.*`) \|$", text, re.MULTILINE))
    documented = {name: kind for kind, names in table.items() for name in re.findall(r"`(\w+)`", names)}
    real = {name: str(dtype) for name, dtype in runs.dtypes.items() if str(dtype) != "str"}
    assert {name: documented.get(str(name)) for name in real} == real


def test_a_methods_own_hyperparameters_are_typed_columns(tmp_path: Path) -> None:
    several: list[dict[str, float | str]] = [{"temperature": 2.0, "mode": "soft"}, {"temperature": 0.5}, {}]
    for number, values in enumerate(several):
        used = " ".join(["reg_strength", *values])
        write_run(tmp_path / str(number), 0.9, seed=1, hyperparameters=used, values=values)
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.runs["temperature"].dtype == "float64"
    assert list(found.runs["temperature"].fillna(-1)) == [2.0, 0.5, -1]
    assert list(found.runs["mode"]) == ["soft", "", ""]
    expected = {"reg_strength=10", "reg_strength=10, temperature=0.5", "reg_strength=10, temperature=2, mode=soft"}
    assert set(select(found).runs["setting"]) == expected
    assert set(leaderboard.rows(select(found).runs)["setting"]) == expected


def test_a_column_of_numbers_in_one_study_and_of_words_in_another_is_text(tmp_path: Path) -> None:
    for name, values in (("a", ["1.5", "2"]), ("b", ["soft", "2"])):
        (tmp_path / name).mkdir()
        lines = [f"{number},COMPLETE,0.9,{value}" for number, value in enumerate(values)]
        head = "number,state,validation_average_accuracy,temperature"
        (tmp_path / name / "trials.csv").write_text("\n".join([head, *lines, ""]))
    found = results.load(tmp_path)
    assert found.problems == []
    assert list(found.trials["temperature"]) == ["1.5", "2.0", "soft", "2"]
