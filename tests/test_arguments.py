"""What is typed, and what Hydra gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from clsweep import arguments
from clsweep import config as settings
from clsweep.errors import InputError

GROUPS = ("benchmark", "dataset", "network", "optimizer", "protocol", "regularizer", "search")


def test_the_groups_are_those_of_the_setting() -> None:
    assert set(settings.groups()) == {*GROUPS, "logger"}


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_chosen_with_or_without_a_plus(group: str, plus: str) -> None:
    assert arguments.for_hydra([f"{plus}{group}=name"]) == [f"{group}=name"]


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_list_for_a_group_is_refused_with_what_to_type(group: str, plus: str) -> None:
    typed = f"{plus}{group}=[a,b]"
    with pytest.raises(InputError) as single:
        arguments.for_hydra(["seed=1", typed])
    assert str(single.value) == (
        f"{typed}: a run has one {group}; expected one name, or --multirun {plus}{group}=a,b for a study of each "
        "(with hydra/sweeper=basic as well, a run of each)."
    )
    with pytest.raises(InputError) as sweep:
        arguments.for_hydra(["--multirun", typed])
    assert str(sweep.value) == f"{typed}: expected names without brackets, {plus}{group}=a,b, for a study of each."


@pytest.mark.parametrize("options", [[], ["--multirun"], ["--multirun", "hydra/sweeper=basic"]])
def test_a_run_may_have_several_loggers_which_are_no_sweep(options: list[str]) -> None:
    assert arguments.for_hydra([*options, "+logger=[wandb,mlflow]"])[-1 - bool(options)] == "logger=[wandb,mlflow]"
    assert "logger=[]" in arguments.for_hydra([*options, "logger=null"])
    with pytest.raises(InputError) as caught:
        arguments.for_hydra([*options, "logger=wandb,mlflow"])
    assert str(caught.value) == (
        "logger=wandb,mlflow: a run has all of its loggers at once; expected logger=[wandb,mlflow]."
    )


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "regularizer=si,ewc",
            "a run has one regularizer; expected one name, or --multirun as well for a study of each (with "
            "hydra/sweeper=basic too, a run of each).",
        ),
        (
            "+benchmark=choice(split_mnist)",
            "a run has one benchmark; expected one name, or --multirun as well for a study of each (with "
            "hydra/sweeper=basic too, a run of each).",
        ),
        (
            "seed=0,1,2",
            "expected one number; seeds=N trains N of them from it on, and --multirun hydra/sweeper=basic makes a run "
            "of each.",
        ),
        ("network.hidden=400,300", "expected a list in brackets, network.hidden=[400,300]."),
        ("regularizer.gamma=interval(0.1,1)", "is for a sweep; expected one value, or --multirun as well."),
        ("seed", "expected KEY=VALUE, as in seed=1; python -m clsweep --help lists what there is."),
        (
            "hydra.run.dir=out/lr=0.1",
            "the value can't be read; expected quotes around it, within those of the shell: "
            "\"hydra.run.dir='out/lr=0.1'\".",
        ),
        (
            "network.hidden=[400",
            "the value can't be read; expected brackets and quotes to be closed, and a text with special characters "
            "in quotes.",
        ),
        ("--foo", "no such option; python -m clsweep --help lists what there is."),
        ("network=null", f"expected one of {settings.choices('network')}."),
        ("network={cnn: 1}", f"expected one of {settings.choices('network')}."),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(typed: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        arguments.for_hydra(["budget=smoke", typed])
    assert str(caught.value) == f"{typed}: {sentence}"


def test_the_home_folder_is_put_in_wherever_a_path_begins_with_it() -> None:
    home = str(Path.home())
    typed = [
        "dataset.root=~/data",
        "++regularizer.file=~/a.py,~/b.py",
        "hydra.run.dir='~/x=1'",
        "search.storage=journal:~/s",
    ]
    assert arguments.for_hydra(["--multirun", *typed]) == [*(one.replace("~", home) for one in typed), "--multirun"]
    assert arguments.for_hydra(["~budget", "hydra.run.dir='a~/b'"]) == ["~budget", "hydra.run.dir='a~/b'"]


def test_options_may_stand_anywhere() -> None:
    assert arguments.for_hydra(["seed=1", "--cfg", "job", "budget=full"]) == ["seed=1", "budget=full", "--cfg", "job"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--cfg", "job", "--multirun"],
            "--multirun and --cfg: expected one of them; --cfg shows the setting of a single run.",
        ),
        (["--run", "hydra.mode=MULTIRUN"], "hydra.mode=RUN: contradicts --multirun; expected one of them."),
        (["--resolve"], "--resolve: is for the setting that is shown; expected --cfg job as well."),
        (["--config-dir", "no/where"], "--config-dir no/where: there is no such folder."),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        arguments.for_hydra(["seed=1", *options])
    assert str(caught.value) == sentence


def test_hydras_mode_is_the_option() -> None:
    assert arguments.for_hydra(["hydra.mode=MULTIRUN", "regularizer=a,b"]) == ["regularizer=a,b", "--multirun"]
    assert arguments.for_hydra(["hydra.mode=RUN", "seed=1"]) == ["seed=1"]
    with pytest.raises(InputError, match=r"^hydra.mode=RUN: contradicts --multirun; expected one of them\.$"):
        arguments.for_hydra(["--multirun", "hydra.mode=RUN"])


@pytest.mark.parametrize("several", ["a,b", "choice(a)", "glob(split*)"])
def test_the_keys_of_a_swept_group_are_forced(several: str) -> None:
    """Hydra composes what the jobs have in common without the group, and would refuse them."""
    made = arguments.for_hydra(["--multirun", f"+benchmark={several}", "benchmark.iters=5", "regularizer.gamma=1"])
    assert made == [f"benchmark={several}", "++benchmark.iters=5", "++regularizer.gamma=1", "--multirun"]
    methods = ["--multirun", f"regularizer={several}", "regularizer.gamma=1"]
    assert arguments.for_hydra(methods)[1] == "++regularizer.gamma=1"
