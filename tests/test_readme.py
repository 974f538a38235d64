"""What README shows is what a kept run measured, and what it says to type runs as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from builders import ROOT, command

from clsweep import results
from clsweep.report.command import main as report
from clsweep.training.display import clock

TEXT = (ROOT / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"^```(?:python)?\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
SMALL = ["dataset=mnist_5k", "benchmark.contexts=2", "benchmark.iters=20", "network.hidden=[8]", "threads=1"]


def block(beginning: str) -> str:
    """The one that begins so."""
    (found,) = (one for one in BLOCKS if one.startswith(beginning))
    return found


def test_the_demos_output_is_that_of_the_run_whose_files_are_kept() -> None:
    kept = results.load(ROOT / "outputs" / "reference").runs
    row = kept[kept["folder"].str.endswith("/demo")].iloc[0]
    assert block("average accuracy") == (
        f"average accuracy  {row.average_accuracy:.4f}\n"
        f"forgetting        {row.forgetting:.4f}\n"
        f"time              {clock(row.train_seconds)} training ({row.iters_per_second:.0f} it/s), "
        f"{clock(row.importance_seconds)} importance, {clock(row.eval_seconds)} evaluation\n"
    )


def commands() -> list[list[str]]:
    """The words of each command that is to be typed after the method."""
    lines = block("python -m clsweep +benchmark").replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_the_method_is_the_example() -> None:
    assert block("import torch") == (ROOT / "examples" / "my_method.py").read_text()


def test_the_method_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(block("import torch"))
    run, *_ = commands()
    assert command(monkeypatch, *run[3:], *SMALL, "regularizer.reg_strength=100") == 0
    assert command(monkeypatch, *run[3:], *SMALL, "regularizer.reg_strength=0") == 0
    found = results.load("outputs").runs
    assert found["status"].tolist() == ["finished", "finished"]
    assert found["average_accuracy"].nunique() == 2, "its penalty changes what is learned"


@pytest.mark.slow
def test_the_sweep_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(block("import torch"))
    _, sweep, read = commands()
    smaller = [word for word in sweep[3:] if not word.startswith("search.n_trials")]
    few = ["search.n_trials=2", "search.final_seeds=1", "search.workers=1"]
    assert command(monkeypatch, *smaller, *SMALL, *few) == 0
    found = results.load("outputs")
    assert sorted(found.studies["method"]) == ["ewc", "my_method", "si"]
    assert (found.trials["state"] == "COMPLETE").sum() == 6
    assert report([*read[3:]]) == 0
    assert Path("outputs/sweeps/report/report.html").is_file()
