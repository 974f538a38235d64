"""Runs with a network of one's own: every method learns with it; what goes wrong is told before it is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from builders import ROOT, command, setting
from tiny import learner, method, stream

from clsweep import methods, networks
from clsweep.errors import InputError, RunError
from clsweep.training.loop import Trainer, TrainingProtocol
from clsweep.training.rehearsal import rehearse


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the example is typed in."""
    shutil.copy(ROOT / "examples" / "my_network.py", tmp_path)
    shutil.copy(ROOT / "custom_regularization.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs_as_it_is_typed(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ("benchmark=split_mnist", "network._target_=my_network.Net", "network.width=8", "dataset=mnist_5k")
    small = (
        "benchmark.iters=5",
        "benchmark.contexts=2",
        "threads=1",
        "figures=false",
        "regularizer=si",
        "hydra.run.dir=out",
    )
    assert command(monkeypatch, *typed, *small) == 0
    summary = pd.read_csv(example / "out" / "summary.csv").iloc[0]
    assert summary["network"] == "my_network.Net width=8"
    assert len(summary["code_digest"]) == 12
    assert (example / "out" / "my_network.py").read_bytes() == (example / "my_network.py").read_bytes()


SOURCE = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self, n_outputs, norm="LayerNorm"):
        super().__init__()
        self.rows, self.position = nn.Linear(4, 6), nn.Parameter(torch.zeros(4, 6))
        self.attention, self.norm = nn.MultiheadAttention(6, 2, batch_first=True), getattr(nn, norm)(6)
        self.out = nn.Linear(6, n_outputs)

    def forward(self, x):
        rows = self.rows(x[:, 0]) + self.position
        return self.out(self.norm(rows.mean(1) + self.attention(rows, rows, rows)[0].mean(1)))

def mixing(n_outputs):
    made = Tokens(n_outputs)
    made.norm = nn.BatchNorm1d(6, track_running_stats=False)
    return made
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, which no other test imports."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("name", methods.names())
def test_every_method_learns_with_any_network(name: str, module: str) -> None:
    of = stream()
    model = networks.build({"name": "own", "_target_": f"{module}.Tokens"}, of.input_shape, of.n_outputs, seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    made = Trainer(learner(method(name), model), of, TrainingProtocol(4, 6, seed=5))
    cells = [cell for some in made.sequentially() for cell in some]
    assert len(cells) == (1 + len(of.contexts)) * len(of.contexts)
    changed = [not torch.equal(p, value) for p, value in zip(model.parameters(), before, strict=True)]
    assert all(changed)


def test_kfac_ewc_says_which_layers_it_has_factors_for(module: str) -> None:
    own = ("network=own", f"network._target_={module}.Tokens")
    config = setting("+benchmark=split_mnist", "regularizer=kfac_ewc", "dataset=mnist_5k", "budget=smoke", *own)
    assert rehearse(config, stream(), torch.device("cpu"), None) == [
        "regularizer=kfac_ewc has Kronecker factors for out, and the diagonal for norm, position, rows, attention, "
        "attention.out_proj"
    ]


def test_vcl_says_which_layers_it_does_not_sample_by_what_they_compute(module: str) -> None:
    own = ("network=own", f"network._target_={module}.Tokens")
    config = setting("+benchmark=split_mnist", "regularizer=vcl", "dataset=mnist_5k", "budget=smoke", *own)
    assert rehearse(config, stream(), torch.device("cpu"), None) == [
        "vcl samples the outputs of rows, out, and the parameters of position, attention, attention.out_proj, norm, "
        "which a batch shares: they learn from noisier gradients"
    ]


def test_what_an_estimator_cannot_take_is_refused_before_anything_is_trained(module: str) -> None:
    own = ("network=own", f"network._target_={module}.mixing")
    config = setting("+benchmark=split_mnist", "regularizer=ewc", "dataset=mnist_5k", "budget=smoke", *own)
    with pytest.raises(InputError, match=r"^the network's logits of an example are others in another batch"):
        rehearse(config, stream(), torch.device("cpu"), None)


RAISES = """
from torch import nn

class Layer(nn.Module):
    def forward(self, x):
        if self.training and len(x) == 3:
            raise ValueError("bad batch")
        return x

class Net(nn.Sequential):
    def __init__(self, n_outputs):
        super().__init__(Layer(), nn.Flatten(), nn.LazyLinear(n_outputs))
"""


def test_a_network_that_raises_in_training_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(RAISES)
    monkeypatch.chdir(tmp_path)
    of = stream()
    model = networks.build({"name": "own", "_target_": f"{name}.Net"}, of.input_shape, of.n_outputs, seed=0)
    made = Trainer(learner(method("ewc"), model), of, TrainingProtocol(1, 3, seed=5))
    with pytest.raises(RunError, match=rf"{name}\.py, line 7: the network raised ValueError: bad batch while"):
        list(made.sequentially())
