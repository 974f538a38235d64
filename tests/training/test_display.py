"""What a run prints before it trains."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
import torch
from builders import setting, started
from omegaconf import OmegaConf
from rich.console import Console
from sweeping import plan

from clsweep.results.metrics import Cell
from clsweep.sweeps import command, launchers
from clsweep.training import display
from clsweep.training.display import Display, _tuned_elsewhere
from clsweep.training.update.native import Library

SLOW = "this processor is slow in bf16"
WITHOUT = "no gcc"


@pytest.mark.parametrize(
    ("device", "precision", "said"), [("cpu", "bf16", True), ("cpu", "float32", False), ("cuda:0", "bf16", False)]
)
def test_a_run_and_a_sweep_on_a_processor_that_is_slow_in_bf16_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, precision: str, said: bool
) -> None:
    monkeypatch.setattr(display, "busy_cores_warning", lambda: None)
    monkeypatch.setattr(display, "bf16_warning", lambda: SLOW)
    monkeypatch.setattr(display, "library", lambda: Library(None, WITHOUT))
    study = plan(tmp_path, f"precision={precision}")
    printed = io.StringIO()
    Display(study.config, Console(file=printed)).setting(started(study.config, tmp_path, device))
    assert (SLOW in printed.getvalue()) == said
    assert (f"note       {WITHOUT}\n" in printed.getvalue()) == (device == "cpu")

    monkeypatch.setattr(command, "bf16_warning", lambda: SLOW)
    monkeypatch.setattr(command, "library", lambda: Library(None, WITHOUT))
    monkeypatch.setattr(command, "pick_device", lambda name: torch.device(device))
    notes = [WITHOUT] * (device == "cpu") + [SLOW] * said
    assert command._slow([study]) == [f"note     {note}" for note in notes]


def test_the_header_says_what_the_images_are_and_how_many_threads_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(display, "busy_cores_warning", lambda: None)
    monkeypatch.setattr(display, "library", lambda: Library(None))
    config = plan(tmp_path).config
    printed = io.StringIO()
    images = "1x28x28, uint8 0 to 255; divided by 255"
    Display(config, Console(file=printed), images, ["one of them"]).setting(started(config, tmp_path))
    lines = printed.getvalue().splitlines()
    assert f"images     {images}" in lines
    assert lines[2].startswith("network    mlp ")
    count = torch.get_num_threads()
    assert f"run        seed 0, cpu with {count} thread{'s' * (count > 1)}, float32" in lines
    assert lines[-1] == "note       one of them"


def test_the_header_says_how_long_and_with_what_a_network_is_trained(tmp_path: Path) -> None:
    def line(*overrides: str, iterations: tuple[int, ...] = ()) -> str:
        config = plan(tmp_path, *overrides).config
        printed = io.StringIO()
        Display(config, Console(file=printed), iterations=iterations).setting(started(config, tmp_path, "cuda:0"))
        return next(one for one in printed.getvalue().splitlines() if one.startswith("training"))

    assert line("budget=quick", "benchmark.iters=200") == (
        "training   quick budget: 200 iterations a context, batch 8, Adam lr 0.001"
    )
    many = ("budget=full", "benchmark.iters=2000", "benchmark.epochs=2")
    assert line(*many, "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.reset=true", iterations=(94, 98)) == (
        "training   2 epochs a context: 94 to 98 iterations, batch 8, sgd momentum=0.9 lr 0.001, a new state in each "
        "context"
    )
    config = plan(tmp_path, *many).config
    assert config.benchmark.contexts == 3
    shown = Display(config, Console(file=io.StringIO()), iterations=(2, 3, 1))
    places = []
    for _ in range(6):
        shown.step(torch.zeros(()))
        places.append(shown._where())
    assert places == ["context 1/3"] * 2 + ["context 2/3"] * 3 + ["context 3/3"]


def test_a_time_is_rounded_before_it_is_divided() -> None:
    shown = {seconds: display.clock(seconds) for seconds in (0.04, 59.94, 59.96, 119.4, 119.6, 3600)}
    assert list(shown.values()) == ["0.0 s", "59.9 s", "1 min 0 s", "1 min 59 s", "2 min 0 s", "60 min 0 s"]


def test_steps_a_second_are_those_of_training_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    printed = io.StringIO()
    shown = Display(plan(tmp_path).config, Console(file=printed), iterations=(40, 40, 40))

    def passes(seconds: float, steps: int = 0) -> None:
        nonlocal now
        for _ in range(steps or 1):
            now += seconds / (steps or 1)
            if steps:
                shown.step(torch.zeros(()))

    with shown:
        passes(5)
        shown.context_done([Cell(0, 1, "test", 0.5, 10)])
        passes(2, steps=20)
        passes(7)
        shown.evaluated([])
        passes(2, steps=20)
        passes(9)
        shown.context_done([Cell(1, 1, "test", 0.5, 10)])
        passes(16, steps=10)
    lines = printed.getvalue().splitlines()
    assert lines[0] == "after context  1/3  test 0.500  mean 0.5000  (10 it/s)"
    # What is left takes as long as what was done, measuring included.
    assert lines[1] == "context 2/3: iteration 44 of 120, 4 it/s, 54.2 s left"


@pytest.mark.parametrize(
    ("launcher", "here"),
    [
        ("hydra._internal.core_plugins.basic_launcher.BasicLauncher", True),
        ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", True),
        ("hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher", True),
        ("hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", False),
    ],
)
def test_a_clusters_workers_are_on_other_machines(launcher: str, here: bool) -> None:
    assert launchers.is_here(OmegaConf.create({"_target_": launcher})) == here


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ((), None),
        (("precision=bf16", "seed=3"), None),
        (("benchmark.iters=7",), "here iterations differs: --multirun tunes for it"),
        (("dataset=mnist_5k", "benchmark.lr=0.5"), "here data set, learning rate differ: --multirun tunes for it"),
    ],
)
def test_tuned_values_in_another_setting_are_said_to_be_of_the_usual_one(
    overrides: tuple[str, ...], note: str | None
) -> None:
    config = setting("benchmark=split_mnist", "regularizer=ewc", *overrides)
    notes = _tuned_elsewhere(config, ["reg_strength=1e+06 (default, tuned before)"])
    assert [one.partition("; ")[2] for one in notes] == ([] if note is None else [note])
    assert _tuned_elsewhere(config, ["reg_strength=3"]) == []
