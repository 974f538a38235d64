"""`protocol=reference`: the published comparison, on every benchmark that has figures, and what may be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import ROOT, command, compose

import clsweep
from clsweep import config as settings
from clsweep import published
from clsweep.config import Config
from clsweep.decisive import decisive
from clsweep.errors import InputError
from clsweep.methods.loading import Loaded, load

STRENGTHS = {"split_mnist": 5000.0, "perm_mnist": 10000.0, "split_cifar100": 100.0}
ITERATIONS = {"split_mnist": (2000, 200), "perm_mnist": (2000, 200), "split_cifar100": (5000, 500)}
METHODS = ("ewc", "online_ewc", "si")
REFERENCE = "protocol=reference"
FILE = """
HYPERPARAMETERS = {"temperature": {"default": 2.0, "space": "interval(1, 3)"}}

def estimate_importance(model, dataset, prev_params, device):
    return {}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return 0 * sum(p.sum() for p in model.parameters())
"""
TINY = ("benchmark=split_mnist", "dataset=mnist_5k", "benchmark.iters=3", "device=cpu", "threads=1", "figures=false")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # regularizer=custom, the default, names a file there


def setting(*overrides: str) -> Config:
    """The setting as Hydra composes it: what is typed beside a group that overrides others."""
    return settings.parse(compose(*overrides))


def method(*overrides: str) -> Loaded:
    return load(setting(*overrides).regularizer)


@pytest.mark.parametrize("benchmark", STRENGTHS)
def test_the_reference_is_the_published_comparison(benchmark: str) -> None:
    for name in METHODS:
        config = setting(f"benchmark={benchmark}", f"regularizer={name}", REFERENCE)
        values = load(config.regularizer).resolved.values
        full, quick = ITERATIONS[benchmark]
        assert (config.seed, config.contract.logits, config.benchmark.iters) == (42, "all", full)
        assert config.effective_budget == "full"
        expected: dict[str, Any] = {
            "ewc": {"reg_strength": STRENGTHS[benchmark], "fisher.labels": "exact", "fisher.examples": 200},
            "online_ewc": {
                "reg_strength": 0.9 * STRENGTHS[benchmark],
                "gamma": 0.9,
                "fisher.labels": "exact",
                "fisher.examples": 200,
            },
            "si": {"reg_strength": STRENGTHS[benchmark], "epsilon": 0.1, "floor_at_zero": False},
        }
        assert values == expected[name]
        shorter = setting(f"benchmark={benchmark}", f"regularizer={name}", REFERENCE, "budget=quick")
        assert (shorter.benchmark.iters, shorter.effective_budget) == (quick, "quick")
        assert published.figure(config) is not None
        assert published.figure(shorter) is None


@pytest.mark.parametrize("without_tuned", [[], ["~tuned"]])
def test_what_is_typed_wins_and_tuned_values_do_not(without_tuned: list[str]) -> None:
    typed = ["seed=7", "contract.logits=active", "regularizer.gamma=0.5", "benchmark.iters=9"]
    config = setting("benchmark=split_mnist", "regularizer=online_ewc", REFERENCE, *typed, *without_tuned)
    assert (config.seed, config.contract.logits, config.benchmark.iters) == (7, "active", 9)
    found = load(config.regularizer)
    assert found.described() == ["reg_strength=4500 (reference)", "gamma=0.5"]


def test_any_file_is_run_at_the_published_strength_with_its_own_other_values(tmp_path: Path) -> None:
    shipped = method("benchmark=perm_mnist", REFERENCE)
    assert shipped.described() == ["reg_strength=10000 (reference)"]
    mine = tmp_path / "mine.py"
    mine.write_text(FILE)
    found = method("benchmark=perm_mnist", f"regularizer.file={mine}", REFERENCE)
    assert found.described() == ["reg_strength=10000 (reference)", "temperature=2 (default)"]
    assert found.resolved.values["reg_strength"] == 10000  # which it doesn't declare, and may read
    assert found.notes() == []


def test_what_the_preset_gives_decides_whether_a_run_goes_on() -> None:
    ours, reference = (
        decisive(setting("benchmark=split_mnist", "regularizer=ewc", "contract.logits=all", "seed=42", *more))
        for more in ([], [REFERENCE])
    )
    differing = {key for key in reference if reference[key] != ours.get(key)}
    assert differing == {"regularizer.reg_strength", "regularizer.fisher.labels", "regularizer.fisher.examples"}


def test_the_whole_setting_is_read_again() -> None:
    config = setting("benchmark=perm_mnist", "regularizer=online_ewc", REFERENCE)
    assert settings.from_values(yaml.safe_load(settings.to_yaml(config))) == config


def test_it_is_left_out_as_any_group_is() -> None:
    usual, left_out = (setting("benchmark=perm_mnist", "regularizer=ewc", *more) for more in ([], ["~protocol"]))
    assert left_out == usual
    assert usual.regularizer.preset is None


@pytest.mark.parametrize("benchmark", ["rotated_mnist", "split_cifar10"])
def test_a_benchmark_without_published_figures_is_refused(benchmark: str) -> None:
    with pytest.raises(InputError) as caught:
        setting(f"benchmark={benchmark}", REFERENCE)
    assert str(caught.value) == (
        f"protocol=reference: benchmark={benchmark} has no published figures, whose protocol this is; expected one of "
        "perm_mnist, split_cifar100, split_mnist, or benchmark.published.reg_strength and "
        "benchmark.published.protocol.iters as well."
    )


def test_another_name_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "benchmark=split_mnist", "protocol=theirs") == 2
    assert capsys.readouterr().err == "clsweep: protocol=theirs: expected one of reference.\n"


def test_a_file_with_a_whole_benchmark_would_overrule_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text(settings.rerun_yaml(setting("benchmark=split_mnist", "regularizer=ewc")))
    with pytest.raises(SystemExit) as exited:  # of Hydra's callback
        command(monkeypatch, "--config-dir", ".", "--config-name", "best", REFERENCE)
    assert exited.value.code == 2
    assert capsys.readouterr().err == (
        "clsweep: protocol=reference: best.yaml has a whole benchmark of its own, which comes after it; expected a "
        "command without --config-name best.\n"
    )


@pytest.mark.parametrize("name", [*METHODS, "custom"])
def test_a_run_says_whose_protocol_it_follows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if name == "custom" else ["benchmark.contexts=2"]
    arguments = (*TINY, f"regularizer={name}", REFERENCE, *more, f"hydra.run.dir={tmp_path}")
    assert command(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "\nprotocol   reference, as published by MLS-Bench (ml-continual-regularization)\n" in printed
    assert "\nrun        seed 42, " in printed
    strength = 4500 if name == "online_ewc" else 5000
    assert f"reg_strength={strength} (reference)" in printed


def test_python_takes_it_as_an_override() -> None:
    result = clsweep.run("split_mnist", "si", [*TINY[1:], "benchmark.contexts=2", REFERENCE], quiet=True)
    assert (result.summary["reg_strength"], result.summary["seed"], result.summary["logits"]) == (5000, 42, "all")


@pytest.mark.slow
def test_several_runs_as_they_are_and_with_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = ("--multirun", "hydra/sweeper=basic", "regularizer=ewc,si", f"hydra.sweep.dir={tmp_path / 'several'}")
    assert command(monkeypatch, *TINY, "benchmark.contexts=2", REFERENCE, *several) == 0
    seeds = ("regularizer=si", "seeds=2", f"hydra.run.dir={tmp_path / 'seeds'}")
    assert command(monkeypatch, *TINY, "benchmark.contexts=2", REFERENCE, *seeds) == 0
    runs = clsweep.results.load(tmp_path).runs
    assert sorted(zip(runs["regularizer"], runs["seed"], strict=True)) == [
        ("ewc", 42),
        ("si", 42),
        ("si", 42),
        ("si", 43),
    ]
    assert set(runs["reg_strength"]) == {5000.0}


def test_a_sweep_searches_what_the_preset_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("--multirun", *TINY, REFERENCE, "search.dry_run=true", f"hydra.sweep.dir={tmp_path}")
    assert command(monkeypatch, *sweep, "regularizer=si") == 2
    assert capsys.readouterr().err == (
        "clsweep: protocol=reference: gives reg_strength, epsilon of si a value, so that nothing is left to be "
        "searched; expected hydra/sweeper=basic for runs as they are, or a range as well, "
        "regularizer.reg_strength='tag(log, interval(1e-3, 1e5))'.\n"
    )
    assert command(monkeypatch, *sweep, "regularizer=si", "regularizer.reg_strength=tag(log, interval(10, 100))") == 0
    printed = capsys.readouterr().out
    assert "reg_strength" in printed
    assert "epsilon=tag" not in printed
