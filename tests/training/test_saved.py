"""The networks that a run saves: the files, what is made of them again, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import clsweep

TINY = ["dataset=mnist_5k", "benchmark.contexts=2", "benchmark.iters=8", "network.hidden=[8]"]
HERE = ["device=cpu", "threads=1", "figures=false"]
CNN = ["network=cnn", "network.channels=[2,3]", "network.hidden=[8]"]


def trained(folder: Path, *overrides: str, benchmark: str = "split_mnist", method: Any = "si") -> clsweep.Result:
    tiny = [one for one in TINY if one.partition("=")[0] not in {given.partition("=")[0] for given in overrides}]
    if any(one.startswith("network=") for one in overrides):
        tiny = [one for one in tiny if not one.startswith("network.")]
    save = [] if any(one.startswith("save_model") for one in overrides) else ["save_model=true"]
    return clsweep.run(benchmark, method, [*tiny, *HERE, *save, *overrides], folder, quiet=True)


def measured(result: clsweep.Result, after: int) -> pd.DataFrame:
    table = result.accuracy
    return table[table["after_context"] == after].drop(columns="run_id").reset_index(drop=True)


@pytest.fixture(scope="module")
def si(tmp_path_factory: pytest.TempPathFactory) -> clsweep.Result:
    return trained(tmp_path_factory.mktemp("saved") / "si", "save_model=every_context")


@pytest.fixture
def folder(si: clsweep.Result, tmp_path: Path) -> Path:
    """A copy of a run's folder, to be damaged."""
    assert si.folder is not None
    for file in si.folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_saved_network_is_a_plain_state_dict_of_the_trained_one(si: clsweep.Result) -> None:
    assert si.folder is not None
    state = torch.load(si.folder / "model.pt", weights_only=True)
    assert list(state) == [name for name, _ in si.model.named_parameters()]
    assert all(torch.equal(state[name], p) for name, p in si.model.named_parameters())
    assert (si.folder / "model_after_02.pt").read_bytes() == (si.folder / "model.pt").read_bytes()
    assert (si.folder / "model_after_01.pt").read_bytes() != (si.folder / "model.pt").read_bytes()


def test_a_network_is_loaded_as_the_run_left_it(si: clsweep.Result) -> None:
    assert si.folder is not None
    model, images = clsweep.load_model(si.folder), torch.rand(5, 1, 28, 28)
    assert not model.training
    assert model(images).shape == (5, 2)
    assert torch.equal(model(images), si.model(images))
    before = clsweep.load_model(si.folder, after=1)
    assert before(images).shape == (5, 2)
    assert not torch.equal(before.state_dict()["head.weight"], model.state_dict()["head.weight"])


@pytest.mark.parametrize(
    ("benchmark", "overrides"),
    [
        ("split_mnist", ["validation_fraction=0.2"]),
        ("split_mnist", ["benchmark.scenario=domain"]),
        ("split_mnist", ["benchmark.scenario=class", "benchmark.epochs=1", "benchmark.iters=2000"]),
        ("split_mnist", ["contract.logits=all", "precision=bf16"]),
        ("perm_mnist", ["benchmark.contexts=3", "seed=3"]),
        ("split_mnist", [*CNN, "benchmark.scenario=class", "optimizer=sgd"]),
        ("split_mnist", ["network=resnet18", "network.width=2", "benchmark.iters=3", "validation_fraction=0.3"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_saved_network_is_measured_as_it_was_in_the_run(benchmark: str, overrides: list[str], tmp_path: Path) -> None:
    result = trained(tmp_path / "run", "save_model=every_context", *overrides, benchmark=benchmark)
    assert result.folder is not None
    for after in range(1, result.summary["contexts"] + 1):
        again = clsweep.evaluate(result.folder, after)
        pd.testing.assert_frame_equal(again, measured(result, after), check_exact=True)
    pd.testing.assert_frame_equal(clsweep.evaluate(result.folder), again, check_exact=True)
    images = torch.rand(3, 1, 32, 32) if benchmark == "perm_mnist" else torch.rand(3, 1, 28, 28)
    assert torch.equal(clsweep.load_model(result.folder)(images), result.model(images))


def test_joint_training_saves_its_network_once(tmp_path: Path) -> None:
    result = trained(tmp_path, "stream=joint", "save_model=every_context")
    assert sorted(file.name for file in tmp_path.glob("*.pt")) == ["model.pt", "model_after_02.pt"]
    pd.testing.assert_frame_equal(clsweep.evaluate(tmp_path), measured(result, 2), check_exact=True)
