"""`optimizer=...`: what a command line says of it, and how results tell it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from builders import command, compose, setting
from omegaconf import OmegaConf

from clsweep import composing
from clsweep import config as settings
from clsweep.config import Config
from clsweep.errors import InputError


def made(*overrides: str) -> Config:
    command = ("+benchmark=split_mnist", "regularizer=none", *overrides)
    is_open = any("_target_" in one or "rest" in one or "momentm" in one or "amsgrad" in one for one in overrides)
    return settings.parse(compose(*command)) if is_open else setting(*command)  # which takes a tenth of the time


@pytest.mark.parametrize(
    ("overrides", "described", "arguments"),
    [
        ((), "adam", {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
        (("optimizer=adamw",), "adamw", {"lr": 1e-3, "weight_decay": 0.01}),
        (("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.1"), "sgd momentum=0.9", {"lr": 0.1}),
        (("optimizer=sgd", "benchmark.lr=0.1"), "sgd", {"lr": 0.1, "momentum": 0.0}),
        (("optimizer._target_=torch.optim.SGD", "optimizer.momentum=0.9"), "sgd momentum=0.9", {"momentum": 0.9}),
        (("optimizer._target_=torch.optim.RMSprop", "optimizer.alpha=0.9"), "torch.optim.RMSprop alpha=0.9", {}),
        (("optimizer.amsgrad=true",), "adam amsgrad=true", {"amsgrad": True}),
    ],
)
def test_an_optimizer_and_how_it_is_told(overrides: tuple[str, ...], described: str, arguments: dict[str, Any]) -> None:
    config = made(*overrides)
    optimizer = config.optimizer_setting
    assert (optimizer.described, optimizer.reset, optimizer.schedule_described) == (described, False, "")
    assert optimizer.target.arguments["lr"] == config.benchmark.lr
    assert optimizer.target.arguments.items() >= arguments.items()


def test_a_schedule_and_a_new_state() -> None:
    schedule = (
        "optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR",
        "optimizer.schedule.eta_min=0.5",
    )
    optimizer = made("optimizer.reset=true", *schedule).optimizer_setting
    assert optimizer.reset
    assert optimizer.schedule_described == "torch.optim.lr_scheduler.CosineAnnealingLR eta_min=0.5"


def test_both_names_of_the_rate_are_one_number_wherever_the_setting_is_read_again() -> None:
    config = made("optimizer.lr=0.25")
    assert config.benchmark.lr == 0.25
    assert settings.from_values(asdict(config)) == config
    for name in ("benchmark", "optimizer"):
        values = asdict(config)
        values[name]["lr"] = 0.5
        again = settings.from_values(values)
        assert again.benchmark.lr == again.optimizer_setting.target.arguments["lr"] == 0.5


def test_epochs_take_the_place_of_a_budgets_iterations() -> None:
    config = setting("+benchmark=split_mnist", "regularizer=none", "benchmark.epochs=2")
    assert (config.benchmark.epochs, config.effective_budget) == (2, "custom")
    again = OmegaConf.create(settings.rerun_yaml(config)).benchmark
    assert (again.epochs, OmegaConf.to_container(again)["iters"]) == (2, "${.iters_by_budget.${budget}}")  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("benchmark.epochs=0",), "benchmark.epochs=0: expected an integer of 1 or more, or null."),
        (
            ("benchmark.epochs=2", "benchmark.iters=300"),
            "benchmark.iters=300: contradicts benchmark.epochs=2; expected one of them.",
        ),
    ],
)
def test_what_is_wrong_with_epochs_is_a_sentence(overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        setting("+benchmark=split_mnist", "regularizer=none", *overrides)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("benchmark.epochs=2", "budget=quick"),
            "budget=quick: contradicts benchmark.epochs=2; expected one of them.",
        ),
        (
            ("benchmark.lr=0.1", "optimizer.lr=0.2"),
            "benchmark.lr=0.1: is another name for optimizer.lr, which is 0.2 here; expected one of them.",
        ),
    ],
)
def test_two_keys_that_contradict_each_other_are_refused(
    overrides: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "benchmark=split_mnist", "regularizer=none", *overrides)
    assert capsys.readouterr().err == f"clsweep: {sentence}\n"
    with pytest.raises(InputError) as raised:  # from Python, too
        composing.composed(["benchmark=split_mnist", "regularizer=none", *overrides])
    assert str(raised.value) == sentence


SGD = ("optimizer=sgd",)
COSINE = ("optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR",)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("optimizer.lr=-1",), "optimizer.lr=-1: expected a finite number above 0."),
        (("optimizer.lr=fast",), "optimizer.lr=fast: expected a finite number above 0."),
        (("benchmark.lr=0",), "benchmark.lr=0.0: expected a finite number above 0."),
        ((*SGD, "optimizer.momentum=1"), "optimizer.momentum=1: expected a number from 0 up to, not including, 1."),
        ((*SGD, "optimizer.nesterov=2"), "optimizer.nesterov=2: expected true or false."),
        (
            ("optimizer.betas=[0.9]",),
            "optimizer.betas=[0.9]: expected two numbers from 0 up to, not including, 1, as in "
            "optimizer.betas=[0.9,0.999].",
        ),
        (("optimizer.weight_decay=-1",), "optimizer.weight_decay=-1: expected a finite number of 0 or more."),
        (("optimizer.reset=soon",), "optimizer.reset=soon: expected true or false."),
        (
            (*SGD, "optimizer.momentm=0.9"),
            "optimizer.momentm: torch.optim.SGD takes no momentm; did you mean optimizer.momentum?",
        ),
        (("optimizer.rest=true",), "optimizer.rest: torch.optim.Adam takes no rest; did you mean optimizer.reset?"),
        (
            ("optimizer=own",),
            "optimizer._target_=null: expected the dotted path of a class or a function, as in "
            "optimizer._target_=my_module.Name.",
        ),
        (
            ("optimizer._target_=torch.optim.LBFGS",),
            "optimizer._target_=torch.optim.LBFGS: its step needs closure, which it doesn't get here; expected one "
            "whose step needs nothing.",
        ),
        (
            ("optimizer._target_=torch.optim.Adm",),
            "optimizer._target_=torch.optim.Adm: torch.optim has no Adm; did you mean Adam?",
        ),
        (
            ("optimizer.schedule=cosine",),
            "optimizer.schedule=cosine: expected null, or a class of torch.optim.lr_scheduler as "
            "optimizer.schedule._target_.",
        ),
        (
            ("optimizer.schedule._target_=torch.optim.lr_scheduler.StepLR",),
            "optimizer.schedule.step_size: is missing; torch.optim.lr_scheduler.StepLR needs it.",
        ),
        (
            (*COSINE, "optimizer.schedule.eta_mn=1"),
            "optimizer.schedule.eta_mn: torch.optim.lr_scheduler.CosineAnnealingLR takes no eta_mn; did you mean "
            "optimizer.schedule.eta_min?",
        ),
        (
            ("optimizer.schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",),
            "optimizer.schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau: its step needs metrics, which it "
            "doesn't get here; expected one whose step needs nothing.",
        ),
    ],
)
def test_what_is_wrong_is_a_sentence(overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        made(*overrides)
    assert str(raised.value) == sentence
