"""The project's experiments: which runs are made, what is kept of them, and the pages."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import ROOT, setting
from conftest import Typed
from scipy import stats
from trees import write_run

import clsweep
from clsweep import composing, decisive, results, space
from clsweep import config as settings
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.data.streams import permuted, split
from clsweep.protocol import SEED_PARTS, Protocol
from clsweep.results.packed import TABLES
from clsweep.sweeps import command, overrides

sys.path.insert(0, str(ROOT / "scripts"))
import experiments
import missing_runs
from evaluation import few_tests, figures, keeping, making, pages, performance, streams, tables, tuned, variance
from evaluation.declared import EXPERIMENTS
from evaluation.experiment import NOTHING, Experiment, Made, Method, Run, Setting, Study, merged

NAMES = list(EXPERIMENTS)
LONG = ("arena", "tuning", "fisher_estimators", "few_examples", "narrow")  # which take long to compose
EWC = Method("ewc", ("regularizer=ewc",), strengths=(1.0, 10.0, 100.0))
SI = Method("si", ("regularizer=si", "regularizer.reg_strength=10", "regularizer.epsilon=0.1"))
BOUND = Method("none", ("regularizer=none",), is_bound=True)
SETTING = Setting("split_mnist", ("benchmark=split_mnist",), (EWC, SI), (("seed=5000",), ("seed=5001",)), minutes=1)
REFERENCE = (EXPERIMENTS["reference_split_mnist"].tables, EXPERIMENTS["reference_split_mnist"].draw)
EXPERIMENT = Experiment("one", "One", "Which?", (SETTING,), tables.comparison, lambda experiment, made: None)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read or written in the checkout's outputs."""
    monkeypatch.setattr(keeping, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(keeping, "MADE_HERE", tmp_path / "here")
    return tmp_path


def finish(run: Run, accuracy: float = 0.9, **changes: Any) -> Path:
    """Leave a finished run where it is made."""
    seed = int(next(one for one in run.overrides if one.startswith("seed=")).removeprefix("seed="))
    values = {"regularizer": run.method, "reg_strength": strength_of(run), "seed": seed} | changes
    return write_run(keeping.MADE_HERE / EXPERIMENT.name / run.name, accuracy, **values)


def strength_of(run: Run) -> float:
    typed = next((one for one in run.overrides if one.startswith("regularizer.reg_strength=")), "=10")
    return float(typed.partition("=")[2])


def runs() -> list[Run]:
    return EXPERIMENT.runs(keeping.kept(EXPERIMENT))


def finish_searches(*accuracies: float) -> Made:
    """Strengths were tried, with these accuracies on validation data."""
    for run, accuracy in zip(SETTING.searches(EWC), accuracies, strict=True):
        finish(run, validation_average_accuracy=accuracy, validation_fraction=0.1)
    return keeping.keep(EXPERIMENT, runs())


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_a_page_are_what_the_kept_runs_give(name: str) -> None:
    page = (pages.PAGES / f"{name}.md").read_text()
    written = pages.renewed(page, pages.tables(EXPERIMENTS[name]))
    assert page == written, "python scripts/experiments.py tables writes it"
    assert all(heading in page for heading in ("## Setup\n", "## Result\n", "## Caveats\n", "## Reproduce\n"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_begins_with_its_title_and_its_question(name: str) -> None:
    title, first, *_ = (pages.PAGES / f"{name}.md").read_text().split("\n\n")
    assert title == f"# {EXPERIMENTS[name].title}"
    assert " ".join(first.split()).startswith(EXPERIMENTS[name].question)


def test_the_index_has_what_was_run_before_what_was_not(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none, some = replace(EXPERIMENT, name="none", title="None"), EXPERIMENT
    monkeypatch.setattr(pages, "EXPERIMENTS", {one.name: one for one in (none, some)})
    finish(runs()[0], validation_average_accuracy=0.9, validation_fraction=0.1)
    keeping.keep(some, runs())
    results, declared = pages.index().split("\n\n## Declared, not run yet\n\n")
    assert results.splitlines()[2:] == ["| [One](one.md) | Which? | 1 of 7 |"]
    hours = sum(run.minutes for run in none.runs(NOTHING)) / 60
    assert declared.splitlines()[2:] == [f"| [None](none.md) | Which? | {hours:.1f} |"]


def test_tables_have_nothing_of_what_was_not_run(folders: Path) -> None:
    made = keeping.kept(EXPERIMENT)
    asked = "`python scripts/experiments.py run one`"
    assert tables.comparison(EXPERIMENT, made) == f"Not run yet: 7 runs, about 7 core minutes: {asked}."
    run = next(run for run in runs() if run.method == "si")
    finish(run)
    told = tables.comparison(EXPERIMENT, keeping.keep(EXPERIMENT, [run]))
    assert told.startswith("1 of 7 runs is made. Not run yet: 6 runs")
    assert "| SI | 10 | 1 |" in told
    assert "| EWC |" not in told
    assert told.endswith("Not in this table yet: EWC.")


def test_the_index_has_every_experiment() -> None:
    page = (pages.PAGES / pages.INDEX).read_text()
    assert page == pages.renewed(page, pages.index()), "python scripts/experiments.py tables writes it"
    for other, content in {pages.README: tuned.overview, pages.PERFORMANCE: performance.tables}.items():
        text = other.read_text()
        assert text == pages.renewed(text, content()), "python scripts/experiments.py tables writes it"
    assert {file.stem for file in pages.PAGES.glob("*.md")} == {*NAMES, Path(pages.INDEX).stem}


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in NAMES])
def test_runs_can_be_made_and_those_that_are_kept_are_of_the_declared_protocol(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    kept = keeping.kept(EXPERIMENTS[name])
    made, groups = kept.runs, set()
    configs: dict[tuple[str, ...], settings.Config] = {}  # of runs that differ in their seeds alone
    for run in EXPERIMENTS[name].runs(kept):
        group = (run.setting, run.method, run.searches)
        if run.trials or (group in groups and run.name not in made.index):
            continue  # a sweep, or as the others but for its seed
        groups.add(group)
        unseeded = tuple(one for one in run.overrides if not one.startswith("seed"))
        if unseeded not in configs:
            configs[unseeded] = setting(*run.overrides)
            settings.check(configs[unseeded])
        if run.name in made.index:
            row = made.loc[run.name].to_dict()
            seeds = {
                name: int(value)
                for name, _, value in (one.partition("=") for one in run.overrides if one[:4] == "seed")
            }
            parts: dict[str, Any] = {name: seeds.get(name) for name in SEED_PARTS}
            expected = Protocol.of(replace(configs[unseeded], **parts), dataset_digest=row["dataset_digest"])
            assert Protocol.of_row(row) == expected
            assert row["regularizer"] == configs[unseeded].method
            assert row["seed"] == seeds["seed"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_names_no_folder_of_a_machine(name: str) -> None:
    runs = keeping.kept(EXPERIMENTS[name]).runs
    assert runs.index.is_unique
    for table in ("runs", "trials", "studies"):
        file = keeping.KEPT / name / TABLES[table]
        rows = pd.read_csv(file, dtype=str, keep_default_na=False) if file.is_file() else pd.DataFrame()
        for column in rows:
            assert not rows[column].str.contains(r"(?:^|[= ])/\w", regex=True).any(), (table, column)


def test_a_later_override_of_a_key_wins() -> None:
    assert merged(("a=1", "+b=2"), ("b=3",), ("c=4",)) == ("a=1", "b=3", "c=4")


def test_a_runs_name_is_told_by_its_overrides_in_any_order_and_by_its_methods_file(tmp_path: Path) -> None:
    one = Run("s", "m", ("a=1", "b=2"), 1)
    assert one.name == Run("s", "m", ("b=2", "a=1"), 1).name
    assert one.name != Run("s", "m", ("a=1", "b=3"), 1).name
    files = [tmp_path / "first.py", tmp_path / "second.py"]
    for number, file in enumerate(files):
        file.write_text(f"# {number}\n")
    named = {Run("s", "m", ("a=1", "b=2"), 1, file=file).name for file in files}
    assert len(named | {one.name}) == 3


def test_strengths_are_searched_first_and_then_all_methods_of_a_seed(folders: Path) -> None:
    before = runs()
    assert [run.searches for run in before] == [True] * 3 + [False] * 4
    assert [(run.method, run.draw, run.waits) for run in before[3:]] == [
        ("ewc", ("seed=5000",), True),
        ("si", ("seed=5000",), False),
        ("ewc", ("seed=5001",), True),
        ("si", ("seed=5001",), False),
    ]
    assert all("validation_fraction=0.1" in run.overrides and "seed=0" in run.overrides for run in before[:3])
    finish_searches(0.8, 0.95, 0.9)
    after = [run for run in runs() if run.method == "ewc" and not run.searches]
    assert [(strength_of(run), run.waits) for run in after] == [(10.0, False)] * 2
    assert not any(one.startswith("validation_fraction") for one in after[0].overrides)


def test_a_strength_is_chosen_by_validation_data_once_all_are_tried(folders: Path) -> None:
    for run, accuracy, tested in zip(SETTING.searches(EWC), (0.8, 0.95, 0.9), (0.99, 0.1, 0.2), strict=True):
        assert SETTING.chosen(EWC, keeping.kept(EXPERIMENT)) is None
        finish(run, tested, validation_average_accuracy=accuracy, validation_fraction=0.1)
        keeping.keep(EXPERIMENT, [run])
    assert SETTING.chosen(EWC, keeping.kept(EXPERIMENT)) == {"reg_strength": 10.0}


def test_finished_runs_are_kept_once_and_others_are_not(folders: Path) -> None:
    first, second, third, *_ = runs()
    finish(first, 0.8)
    finish(second, status=results.INTERRUPTED)
    made = keeping.keep(EXPERIMENT, runs())
    assert list(made.runs.index) == [first.name]
    shutil.rmtree(keeping.MADE_HERE)  # another machine has the tables alone
    finish(third, 0.7)
    made = keeping.keep(EXPERIMENT, runs())
    assert made.runs["average_accuracy"].to_dict() == pytest.approx({first.name: 0.8, third.name: 0.7})
    assert set(made.cells["name"]) == {first.name, third.name}
    assert first not in EXPERIMENT.missing(made)
    assert second in EXPERIMENT.missing(made)


def test_a_run_that_diverges_is_made_once_and_told(folders: Path, typed: Typed) -> None:
    tried = list(SETTING.searches(EWC))
    folder = keeping.MADE_HERE / EXPERIMENT.name / tried[0].name
    words = "+benchmark=split_mnist dataset=mnist_5k benchmark.iters=30 optimizer=sgd optimizer.lr=1e20 threads=1"
    assert typed(*words.split(), "regularizer=ewc", f"hydra.run.dir={folder}").returncode == 1
    for run, accuracy in zip(tried[1:], (0.9, 0.8), strict=True):
        finish(run, validation_average_accuracy=accuracy, validation_fraction=0.1)
    made = keeping.keep(EXPERIMENT, runs())
    assert made.diverged == {tried[0].name}
    assert SETTING.chosen(EWC, made) == {"reg_strength": 10.0}

    ewc, si, other_ewc, other_si = runs()[3:]
    finish(ewc, status=results.FAILED, reason="KeyError: 'x'")  # mended, it may be made again
    finish(si, 0.9)
    finish(other_si, status=results.FAILED, reason="the network's weight holds NaN or infinity after context 2")
    made = keeping.keep(EXPERIMENT, runs())
    assert EXPERIMENT.missing(made) == [ewc, other_ewc]
    assert made.of(SETTING)["method"].tolist() == ["si"]
    assert "| SI |  |  | 1, 1 diverged | 0.9000 |" in tables.tuned(EXPERIMENT, made)


def test_a_best_value_near_an_end_of_its_range_is_named() -> None:
    ranges = {"a": "tag(log, interval(1, 1e4))", "b": "interval(0, 1)", "c": "choice(x, y)", "d": "range(1, 100)"}

    def near(**values: float | str) -> list[str]:
        return tables._near_an_end(Study(values, 0.9, ranges, 15, 0))

    assert near(a=100.0, b=0.5, c="x", d=1) == []
    assert near(a=2.4, b=0.11, c="y", d=99) == ["a"]  # 2.4 is 1e4 to the power of 0.095
    assert near(a=2.6, b=0.91, c="x", d=2) == ["b"]


@pytest.mark.parametrize("written", [0, 1, len(TABLES) - 1])
def test_a_process_may_be_killed_between_two_tables(
    written: int, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = runs()
    finish(first)
    keeping.keep(EXPERIMENT, runs())
    finish(second)
    left = iter(range(written))

    def write(content: bytes, path: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_bytes", write)
        with pytest.raises(KeyboardInterrupt):
            keeping.keep(EXPERIMENT, runs())
    assert list(keeping.kept(EXPERIMENT).runs.index) == [first.name]
    made = keeping.keep(EXPERIMENT, runs())
    assert set(made.runs.index) == {first.name, second.name}
    assert not made.cells.duplicated(["name", "split", "context", "after_context"]).any()


def test_runs_of_another_version_of_a_file_are_not_kept_as_this_ones(folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "method.py"
    file.write_text("# one version\n")
    run = Run("split_mnist", "own", ("seed=5000",), 1, file=file)
    finish(run, regularizer="custom", regularizer_digest="0" * 12)
    assert keeping.keep(EXPERIMENT, [run]).runs.empty
    shutil.rmtree(keeping.MADE_HERE)
    finish(run, regularizer="custom", regularizer_digest=run.version[:12])
    assert list(keeping.keep(EXPERIMENT, [run]).runs.index) == [run.name]


def test_runs_that_were_made_by_hand_are_taken_over(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    *_, wanted = runs()
    config = settings.parse(composing.composed(wanted.overrides))
    for name, changed in (("same", {}), ("other", {"seed": 7}), ("unfinished", {})):
        status = results.RUNNING if name == "unfinished" else results.FINISHED
        folder = write_run(folders / "by_hand" / name, 0.95, regularizer="si", seed=5001, status=status)
        decisive.write(folder, decisive.decisive(config) | changed)
    taken = keeping.take(EXPERIMENT, [run for run in runs() if not run.waits], folders / "by_hand")
    assert [run.name for run in taken] == [wanted.name]
    made = keeping.keep(EXPERIMENT, taken)
    assert made.runs.loc[wanted.name, "average_accuracy"] == pytest.approx(0.95)
    assert made.runs.loc[wanted.name, "overrides"] == " ".join(wanted.overrides)


def test_equal_runs_of_two_settings_are_taken_over_once_each(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    *_, one = runs()
    other = replace(one, setting="other")
    for name, accuracy in ((other.name, 0.9), ("z", 0.8)):
        folder = write_run(folders / "by_hand" / name, accuracy, regularizer="si", seed=5001)
        decisive.write(folder, decisive.decisive(settings.parse(composing.composed(one.overrides))))
    assert keeping.take(EXPERIMENT, [other, one, replace(one, setting="third")], folders / "by_hand") == [other, one]
    made = keeping.keep(EXPERIMENT, [other, one])
    assert made.runs.loc[[other.name, one.name], "average_accuracy"].tolist() == pytest.approx([0.9, 0.8])


@pytest.fixture
def made(folders: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are made, in their order; none is trained."""
    names: list[str] = []

    def run(folder: Path, overrides: list[str]) -> int:
        names.append(folder.name)
        (one,) = (one for one in runs() if one.name == folder.name)
        assert overrides == [*one.overrides, *making.NOT_DECIDING]
        finish(one, validation_average_accuracy=(one.strength or 0) / 100, validation_fraction=0.1 * one.searches)
        return 0

    monkeypatch.setattr(making, "run_unless_finished", run)
    return names


def test_a_command_makes_what_is_missing_and_the_next_one_nothing(made: list[str]) -> None:
    finish(next(SETTING.searches(EWC)), validation_average_accuracy=0.5, validation_fraction=0.1)
    assert making.make(making.Part(EXPERIMENT)) == 0
    assert made == [run.name for run in runs()][1:]
    assert {strength_of(run) for run in runs() if run.method == "ewc" and not run.searches} == {100.0}
    assert making.make(making.Part(EXPERIMENT)) == 0
    assert len(made) == 6


def test_a_part_may_be_made_and_no_run_is_started_late(made: list[str]) -> None:
    making.make(making.Part(EXPERIMENT, "split_mnist", ["si"]), until=time.monotonic() - 1)
    assert made == []
    making.make(making.Part(EXPERIMENT, "split_mnist", ["si"]))
    assert made == [run.name for run in runs() if run.method == "si"]


@pytest.mark.parametrize(("code", "tried"), [(1, 5), (2, 1), (130, 1)])
def test_a_run_that_fails_stops_the_others_only_where_they_would_fail_too(
    code: int, tried: int, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def run(folder: Path, overrides: list[str]) -> int:
        names.append(folder.name)
        return code

    monkeypatch.setattr(making, "run_unless_finished", run)
    assert making.make(making.Part(EXPERIMENT)) == code
    assert len(set(names)) == len(names) == tried  # what waits for a search is not tried


def test_a_run_that_another_process_makes_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    class Done:
        returncode = 3

    def run(command: list[str], **options: Any) -> Done:
        started.append(command)
        return Done()

    monkeypatch.setattr(subprocess, "run", run)
    folder = tmp_path / "runs" / "one"
    folder.parent.mkdir()
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert missing_runs.run_unless_finished(folder, ["seed=1"]) == 0
    assert "another process is at it" in capsys.readouterr().out
    assert missing_runs.run_unless_finished(folder, ["seed=1"]) == 3
    write_run(folder)
    assert missing_runs.run_unless_finished(folder, ["seed=1"]) == 0
    assert [command[3:] for command in started] == [["seed=1", f"hydra.run.dir={folder}"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "nothing: no such experiment; expected one of tuned,"),
        (["run", "narrow/cifar"], "narrow/cifar: no such setting of narrow; expected one of split_mnist, perm_mnist."),
        (["run", "narrow", "--methods", "mas"], "--methods mas: narrow has no such method; expected some of ewc,"),
        (["tables", "nothing"], "nothing: no such experiment"),
    ],
)
def test_a_name_that_is_not_there_is_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiments.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_list_has_every_method_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["list"]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        for one in EXPERIMENTS[name].settings:
            assert all(f"{name}/{one.name} {method.name} " in said for method in one.methods)


def test_methods_are_compared_by_their_kept_runs(folders: Path) -> None:
    finish_searches(0.8, 0.9, 0.95)
    for run, accuracy in zip(runs()[3:6], (0.91, 0.92, 0.93), strict=True):
        finish(run, accuracy)
    made = keeping.keep(EXPERIMENT, runs())
    lines = tables.comparison(EXPERIMENT, made).splitlines()
    asked = "`python scripts/experiments.py run one`"
    assert lines[0] == f"6 of 7 runs are made. Not run yet: 1 run, about 1 core minute: {asked}."
    assert [line.split(" | ")[:4] for line in lines if line.startswith(("| EWC", "| SI"))] == [
        ["| EWC", "100", "2", "0.9200 (0.9100, 0.9300)"],
        ["| SI", "10", "1", "0.9200"],
        ["| EWC", "1: 0.8000, 10: 0.9000, 100: 0.9500", "100 (at an end of the grid) |"],
    ]
    later = tables.after_contexts(EXPERIMENT, made, counts=(1, 3)).splitlines()
    assert later[2] == "| method | strength | seeds | 1 contexts | 3 contexts |"
    assert later[4].startswith("| EWC | 100 | 2 | 0.9")
    assert later[4].endswith(" | 0.9200 (0.9100, 0.9300) |")
    plot = figures.over_contexts(EXPERIMENT, made)
    assert plot is not None
    last = plot.data[plot.data["after_context"] == 3].groupby("method")["accuracy"].apply(sorted)
    assert last["ewc"] == pytest.approx([0.91, 0.93])
    assert last["si"] == pytest.approx([0.92])
    assert plot.svg().startswith(b"<?xml")


def test_the_distance_to_joint_training_is_measured_over_common_seeds(folders: Path) -> None:
    joint = Method("joint", ("regularizer=none", "stream=joint"), draws=2)
    shipped = Method("shipped", ("regularizer=mas",))
    whole = replace(SETTING, methods=(SI, shipped, joint), draws=(*SETTING.draws, ("seed=5002",)))
    alone = replace(EXPERIMENT, settings=(whole,))
    accuracies = {"si": (0.5, 0.6, 0.9), "shipped": (0.6, 0.7, 0.1), "joint": (0.7, 0.8)}
    left = {name: iter(values) for name, values in accuracies.items()}
    for run in alone.runs(NOTHING):
        finish(run, next(left[run.method]), stream="joint" if run.method == "joint" else "sequential")
    made = keeping.keep(alone, alone.runs(NOTHING))
    said = tables.comparison(alone, made, to_joint=True)
    assert "Over 2 common seeds, the shipped file (0.6500) closes 50% of the gap between the best baseline" in said
    assert "| SI | 10 | 3 | 0.6667 ± 0.5171 |" in said
    assert "+0.2000 (3 seeds, p 0.57) |" in said  # t = -2/3 with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2)
    assert "+0.1000 (2 seeds) |" in said


TUNED = replace(SETTING, methods=(replace(EWC, search=("regularizer.tuned={reg_strength: 3}",)), BOUND), trials=3)
TUNED_EXPERIMENT = replace(EXPERIMENT, settings=(TUNED,), tables=tables.tuned, draw=figures.errors)


def sweep_here(run: Run, *rows: tuple[str, float, float]) -> Path:
    """Leave a sweep where it is made: state, strength and validation accuracy of each trial."""
    folder = keeping.MADE_HERE / TUNED_EXPERIMENT.name / run.name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"3,{number},{state},{strength},{'' if np.isnan(accuracy) else accuracy}"
        for number, (state, strength, accuracy) in enumerate(rows)
    ]
    header = "format_version,number,state,reg_strength,validation_average_accuracy"
    (folder / "trials.csv").write_text("\n".join([header, *lines, ""]))
    (folder / "best.yaml").write_text(
        "benchmark: {name: split_mnist, iters: 2000, iters_by_budget: {full: 2000}, lr: 0.001}\n"
        "dataset: {name: arrays, train: /a/folder/of/a/machine.npz}\nbudget: full\n"
        "regularizer: {name: ewc, file: null}\nsearch: {space: {reg_strength: 'tag(log, interval(1, 1e3))'}}\n"
    )
    if not (folder / "trial-0000").exists():
        write_run(folder / "trial-0000", 0.9, validation_fraction=0.1)
    return folder


def test_a_sweep_is_one_thing_to_make_and_bounds_have_none() -> None:
    first, *others = TUNED_EXPERIMENT.runs(NOTHING)
    assert (first.trials, first.searches, first.minutes) == (3, True, 3 * SETTING.minutes * EWC.cost)
    typed = {"search.n_trials=3", "seed=0", "validation_fraction=0.1", "regularizer.tuned={reg_strength: 3}"}
    assert typed <= set(first.overrides)
    assert [(run.method, run.waits) for run in others] == [("ewc", True), ("none", False)] * 2
    assert not any("tuned" in one for run in others for one in run.overrides)


def test_the_values_of_a_finished_sweep_are_run_on_any_machine(folders: Path) -> None:
    first = TUNED_EXPERIMENT.runs(NOTHING)[0]
    tried = (("COMPLETE", 3.0, 0.8), ("FAIL", 9.0, 0.99), ("COMPLETE", 123.456, 0.9))
    sweep_here(first, *tried)
    made = keeping.keep(TUNED_EXPERIMENT, [first])
    assert not made.has(first)  # two trials count
    sweep_here(first, *tried, ("PRUNED", 50.0, np.nan))
    assert keeping.keep(TUNED_EXPERIMENT, [first]).has(first)
    shutil.rmtree(keeping.MADE_HERE)
    after = TUNED_EXPERIMENT.runs(keeping.kept(TUNED_EXPERIMENT))
    assert [strength_of(run) for run in after if run.method == "ewc" and not run.searches] == [123.5, 123.5]
    assert not any(run.waits for run in after)
    assert all("/a/folder" not in pd.read_csv(file).to_string() for file in (folders / "kept").rglob("*.gz"))


def test_a_sweep_is_made_by_the_real_command_and_the_runs_follow(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def sweep(folder: Path, overrides: list[str]) -> int:
        (run,) = (one for one in TUNED_EXPERIMENT.runs(NOTHING) if one.name == folder.name)
        assert overrides == [*run.overrides, *making.NOT_DECIDING, *making.OF_SWEEPS]
        sweep_here(run, ("COMPLETE", 3.0, 0.8), ("COMPLETE", 4.0, 0.9), ("PRUNED", 5.0, np.nan), ("FAIL", 6.0, np.nan))
        made.append("sweep")
        return 0

    def single(folder: Path, overrides: list[str]) -> int:
        runs = TUNED_EXPERIMENT.runs(keeping.kept(TUNED_EXPERIMENT))
        (run,) = (one for one in runs if one.name == folder.name)
        finish(run, 0.9 if run.method == "ewc" else 0.7)
        made.append(run.method)
        return 0

    monkeypatch.setattr(making, "sweep_alone", sweep)
    monkeypatch.setattr(making, "run_unless_finished", single)
    assert making.make(making.Part(TUNED_EXPERIMENT)) == 0
    assert made == ["sweep", *["ewc", "none"] * 2]
    assert making.make(making.Part(TUNED_EXPERIMENT)) == 0
    assert len(made) == 5
    written = tables.tuned(TUNED_EXPERIMENT, keeping.kept(TUNED_EXPERIMENT)).splitlines()
    assert written[4].startswith("| EWC | reg_strength 4 | 0.9000 | 2 | 0.9000 (0.9000, 0.9000) |")
    assert written[5].startswith("| no penalty |  |  | 2 | 0.7000")
    assert written[-1] == "| EWC | reg_strength `tag(log, interval(1, 1e3))` | 3 | 1 | 1 |  |"


def test_differences_to_the_shipped_file_are_corrected_for_the_number_of_rivals(folders: Path) -> None:
    shipped, si = Method("shipped", ("regularizer=mas",)), Method("si", ("regularizer=si",))
    ewc = Method("ewc", ("regularizer=ewc",))
    few = Method("l2", ("regularizer=l2",))
    methods = (shipped, ewc, si, BOUND, few)
    whole = replace(SETTING, methods=methods, draws=(*SETTING.draws, ("seed=5002",)), trials=0)
    alone = replace(TUNED_EXPERIMENT, settings=(whole,))
    accuracies = {"shipped": (0.6, 0.7, 0.1), "si": (0.5, 0.6, 0.9), "ewc": (0.5, 0.65, 0.02), "none": (0.2, 0.3, 0.1)}
    left = {name: iter(values) for name, values in (accuracies | {"l2": (0.5, 0.59)}).items()}
    for run in alone.runs(NOTHING):
        if accuracy := next(left[run.method], None):
            finish(run, accuracy)
    rows = tables.tuned(alone, keeping.keep(alone, alone.runs(NOTHING))).splitlines()[4:]
    plain = stats.ttest_rel(accuracies["shipped"], accuracies["ewc"]).pvalue
    assert rows[1].endswith(f"-0.0767 (3 seeds, p {2 * plain:.2g}) |")
    assert rows[2].endswith("+0.2000 (3 seeds, p 0.57) |")  # the larger of the two, as it is
    assert rows[3].endswith("-0.2667 (3 seeds) |")  # a bound is no rival
    assert rows[4].endswith("-0.1050 (2 seeds) |")  # nor is what isn't tested
    plot = figures.errors(alone, keeping.kept(alone))
    assert plot is not None
    assert len(plot.data) == 14


def test_methods_of_a_rate_of_their_own_are_compared_with_the_file_at_its_own(folders: Path) -> None:
    names = {"shipped": 0.5, "ewc": 0.4, "shipped_rate": 0.9, "gpm": 0.8}
    methods = [
        Method(name, (f"regularizer={one}",)) for name, one in zip(names, ("mas", "ewc", "si", "l2"), strict=True)
    ]
    methods[2] = replace(methods[2], overrides=("regularizer=si", "optimizer.lr=0.1"))
    methods[3] = replace(methods[3], overrides=("regularizer=l2", "optimizer.lr=1"))
    alone = replace(TUNED_EXPERIMENT, settings=(replace(SETTING, methods=tuple(methods), trials=0),))
    for run in alone.runs(NOTHING):
        finish(run, names[run.method])
    rows = tables.tuned(alone, keeping.keep(alone, alone.runs(NOTHING))).splitlines()[4:]
    assert [row.rpartition(" | ")[2] for row in rows] == [" |", "-0.1000 (2 seeds) |", " |", "-0.1000 (2 seeds) |"]


@pytest.mark.slow
def test_a_real_sweep_and_its_runs(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tiny = ("benchmark=split_mnist", "dataset=mnist_5k", "benchmark.iters=3", "network.hidden=[8]")
    real = replace(TUNED, overrides=tiny, trials=2, draws=(("seed=5000",),))
    alone = replace(TUNED_EXPERIMENT, settings=(real,))
    assert making.make(making.Part(alone)) == 0
    shutil.rmtree(keeping.MADE_HERE)
    made = keeping.kept(alone)
    (study,) = made.studies.values()
    assert study.trials == 2
    assert sorted(made.of(real)["method"]) == ["ewc", "none"]
    assert making.make(making.Part(alone)) == 0
    assert not list(keeping.MADE_HERE.rglob("summary.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if any(s.trials for s in one.settings)])
def test_declared_sweeps_can_be_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for run in EXPERIMENTS[name].runs(NOTHING):
        if run.trials:
            asked = command.read([*run.overrides, *making.OF_SWEEPS], tmp_path)
            overrides.check(asked.plans)
            (plan,) = asked.plans
            assert (plan.n_trials, plan.folder) == (run.trials, tmp_path)
            assert space.contains(plan.space, plan.default)
            chosen = {one: space.first(distribution) for one, distribution in plan.space.items()}
            made = Made(NOTHING.runs, NOTHING.cells, {run.name: Study(chosen, 0.9, plan.ranges, run.trials, 0)})
            mine = [
                one for one in EXPERIMENTS[name].runs(made) if (one.setting, one.method) == (run.setting, run.method)
            ]
            final = settings.parse(composing.composed(mine[1].overrides))  # behind the sweep
            typed = {one: settings.value_of(final, one) for one in chosen}
            assert typed == pytest.approx(chosen, rel=1e-4)  # six digits are typed


def test_published_figures_are_placed_among_the_seeds(folders: Path) -> None:
    whole = EXPERIMENTS["reference_split_mnist"].settings[-1]
    methods = tuple(one for one in whole.methods if one.name == "ewc")
    alone = Experiment("one", "One", "?", (replace(whole, methods=methods, draws=whole.draws[:4]),), *REFERENCE)
    for run, accuracy in zip(alone.runs(NOTHING), (0.97, 0.93, 0.94, 0.95), strict=True):
        finish(run, accuracy)
    made = keeping.keep(alone, alone.runs(NOTHING))
    row = tables.beside_published(alone, made, benchmark="split_mnist", best=0.99).splitlines()[-1]
    assert row == "| EWC | 10 | 0.9577 | 0.9700 | 3 | 0.9400 ± 0.0248 | 0.0100 | 0.9300 to 0.9500 | +1.8 |"
    plot = figures.beside_published(alone, made, benchmark="split_mnist", best=0.99)
    assert plot is not None
    assert sorted(plot.data["average_accuracy"]) == pytest.approx([0.93, 0.94, 0.95, 0.97])


def test_components_of_a_layout_without_noise_are_the_variances_of_its_effects() -> None:
    rows, columns = np.array([0.1, 0.5, 0.2, 0.4]), np.array([0.0, 0.03, 0.01])
    found = variance.two_way(rows[:, None] + columns)
    assert found == pytest.approx([rows.var(ddof=1), columns.var(ddof=1), 0], abs=1e-12)


def test_components_are_estimated_without_bias() -> None:
    source, truth = np.random.default_rng(1), np.array([4.0, 1.0, 0.25])
    sizes = ((10, 1), (1, 10), (10, 10))
    layouts = (
        sum(np.sqrt(one) * source.standard_normal(size) for one, size in zip(truth, sizes, strict=True))
        for _ in range(2000)
    )
    mean = np.mean([variance.two_way(np.asarray(one)) for one in layouts], axis=0)
    assert mean == pytest.approx(truth, rel=0.05)


def test_intervals_of_shares_hold_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance, "_DRAWS", 200)
    source, truth = np.random.default_rng(2), np.array([0.5, 0.3, 0.2])
    held = []
    for _ in range(100):
        effects = (source.standard_normal(size) for size in ((10, 1), (1, 10), (10, 10)))
        found = variance.intervals(np.asarray(sum(np.sqrt(truth)[n] * one for n, one in enumerate(effects))))
        held.append((found[:, 0] <= truth) & (truth <= found[:, 1]))
    assert (np.mean(held, axis=0) > 0.75).all()


def crossed(orders: int, inits: int, *missing: tuple[int, int]) -> pd.DataFrame:
    """Runs of class orders with initialisations; the order is worth ten times as much."""
    cells = [(order, init) for order in range(orders) for init in range(inits) if (order, init) not in missing]
    draws = [f"seed=1 seed_batches=1 seed_order={order} seed_init={init}" for order, init in cells]
    return pd.DataFrame({"draw": draws, "average_accuracy": [0.9 - 0.01 * one + 0.001 * two for one, two in cells]})


def test_the_largest_complete_square_of_orders_and_initialisations_is_analysed() -> None:
    assert variance.of(crossed(0, 0)) is None
    assert variance.of(crossed(2, 2)) is None
    assert variance.of(crossed(3, 3, (2, 2), (0, 1))) is None
    found = variance.of(crossed(5, 5, (1, 4)))
    assert found is not None
    assert found.told()[0] == "16"
    assert found.shares[0].startswith("99% (")
    star = variance.of(crossed(3, 3, *((order, init) for order in (1, 2) for init in (1, 2))))
    assert star is not None
    assert star.values.tolist() == pytest.approx([0.9, 0.89, 0.88, 0.901, 0.902])
    assert star.shares[0].startswith("standard deviation 0.0100 (")


def test_few_examples_are_a_part_of_each_class_and_the_test_images_stay() -> None:
    labels = torch.arange(4).repeat_interleave(torch.tensor([100, 60, 40, 3]))
    images = LabelledImages(torch.zeros(len(labels), 1, 2, 2), labels)
    data = ImageData(images, images, 4)
    for number, context in enumerate(streams.split_few(data, 2, 2, seed=1)):
        counts = torch.bincount(labels[context.train], minlength=4)
        expected = torch.tensor([10, 6, 4, 1])
        assert all(counts[one] == (expected[one] if one in context.classes else 0) for one in range(4))
        whole = list(split(data, 2, 2, seed=1))[number]
        assert torch.equal(context.test, whole.test)
    first, second = streams.permuted_few(data, 2, seed=1, input_shape=(1, 2, 2), part=0.5)
    assert torch.bincount(labels[first.train]).tolist() == [50, 30, 20, 2]
    assert not torch.equal(first.train, second.train)
    assert len(first.train.unique()) == len(first.train)
    again, _ = streams.permuted_few(data, 2, seed=1, input_shape=(1, 2, 2), part=0.5)
    assert torch.equal(first.train, again.train)


def test_few_tests_are_drawn_in_each_context_and_the_training_images_stay() -> None:
    labels = torch.arange(4).repeat(25)
    images = LabelledImages(torch.zeros(len(labels), 1, 2, 2), labels)
    data = ImageData(images, images, 4)
    first, second = few_tests.permuted(data, 2, seed=1, input_shape=(1, 2, 2), tests=30)
    assert [len(one.test.unique()) for one in (first, second)] == [30, 30]
    assert not torch.equal(first.test, second.test)
    whole = next(iter(permuted(data, 2, seed=1, input_shape=(1, 2, 2))))
    assert torch.equal(first.train, whole.train)
    assert first.transform is not None
    assert whole.transform is not None
    pixels = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert torch.equal(first.transform(pixels), whole.transform(pixels))
    again, _ = few_tests.permuted(data, 2, seed=1, input_shape=(1, 2, 2), tests=30)
    assert torch.equal(first.test, again.test)


def test_a_shorter_stream_of_permutations_is_the_beginning_of_a_longer_one() -> None:
    short = ["dataset=mnist_5k", "benchmark.iters=4", "network.hidden=[8]", "seed=3"]
    few, more = (
        clsweep.run("perm_mnist", method="ewc", overrides=[*short, f"benchmark.contexts={count}"]).accuracy
        for count in (2, 4)
    )
    beginning = more[(more["after_context"] <= 2) & (more["context"] <= 2)].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.drop(columns="run_id"), beginning.drop(columns="run_id"))


def test_means_over_the_contexts_learned_so_far() -> None:
    cells = pd.DataFrame(
        [(1, 1, 0.8), (1, 2, 0.1), (2, 1, 0.6), (2, 2, 0.9)], columns=["after_context", "context", "accuracy"]
    ).assign(name="one", split="test")
    made = Made(pd.DataFrame(index=["one"]), cells)
    assert made.learned(made.runs).loc["one"].to_dict() == {1: 0.8, 2: pytest.approx(0.75)}
    assert np.isnan(made.learned(made.runs).to_numpy()).sum() == 0
