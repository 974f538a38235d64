"""`seeds=N`: one setting with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from builders import command, setting
from test_cli import TINY, summary, without_run_id

from clsweep import results, resuming
from clsweep.errors import InputError
from clsweep.results.metrics import Cell
from clsweep.results.statistics import estimate
from clsweep.training.display import Display
from clsweep.training.observers import Observer
from clsweep.training.run import run
from clsweep.training.seeds import run_seeds

PLAIN = (*TINY, "regularizer=ewc", "figures=false", "benchmark.iters=5")


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "seeds.csv").set_index("metric")


def test_each_seed_is_a_run_of_its_own_and_the_summary_is_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "several"
    assert command(monkeypatch, *PLAIN, "seeds=2", "seed=100", f"hydra.run.dir={folder}") == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [summary(folder / f"seed-{seed}") for seed in (100, 101)]
    for seed in (100, 101):
        single = tmp_path / f"single-{seed}"
        single.mkdir()
        run(setting(*PLAIN, f"seed={seed}"), single, Observer())
        assert without_run_id(single / "accuracy.csv") == without_run_id(folder / f"seed-{seed}" / "accuracy.csv")
    kept = table(folder)
    assert list(kept.index) == ["average_accuracy", "forgetting", "backward_transfer"]
    assert (kept.seeds == 2).all()
    assert (kept.of == 2).all()
    for metric, row in kept.iterrows():
        made = estimate([float(str(one[str(metric)])) for one in rows])
        assert (row["mean"], row["high"]) == pytest.approx((made.mean, made.mean + made.half_width))
        assert row["low"] == pytest.approx(made.mean - made.half_width)
    made = estimate([float(str(one["average_accuracy"])) for one in rows])
    assert printed[-6:-4] == [
        "seeds             2 of 2 finished: 100 to 101",
        f"average accuracy  {made.mean:.4f} ± {made.half_width:.4f}",
    ]
    assert printed[-1] == f"files             {folder}/seeds.csv, seed-100/, ..."


def test_a_report_reads_each_seed_as_a_run(tmp_path: Path) -> None:
    run_seeds(setting(*PLAIN, "regularizer=none", "benchmark.iters=2", "seeds=2"), tmp_path, lambda *_: None)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 0\n")  # as Hydra leaves it
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.runs[["seed", "status", "role"]].to_numpy().tolist() == [
        [seed, "finished", "single"] for seed in (0, 1)
    ]
    with pytest.raises(InputError, match=r"holds results already \(seeds\.csv\)"):
        resuming.refuse_other(tmp_path, {})


@pytest.mark.parametrize(
    ("ending", "finished"), [(KeyboardInterrupt(), 2), (MemoryError(), 1), (KeyboardInterrupt(), 0)]
)
def test_what_is_finished_when_it_ends_early_is_kept_and_summarized(
    ending: BaseException,
    finished: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contexts: list[int] = []

    def end(self: Display, cells: Sequence[Cell]) -> None:
        contexts.append(cells[0].after_context)
        if contexts.count(1) > finished:
            raise ending

    monkeypatch.setattr(Display, "context_done", end)
    several = setting(*PLAIN, "regularizer=none", "benchmark.iters=2", "seeds=5")
    with pytest.raises(type(ending)):
        run_seeds(several, tmp_path, lambda *_: None)
    assert list(table(tmp_path).seeds.unique()) == [finished][: 3 * finished]
    assert (table(tmp_path).of == 5).all()
    expected = ["finished"] * finished + ["failed" if isinstance(ending, MemoryError) else "interrupted"]
    assert [summary(tmp_path / f"seed-{seed}")["status"] for seed in range(finished + 1)] == expected
    assert results.load(tmp_path).problems == []
    seen = capsys.readouterr().out
    shown = {0: "", 1: "1 of 5 finished: 0\n", 2: "2 of 5 finished: 0 to 1\n"}[finished]
    assert shown in seen
    assert ("of 5 finished" in seen) == bool(finished)
    assert pd.isna(table(tmp_path).low).all() or finished > 1


def test_wrong_input_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["dataset=arrays", "dataset.train=a.npz", "dataset.test=b.npz", "hydra.run.dir=run"]
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "benchmark=split_mnist", "regularizer=none", *data, "seeds=3")
    assert caught.value.code == 2
    assert "dataset.train=a.npz: no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_as_they_are_take_several_seeds_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["--multirun", "hydra/sweeper=basic", "regularizer=none,l2", "seeds=2", f"hydra.sweep.dir={tmp_path}"]
    assert command(monkeypatch, *TINY, "benchmark.iters=2", "figures=false", *sweep) == 0
    found = results.load(tmp_path)
    assert found.problems == []
    runs = found.runs.groupby("regularizer")["seed"].agg(list).to_dict()
    assert runs == {"none": [0, 1], "l2": [0, 1]}


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "seed=0,1,2",
            "would tune anew for each seed; expected seeds=3 without --multirun for plain runs, search.seeds=3 to tune "
            "by the mean over seeds, or hydra/sweeper=basic for a run of each.",
        ),
        (
            "seeds=3",
            "is for runs that aren't tuned; expected search.seeds=3, which judges every trial by the mean over as "
            "many, or the command without --multirun.",
        ),
    ],
)
def test_a_sweep_that_tunes_does_not_take_several_seeds_so(
    typed: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    sweep = ["--multirun", *TINY, "regularizer=ewc", typed, f"hydra.sweep.dir={folder}"]
    assert command(monkeypatch, *sweep) == 2
    assert capsys.readouterr().err == f"clsweep: {typed}: {sentence}\n"
    assert not folder.exists()
