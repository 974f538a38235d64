"""`--new-method`: the file that it writes is a method that works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from builders import command
from tiny import anchored, attached, dataset, file_method, finished, method, network

from clsweep import composing
from clsweep.networks import activate
from clsweep.parameters import contract_parameters

FILE = "my_idea.py"


def test_outside_of_a_checkout_the_first_command_says_what_to_do_and_what_it_says_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        command(monkeypatch, "+benchmark=split_mnist")
    assert exited.value.code == 2
    assert capsys.readouterr().err == (
        "clsweep: regularizer.file=custom_regularization.py: no such file; expected a Python file with "
        "estimate_importance and compute_regularization_loss (python -m clsweep --new-method my_idea.py writes one, "
        "for regularizer.file=my_idea.py) or a method that is there already, as in regularizer=ewc.\n"
    )
    assert command(monkeypatch, "--new-method", FILE) == 0
    said = capsys.readouterr().out
    assert said == (
        "written  my_idea.py: a short method, to be changed into yours\n"
        "run it   python -m clsweep +benchmark=split_mnist dataset=mnist_5k budget=quick "
        "regularizer.file=my_idea.py\n"
    )
    arguments = said.splitlines()[1].partition("python -m clsweep ")[2].split()
    shorter = (
        "benchmark.iters=20",
        "benchmark.contexts=2",
        "network.hidden=[16]",
        "figures=false",
        "hydra.run.dir=run",
    )
    assert command(monkeypatch, *arguments, *shorter, "threads=1") == 0
    row = pd.read_csv("run/summary.csv").iloc[0]
    assert (row.status, row.regularizer_file, row.hyperparameters) == ("finished", FILE, "reg_strength")


def test_one_by_one_the_new_method_is_memory_aware_synapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, f"--new-method={FILE}") == 0
    text = Path(FILE).read_text()
    assert text.count("BATCH = 1000, 50") == 1
    Path(FILE).write_text(text.replace("BATCH = 1000, 50", "BATCH = 1000, 1"))
    model = network(dtype=torch.float64)
    activate(model, range(2, 4))
    data = dataset(9, torch.float64)
    given, expected = attached(file_method(FILE), model), anchored(attached(method("mas"), model))
    for one in (given, expected):
        one.end_context(finished(model, data))
    assert model._custom_importance.keys() == expected.importance.keys()
    for key, value in model._custom_importance.items():
        torch.testing.assert_close(value, expected.importance[key], rtol=1e-10, atol=1e-15)
    expected.importance = model._custom_importance
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    penalties = [one.penalty(is_first=False) for one in (given, expected)]
    torch.testing.assert_close(*penalties, rtol=1e-12, atol=0.0)
    assert penalties[0] > 0


def test_its_importance_is_the_size_of_a_batchs_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "--new-method", FILE) == 0
    model = network("cnn", dtype=torch.float64)
    data = dataset(9, torch.float64)
    given = attached(file_method(FILE), model)
    activate(model, range(2, 4))
    given.end_context(finished(model, data))
    squares = model.eval()(data.tensors[0]).square().sum() / 9
    for key, gradient in zip(
        contract_parameters(model), torch.autograd.grad(squares, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(model._custom_importance[key], gradient.abs(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((FILE,), "--new-method my_idea.py: is there already; expected the path of a new file."),
        (
            ("absent/mine.py",),
            "--new-method absent/mine.py: No such file or directory; expected a folder that can be written to.",
        ),
        *(
            (arguments, "--new-method: expected the path of the Python file to be written and nothing else")
            for arguments in ((), ("mine",), (FILE, "seed=1"), ("mine.py", "--multirun"))
        ),
    ],
)
def test_a_file_is_never_written_over(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(FILE).write_text("mine")
    assert command(monkeypatch, "--new-method", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"clsweep: {said}")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["a,b.py", "d(1).py", "it's.py", "two words.py"])
def test_the_command_that_is_printed_can_be_typed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "--new-method", name) == 0
    typed = shlex.split(capsys.readouterr().out.splitlines()[1])[-1]
    assert composing.values([typed]) == {"regularizer.file": name}
