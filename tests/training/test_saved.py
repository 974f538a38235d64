"""The networks that a run saves: the files, what is made of them again, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import setting
from conftest import Typed
from torch import nn

import clsweep
from clsweep import tensor_files
from clsweep.errors import InputError
from clsweep.protocol import Protocol
from clsweep.sweeps.plan import study_name
from clsweep.training.saved import Keeper, refuse_without

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
        ("split_mnist", ["network=resnet18", "network.width=1", "benchmark.contexts=1", "benchmark.iters=2"]),
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


@pytest.mark.parametrize(
    ("overrides", "folder", "sentence"),
    [
        (["save_model=always"], "run", "save_model=always: expected false, true or every_context."),
        (["save_model=null"], "run", "save_model=null: expected false, true or every_context."),
        (["save_model=1"], "run", "save_model=1: expected false, true or every_context."),
        (["save_model=true"], None, "save_model=true: there is no folder to keep the network in; expected folder=..."),
        (["save_model=every_context"], "own", r"save_model=every_context: .*model\.pt is there already and no run's"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    overrides: list[str], folder: str | None, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.pt").write_text("mine")
    with pytest.raises(clsweep.InputError, match=sentence):
        clsweep.run("split_mnist", "si", [*TINY, *overrides], folder and tmp_path / folder, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["own"]
    assert [file.read_text() for file in (tmp_path / "own").iterdir()] == ["mine"]


def test_a_sweep_that_keeps_nothing_saves_no_network() -> None:
    with pytest.raises(clsweep.InputError, match=r"^save_model: there is no folder to keep the networks in"):
        clsweep.sweep("split_mnist", ["si"], 1, [*TINY, "save_model=true"], quiet=True)


class Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def spoil(folder: Path, name: str) -> None:
    """Damage a run's folder in one way."""
    file, described = folder / "model.pt", json.loads((folder / "model.json").read_text())
    content, state = file.read_bytes(), torch.load(file, weights_only=True)
    if name == "gone":
        file.unlink()
    elif name == "cut":
        file.write_bytes(content[:-200])
    elif name == "flipped":
        at = content.index(state["head.weight"].numpy().tobytes()) + 3
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif name == "foreign":
        torch.save({"head.weight": Foreign()}, file)
    elif name == "a network":
        torch.save(nn.Linear(2, 3), file)
    elif name == "a list":
        torch.save([1], file)
    elif name == "missing":
        torch.save({key: value for key, value in state.items() if key != "head.bias"}, file)
    elif name == "more":
        torch.save(state | {"extra": torch.zeros(1)}, file)
    elif name == "another shape":
        torch.save(state | {"head.bias": torch.zeros(7)}, file)
    elif name == "another type":
        torch.save(state | {"head.bias": state["head.bias"].double()}, file)
    elif name == "not described":
        (folder / "model.json").unlink()
    elif name == "no JSON":
        (folder / "model.json").write_text("{")
    elif name == "no key":
        (folder / "model.json").write_text(json.dumps({**described, "setting": {}}))
    elif name == "newer":
        (folder / "model.json").write_text(json.dumps(described | {"format_version": 2, "clsweep_version": "9.9"}))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gone", r"model\.pt: isn't there; expected after=1 or 2, or a finished run\."),
        ("cut", r"model\.pt: is damaged, or no file of tensors \(BadZipFile: "),
        ("flipped", r"model\.pt: is damaged, or no file of tensors \(its part .* isn't as it was written\)"),
        ("foreign", r"model\.pt: holds more than tensors and plain containers"),
        ("a network", r"model\.pt: holds more than tensors and plain containers"),
        ("a list", r"model\.pt: doesn't fit the network of model\.json: it holds list; expected a state_dict\."),
        ("missing", r"model\.pt: doesn't fit .*: it has no head\.bias\."),
        ("more", r"model\.pt: doesn't fit .*: it has extra, which the network hasn't\."),
        ("another shape", r"head\.bias is \(7,\) torch\.float32; expected \(4,\) torch\.float32\."),
        ("another type", r"head\.bias is \(4,\) torch\.float64; expected \(4,\) torch\.float32\."),
        ("not described", r": holds no model\.json; expected the folder of a run made with save_model=true\."),
        ("no JSON", r"model\.json: can't be read \(JSONDecodeError: "),
        ("no key", r"model\.json: isn't the description of a network \(KeyError: 'network'\)"),
        ("newer", r"model\.json: was written by clsweep 9\.9; expected that version or a later one to read it"),
    ],
)
def test_what_is_damaged_or_foreign_is_named_and_not_run(
    name: str, sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder, name)
    for ask in (clsweep.load_model, clsweep.evaluate):
        with pytest.raises(InputError, match=sentence):
            ask(folder)
    assert capsys.readouterr().out == ""


def test_a_moment_or_a_folder_without_a_network_is_named(si: clsweep.Result, tmp_path: Path) -> None:
    assert si.folder is not None
    with pytest.raises(InputError, match=r"^after=3: .* is a run of 2 contexts; expected 1 or 2\."):
        clsweep.load_model(si.folder, after=3)
    with pytest.raises(InputError, match=r"^after=0: "):
        clsweep.evaluate(si.folder, after=0)
    with pytest.raises(InputError, match=r"^after=True: "):
        clsweep.load_model(si.folder, after=True)
    with pytest.raises(InputError, match=rf"{si.folder}: holds several runs.*such as .*|expected the folder of one"):
        clsweep.load_model(si.folder.parent)
    with pytest.raises(InputError, match=r"nowhere: is no folder; expected that of a run"):
        clsweep.load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^device=cuda:99: not on this machine"):
        clsweep.load_model(si.folder, device="cuda:99")
    with pytest.raises(InputError, match=r"^device=gpu: expected auto, cpu, cuda or cuda:N"):
        clsweep.evaluate(si.folder, device="gpu")
    trained(tmp_path / "last")
    with pytest.raises(InputError, match=r"model_after_01\.pt: isn't there; expected a run made with save_model=every"):
        clsweep.load_model(tmp_path / "last", after=1)


def test_only_the_place_of_the_data_may_be_another(si: clsweep.Result, tmp_path: Path) -> None:
    assert si.folder is not None
    with pytest.raises(InputError, match=r"^overrides: seed=3: what was measured stays as it was; expected values of"):
        clsweep.evaluate(si.folder, overrides=["seed=3"])
    with pytest.raises(InputError, match="expected a list of texts"):
        clsweep.evaluate(si.folder, overrides="dataset.root=here")


def arrays(folder: Path, seed: int = 0) -> list[str]:
    folder.mkdir(exist_ok=True)
    source = np.random.default_rng(seed)
    for part, count in (("train", 60), ("test", 40)):
        images = source.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        np.savez(folder / f"{part}.npz", images=images, labels=np.arange(count) % 10)
    return [f"dataset.{part}={folder}/{part}.npz" for part in ("train", "test")]


def test_data_that_are_gone_moved_or_changed(tmp_path: Path) -> None:
    result = trained(tmp_path / "run", "dataset=arrays", *arrays(tmp_path / "data"))
    (tmp_path / "data").rename(tmp_path / "moved")
    assert clsweep.load_model(tmp_path / "run")(torch.zeros(1, 1, 6, 6)).shape == (1, 2)
    with pytest.raises(InputError, match=r"dataset\.train=.*train\.npz"):
        clsweep.evaluate(tmp_path / "run")
    moved = [f"dataset.{part}={tmp_path}/moved/{part}.npz" for part in ("train", "test")]
    pd.testing.assert_frame_equal(
        clsweep.evaluate(tmp_path / "run", overrides=moved), measured(result, 2), check_exact=True
    )
    arrays(tmp_path / "moved", seed=1)
    with pytest.raises(InputError, match=r"^dataset=arrays: isn't what the network was trained on \(its digest is "):
        clsweep.evaluate(tmp_path / "run", overrides=moved)


NET = """
import torch
from torch import nn
from own_part_{name} import scaled

class Net(nn.Module):
    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layer = nn.Linear(input_shape[1] * input_shape[2], n_outputs)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return scaled(self.layer(x.flatten(1)))
"""
PART = "def scaled(x):\n    return {factor} * x\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module of a network of one's own, which has been trained, in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = f"{tmp_path.name}"
    (tmp_path / f"own_{name}.py").write_text(NET.format(name=name))
    (tmp_path / f"own_part_{name}.py").write_text(PART.format(factor=2.0))
    yield name
    for module in (f"own_{name}", f"own_part_{name}"):
        sys.modules.pop(module, None)


def train_own(name: str) -> clsweep.Result:
    return trained(Path("run"), f"network._target_=own_{name}.Net", "network=own")


def test_the_code_that_was_trained_is_what_is_run(own: str, tmp_path: Path) -> None:
    result = train_own(own)
    images = torch.rand(3, 1, 28, 28)
    expected = result.model(images)
    there = sys.modules[f"own_{own}"]
    model = clsweep.load_model("run")
    assert type(model) is there.Net  # what is found by that name, as it is the same code
    assert model.state_dict()["seen"] == 16
    assert torch.equal(model(images), expected)

    (tmp_path / f"own_part_{own}.py").write_text(PART.format(factor=3.0))
    for _ in ("edited", "gone"):
        model = clsweep.load_model("run")
        assert type(model) is not there.Net
        assert torch.equal(model(images), expected)
        pd.testing.assert_frame_equal(clsweep.evaluate("run"), measured(result, 2), check_exact=True)
        assert sys.modules[f"own_{own}"] is there
        for file in tmp_path.glob("own_*.py"):
            file.unlink()

    (tmp_path / "run" / f"own_part_{own}.py").write_text(PART.format(factor=3.0))
    with pytest.raises(InputError, match=rf"^network\._target_=own_{own}\.Net: neither what is found by that name nor"):
        clsweep.load_model("run")


def test_modules_lead_where_they_led_before(own: str, tmp_path: Path) -> None:
    train_own(own)
    for module in (f"own_{own}", f"own_part_{own}"):
        del sys.modules[module]
    (tmp_path / f"own_part_{own}.py").unlink()
    before = dict(sys.modules)
    clsweep.load_model("run")
    assert sys.modules == before


METHOD = """
import copy
import torch

HYPERPARAMETERS = ("reg_strength",)

def estimate_importance(model, dataset, prev_params, device):
    if not hasattr(model, "teacher"):
        model.teacher = copy.deepcopy(model)
        model.register_buffer("kept", torch.ones(3))
        {hook}
    return {{name: torch.ones_like(p) for name, p in prev_params.items()}}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    parameters = {{name.replace(".", "__"): p for name, p in model.named_parameters()}}
    return sum((importance_dict[n] * (parameters[n] - prev_params_dict[n]).square()).sum() for n in importance_dict)
"""


def test_what_a_method_has_added_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adds.py").write_text(METHOD.format(hook="pass"))
    result = trained(tmp_path / "run", method=tmp_path / "adds.py")
    assert "teacher" in dict(result.model.named_children())
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert set(state) == {"hidden.0.weight", "hidden.0.bias", "head.weight", "head.bias"}
    (tmp_path / "adds.py").unlink()  # a method is not needed any more
    pd.testing.assert_frame_equal(clsweep.evaluate(tmp_path / "run"), measured(result, 2), check_exact=True)
    assert "model.pt" not in capsys.readouterr().err


def test_a_network_that_a_method_has_changed_in_other_ways_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = "model.hidden[0].register_forward_hook(lambda layer, inputs, outputs: 2 * outputs)"
    (tmp_path / "hooks.py").write_text(METHOD.format(hook=hook))
    result = trained(tmp_path / "run", method=tmp_path / "hooks.py")
    sentence = "model.pt: the network gives other outputs than in the run"
    assert sentence in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"model\.pt: in the run the network had more than its parameters"):
        model = clsweep.load_model(tmp_path / "run")
    images = torch.rand(3, 1, 28, 28)
    assert not torch.allclose(model(images), result.model(images))
    with pytest.warns(UserWarning, match=r"accuracy\.csv was measured with that"):
        clsweep.evaluate(tmp_path / "run")


def test_saving_changes_no_result_and_no_identity(si: clsweep.Result, tmp_path: Path) -> None:
    without = trained(tmp_path, "save_model=false")
    assert not list(tmp_path.glob("model*"))
    pd.testing.assert_frame_equal(
        without.accuracy.drop(columns="run_id"), si.accuracy.drop(columns="run_id"), check_exact=True
    )
    plain = setting("+benchmark=split_mnist", "regularizer=si")
    saving = setting("+benchmark=split_mnist", "regularizer=si", "save_model=every_context")
    assert Protocol.of(plain) == Protocol.of(saving)
    assert study_name(plain) == study_name(saving)


def test_a_full_disk_is_an_error_of_the_machine() -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 1_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    with pytest.raises(OSError, match="No space left on device"):
        tensor_files._save({"a": torch.zeros(10_000)}, Full())


def test_what_is_interrupted_while_it_writes_is_no_other_error() -> None:
    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 1_000:
                raise KeyboardInterrupt
            return super().write(content)

    with pytest.raises(KeyboardInterrupt):
        tensor_files._save({"a": torch.zeros(10_000)}, Interrupted())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tensor_files.write({"a": torch.zeros(3)}, path)
    with pytest.raises(AttributeError, match="pickle"):
        tensor_files.write({"a": lambda: None}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    assert tensor_files.read(path)["a"].tolist() == [0, 0, 0]


STATEFUL = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, n_outputs):
        super().__init__(784, n_outputs)

    def forward(self, x):
        return super().forward(x.flatten(1))

    def get_extra_state(self):
        return Net

    def set_extra_state(self, state):
        pass
"""


def test_a_network_whose_state_takes_unpickling_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_stateful.py").write_text(STATEFUL)
    with pytest.raises(InputError, match=r"^save_model=true: the network's state has _extra_state, which is type"):
        trained(tmp_path / "run", "network=own", "network._target_=own_stateful.Net")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_run_of_a_command_saves_its_own(typed: Typed, tmp_path: Path) -> None:
    tiny = ["benchmark=split_mnist", "regularizer=si", *TINY, *HERE, "save_model=true"]
    done = typed(*tiny, "seeds=2", f"hydra.run.dir={tmp_path}/seeds")
    assert done.returncode == 0, done.stderr
    assert "seed-1/summary.csv, accuracy.csv, model.pt\n" in done.stdout
    for seed in (0, 1):
        of = pd.read_csv(tmp_path / "seeds" / f"seed-{seed}" / "accuracy.csv")
        again = clsweep.evaluate(tmp_path / "seeds" / f"seed-{seed}")
        last = of[of["after_context"] == 2].drop(columns="run_id").reset_index(drop=True)
        pd.testing.assert_frame_equal(again, last, check_exact=True)
    with pytest.raises(InputError, match=r"seeds: holds several runs; expected the folder of one of them, such as"):
        clsweep.load_model(tmp_path / "seeds")


@pytest.mark.slow
def test_a_sweep_saves_every_trial_and_final_run(tmp_path: Path) -> None:
    sweep = [*TINY, *HERE, "save_model=true", "search.workers=1", "search.final_seeds=1", "search.pruner=null"]
    clsweep.sweep("split_mnist", ["si"], 1, sweep, tmp_path, quiet=True)
    found = sorted(file.parent.name for file in tmp_path.rglob("model.pt"))
    assert found == sorted(folder.name for pattern in ("trial-*", "final-*") for folder in tmp_path.rglob(pattern))
    assert len(found) >= 2


PARTS = {
    "streams.py": """
import torch
from clsweep.data.streams import ContextData

def fixed(data, contexts, classes_per_context):
    for number in range(contexts):
        classes = [2 * number, 2 * number + 1]
        train, test = (torch.isin(part.labels, torch.tensor(classes)) for part in (data.train, data.test))
        yield ContextData(classes, train, test)
""",
    "nets.py": """
from torch import nn
from .parts import Layer

class Tied(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.first, self.second, self.out = Layer(784, 784), Layer(784, 784), nn.Linear(784, n_outputs)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(self.second(self.first(x.flatten(1)).relu()).relu())
""",
    "parts.py": "from torch.nn import Linear as Layer\n",
    "optimizers.py": "from torch.optim import SGD\n\nclass Mine(SGD):\n    pass\n",
    "__init__.py": "",
}


def test_a_package_of_ones_own_is_found_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = f"own_package_{tmp_path.name}"
    (tmp_path / package).mkdir()
    for name, source in PARTS.items():
        (tmp_path / package / name).write_text(source)
    own = {"network": "nets.Tied", "optimizer": "optimizers.Mine", "benchmark.stream": "streams.fixed"}
    targets = [f"{key}._target_={package}.{target}" for key, target in own.items()]
    result = trained(Path("run"), "network=own", "optimizer=own", "optimizer.lr=0.01", *targets)
    state = result.model.state_dict()
    assert state["first.weight"].data_ptr() == state["second.weight"].data_ptr()
    expected = measured(result, 2)
    for name in PARTS:
        (tmp_path / package / name).write_text("raise RuntimeError\n")
    pd.testing.assert_frame_equal(clsweep.evaluate("run"), expected, check_exact=True)
    (tmp_path / "run" / package / "streams.py").unlink()
    assert clsweep.load_model("run")(torch.zeros(1, 1, 28, 28)).shape == (1, 2)  # which takes no stream
    with pytest.raises(InputError, match=rf"^benchmark\.stream\._target_={package}\.streams\.fixed: neither what"):
        clsweep.evaluate("run")


def stopped(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """Begin a run, and stop it when a method of its keeper has been called a number of times."""
    calls = []

    def stopping(*given: Any) -> None:
        calls.append(given)
        if len(calls) > after:
            raise KeyboardInterrupt
        original(*given)

    original = getattr(Keeper, name)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, "save_model=every_context")
    assert not (folder / "model.pt").exists()


@pytest.mark.parametrize(("name", "after"), [("keep", 2), ("finish", 0)])
def test_a_run_that_goes_on_saves_what_an_undisturbed_one_does(
    name: str,
    after: int,
    si: clsweep.Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped(tmp_path / "run", monkeypatch, name, after)
    result = trained(tmp_path / "run", "save_model=every_context")
    assert si.folder is not None
    for file in ("model_after_01.pt", "model_after_02.pt", "model.pt", "model.json"):
        assert (tmp_path / "run" / file).read_bytes() == (si.folder / file).read_bytes()
    assert result.model(torch.zeros(1, 1, 28, 28)).shape == (1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("missing", ["model_after_01.pt", None])
def test_a_run_that_goes_on_leaves_out_no_network(
    missing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", monkeypatch, "finish", 0)
    for number in (1, 2):
        if missing is None or number == 1:
            (tmp_path / "run" / f"model_after_0{number}.pt").unlink()
    sentence = r"^save_model=every_context: the run in .*run began without it, .*; expected save_model=true, another f"
    with pytest.raises(InputError, match=sentence):
        trained(tmp_path / "run", "save_model=every_context")
    trained(tmp_path / "run", "save_model=true")
    with pytest.raises(InputError, match=r"^save_model=every_context: the run in .* is finished without it"):
        refuse_without(
            setting("benchmark=split_mnist", "benchmark.contexts=2", "save_model=every_context"), tmp_path / "run"
        )


@pytest.mark.parametrize("seeds", [[], pytest.param(["seeds=2"], marks=pytest.mark.slow)])
def test_a_run_that_is_finished_without_a_network_does_not_get_one(
    seeds: list[str], typed: Typed, tmp_path: Path
) -> None:
    tiny = ["benchmark=split_mnist", "regularizer=none", *TINY, *HERE, *seeds, f"hydra.run.dir={tmp_path}/run"]
    assert typed(*tiny).returncode == 0
    again = typed(*tiny, "save_model=true")
    assert again.returncode == 2
    within = "/seed-0" if seeds else ""
    sentence = f"save_model=true: the run in {tmp_path}/run{within} is finished without it; expected another folder, or"
    assert sentence in again.stderr
    assert typed(*tiny, "save_model=true", "resume=false").returncode == 0
    saving = typed(*tiny, "save_model=true")
    assert (saving.returncode, "finished already" in saving.stdout) == (0, True)
