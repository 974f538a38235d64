"""Runs with a network of one's own: every method learns with it, and what goes wrong is told before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from builders import ROOT, command, setting

METHODS = ("none", "l2", "ewc", "ewc_separate", "online_ewc", "kfac_ewc", "si", "mas", "rwalk")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the example is typed in."""
    shutil.copy(ROOT / "examples" / "my_network.py", tmp_path)
    shutil.copy(ROOT / "custom_regularization.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs_as_it_is_typed(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ("benchmark=split_mnist", "network._target_=my_network.Net", "network.width=64", "dataset=mnist_5k")
    small = ("budget=smoke", "benchmark.contexts=2", "figures=false", "device=cpu", "hydra.run.dir=out")
    assert command(monkeypatch, *typed, *small) == 0
    summary = pd.read_csv(example / "out" / "summary.csv").iloc[0]
    assert summary["network"] == "my_network.Net width=64"
    assert len(summary["code_digest"]) == 12
    assert (example / "out" / "my_network.py").read_bytes() == (example / "my_network.py").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_with_it(method: str, example: Path) -> None:
    own = ("network._target_=torch.nn.Sequential", "network._args_=[]")
    config = setting("+benchmark=split_mnist", f"regularizer={method}", "network=own", *own)
