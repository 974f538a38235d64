"""The Python interface: what it gives, what it writes, what it refuses, and what it leaves as it was."""

from __future__ import annotations

import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from builders import ROOT, command
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf
from torch import Tensor, nn

import clsweep
from clsweep import interface, results
from clsweep.methods import undisturbed

TINY = [
    "dataset=mnist_5k",
    "benchmark.contexts=2",
    "benchmark.iters=20",
    "network.hidden=[8]",
    "device=cpu",
    "threads=1",
    "figures=false",
]
SWEEP = [*TINY, "search.workers=1", "search.final_seeds=1"]


def estimate_importance(
    model: nn.Module, dataset: Any, prev_params: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    return {name: torch.ones_like(p) for name, p in prev_params.items()}


def compute_regularization_loss(
    model: nn.Module, importance_dict: dict[str, Tensor], prev_params_dict: dict[str, Tensor]
) -> Tensor:
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    return torch.stack([(parameters[n] - prev_params_dict[n]).square().sum() for n in importance_dict]).sum()


class Scaled:
    HYPERPARAMETERS = ("reg_strength",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def estimate_importance(self, model: nn.Module, dataset: Any, prev_params: Any, device: Any) -> dict[str, Tensor]:
        return estimate_importance(model, dataset, prev_params, device)

    def compute_regularization_loss(self, model: nn.Module, importance_dict: Any, prev_params_dict: Any) -> Tensor:
        return self.factor * compute_regularization_loss(model, importance_dict, prev_params_dict)


FUNCTIONS = (estimate_importance, compute_regularization_loss)
STRENGTH = "regularizer.reg_strength=0.05"


def quiet(method: Any, *overrides: str, folder: Path | None = None) -> clsweep.Result:
    return clsweep.run("split_mnist", method, [*TINY, *overrides], folder, quiet=True)


def measured(result: clsweep.Result) -> pd.DataFrame:
    return result.accuracy.drop(columns="run_id")


@pytest.fixture(scope="module")
def si() -> clsweep.Result:
    return quiet("si", "seed=3")


def test_importing_the_package_takes_nothing_slow() -> None:
    slow = "{'torch', 'pandas', 'hydra', 'omegaconf', 'rich'}"
    question = f"import sys, clsweep, clsweep.__main__; clsweep.InputError; print({slow} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == "set()\n"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["clsweep"] == "clsweep.__main__:main"  # so that Ctrl-C is taken care of before all that is imported
    assert {"run", "Result", "InputError", "RunError"} <= set(dir(clsweep))
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        clsweep.runn  # noqa: B018


def test_a_run_gives_what_the_command_line_writes(
    si: clsweep.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "benchmark=split_mnist", "regularizer=si", *TINY, "seed=3", "hydra.run.dir=run") == 0
    capsys.readouterr()
    written = pd.read_csv(tmp_path / "run" / "accuracy.csv")
    pd.testing.assert_frame_equal(measured(si), written.drop(columns="run_id"), check_exact=True)
    row = pd.read_csv(tmp_path / "run" / "summary.csv").iloc[0]
    assert list(si.summary) == list(row.index)
    for name in ("benchmark", "regularizer", "reg_strength", "seed", "iters", "average_accuracy", "forgetting"):
        assert si.summary[name] == row[name]
    assert si.average_accuracy == row["average_accuracy"]
    assert si.folder is None
    assert repr(si) == f"Result(split_mnist si, seed 3: average accuracy {si.average_accuracy:.4f})"
    assert not si.model.training
    assert si.model(torch.zeros(5, 1, 28, 28)).shape == (5, 2)  # the classes of the last context


def test_files_are_written_where_a_folder_is_given_and_nowhere_else(
    si: clsweep.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet("none")
    assert list(tmp_path.iterdir()) == []
    made = quiet("si", "seed=3", folder=Path("new/run"))
    assert made.folder == tmp_path / "new" / "run"
    pd.testing.assert_frame_equal(measured(made), measured(si), check_exact=True)
    assert {path.name for path in made.folder.iterdir()} == {"accuracy.csv", "summary.csv", "setting.json", ".hydra"}
    assert OmegaConf.load(made.folder / ".hydra" / "config.yaml").seed == 3
    (row,) = results.load(tmp_path / "new").runs.to_dict("records")
    assert row["average_accuracy"] == si.average_accuracy
    with pytest.raises(clsweep.InputError) as caught:
        quiet("si", folder=made.folder)
    assert str(caught.value) == (
        f"folder={made.folder}: holds a run of another setting (seed: 3 there, 0 now); expected the same, another "
        "folder, or resume=false to start over."
    )
    with pytest.raises(clsweep.InputError, match=r"^folder=.*: holds this run already, finished; expected another"):
        quiet("si", "seed=3", folder=made.folder)


NET = """
from torch import nn
from {name}_parts import WIDTH
class Net(nn.Sequential):
    def __init__(self, n_outputs):
        super().__init__(nn.Flatten(), nn.LazyLinear(WIDTH), nn.ReLU(), nn.Linear(WIDTH, n_outputs))
"""


def test_a_network_that_is_edited_between_two_runs_is_the_one_that_its_digest_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edited.py").write_text(NET.format(name="edited"))
    digests = set()
    for width in (4, 8):
        Path("edited_parts.py").write_text(f"WIDTH = {width}\n")
        chosen = [one for one in TINY if not one.startswith("network.")]
        overrides = [*chosen, "network._target_=edited.Net", "benchmark.iters=2"]
        result = clsweep.run("split_mnist", "si", overrides, f"run{width}", quiet=True)
        assert next(result.model.parameters()).shape[0] == width
        assert Path(f"run{width}", "edited_parts.py").read_text() == f"WIDTH = {width}\n"
        digests.add(result.summary["code_digest"])
    assert len(digests) == 2


def test_a_method_may_be_functions_an_object_or_a_file(tmp_path: Path) -> None:
    namespace = SimpleNamespace(**{one.__name__: one for one in FUNCTIONS})
    as_tuple, as_object = quiet(FUNCTIONS, STRENGTH), quiet(namespace, STRENGTH)
    doubled = quiet(Scaled(2.0), "regularizer.reg_strength=0.025")
    for one in (as_object, doubled):
        pd.testing.assert_frame_equal(measured(one), measured(as_tuple), check_exact=True)
    assert as_tuple.summary["regularizer"] == "custom"
    assert as_tuple.summary["regularizer_file"] == "compute_regularization_loss"
    assert (doubled.summary["regularizer_file"], doubled.summary["hyperparameters"]) == (
        "Scaled",
        "reg_strength",
    )
    digests = [one.summary["regularizer_digest"] for one in (as_tuple, as_object, doubled, quiet(Scaled(1.0)))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    file = tmp_path / "it's mine.py"
    file.write_bytes((ROOT / "examples" / "my_method.py").read_bytes())
    for path in (file, str(file)):
        assert Path(quiet(path, STRENGTH).summary["regularizer_file"]).name == "it's mine.py"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"benchmark": "split"}, "benchmark=split: expected one of "),
        ({"method": "sii"}, "regularizer=sii: expected one of "),
        ({"method": "gone.py"}, "regularizer.file=gone.py: no such file; "),
        ({"method": Path()}, "regularizer.file=.: is a folder; expected a Python file "),
        ({"method": 3}, "method: int has no function estimate_importance; expected a built-in method's name, a path, "),
        ({"method": (1, 2)}, "method: is 2 values; expected two functions, (estimate_importance, "),
        ({"method": FUNCTIONS[:1]}, "method: is 1 values; expected two functions, "),
        ({"overrides": ["optimizer.eps=${nope}"]}, "optimizer.eps: Interpolation key 'nope' not found."),
        ({"overrides": ["benchmark.name=${nope}"]}, "benchmark.name: Interpolation key 'nope' not found."),
        ({"overrides": "seed=1"}, "overrides='seed=1': expected a list of texts, as in overrides=['budget=quick']."),
        ({"overrides": ["benchmark.itrs=3"]}, "benchmark.itrs: no such key here; did you mean benchmark.iters?"),
        ({"overrides": ["regulariser=ewc"]}, "regulariser: no such key here; did you mean regularizer=..., one of "),
        ({"overrides": ["networks=cnn"]}, "networks: no such key here; did you mean network=..., one of "),
        ({"overrides": ["optimiser=sgd"]}, "optimiser: no such key here; did you mean optimizer=..., one of "),
        ({"overrides": ["datasets=mnist"]}, "datasets: no such key here; did you mean dataset=..., one of "),
        ({"overrides": ["benchmarks=a"]}, "benchmarks: no such key here; did you mean +benchmark=..., one of "),
        ({"overrides": ["regularizer=si"]}, "overrides: regularizer=si: expected it as method='si'."),
        (
            {"method": __file__, "overrides": ["regularizer.name=ewc"]},
            "regularizer.name=ewc: expected no built-in method's name for regularizer.file=",
        ),
        ({"overrides": ["--multirun"]}, "--multirun: is for the command line; expected KEY=VALUE, as in budget=quick."),
        ({"overrides": ["hydra.run.dir=x"]}, "hydra.run.dir=x: is for the command line; expected KEY=VALUE, "),
        ({"overrides": ["seeds=2"]}, "seeds=2: is for the command line; expected seed=N, and a run for each."),
        ({"overrides": ["seed=1,2"]}, "seed=1,2: expected one number; "),
        (
            {"overrides": ["logger=tensorboard", *TINY]},
            "logger=tensorboard: writes into the run's folder; expected folder=... as well.",
        ),
        ({"overrides": [*TINY, "benchmark.contexts=40"], "folder": "left"}, "benchmark.contexts=40 of 2 classes "),
        ({"overrides": [*TINY, 5]}, "overrides=["),
        ({"overrides": None}, "overrides=None: expected a list of texts, "),
        ({"folder": 5}, "folder=5: expected a path, or None."),
        ({"folder": ""}, "folder='': expected a path, or None."),
        ({"folder": "/proc/foo"}, "folder=/proc/foo: No such file or directory; expected a folder that can be made "),
        ({"folder": __file__}, f"folder={__file__}: Not a directory; expected a folder that can be made "),
        (
            {"overrides": ["search.n_trials=3"]},
            "overrides: search.n_trials=3: is for a sweep that tunes; expected clsw",
        ),
        (
            {"method": Scaled(1.0), "overrides": ["regularizer._target_=clsweep.methods.ewc.EWC"]},
            "overrides: regularizer._target_=clsweep.methods.ewc.EWC: contradicts method=Scaled; expected one of them.",
        ),
    ],
)
def test_what_is_wrong_is_an_input_error(
    given: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(clsweep.InputError) as caught:
        clsweep.run(**{"benchmark": "split_mnist", "method": "none", "quiet": True, **given})
    assert str(caught.value).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_the_notebook_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Net", torch.nn.Identity, raising=False)
    with pytest.raises(clsweep.InputError) as caught:
        quiet("none", "network._target_=__main__.Net")
    assert str(caught.value) == (
        "network._target_=__main__.Net: is in no file that a run could keep; expected it in one, as in "
        "network._target_=my_module.Net."
    )


def test_what_fails_on_its_way_is_a_run_error_and_keeps_what_was_measured(tmp_path: Path) -> None:
    def broken(model: Any, importance_dict: Any, prev_params_dict: Any) -> Tensor:
        raise ValueError("broken on purpose")

    with pytest.raises(clsweep.RunError, match="broken on purpose") as caught:
        quiet((estimate_importance, broken), folder=tmp_path / "run")
    assert isinstance(caught.value.__cause__, ValueError)  # with the traceback
    assert pd.read_csv(tmp_path / "run" / "summary.csv").status.item() == "failed"
    assert pd.read_csv(tmp_path / "run" / "accuracy.csv").after_context.max() == 1


def test_a_run_leaves_the_process_and_another_run_as_they_were(si: clsweep.Result) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    try:
        before = _state()
        quiet(Scaled(1.0), "seed=9", "threads=2")
        with torch.no_grad():
            again = quiet("si", "seed=3")
        assert _state() == before
    finally:
        torch.set_default_dtype(torch.float32)
    pd.testing.assert_frame_equal(measured(again), measured(si), check_exact=True)


@contextmanager
def coarse_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")


@contextmanager
def another_default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        with torch.device("meta"):
            yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


@contextmanager
def coarse_products_of_one_backend() -> Iterator[None]:
    products = torch.backends.cuda.matmul
    products.allow_tf32 = True
    before = [torch.get_float32_matmul_precision(), *(one.fp32_precision for one in undisturbed._backends())]
    try:
        yield
        assert [
            torch.get_float32_matmul_precision(),
            *(one.fp32_precision for one in undisturbed._backends()),
        ] == before
    finally:
        products.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "another default device": another_default_device,
    "coarse products of one backend": coarse_products_of_one_backend,
    "inference": torch.inference_mode,
    "coarse products": coarse_products,
}


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_what_a_run_is_called_within_does_not_decide_its_result(around: str, si: clsweep.Result) -> None:
    with SURROUNDINGS[around]():
        before = torch.is_autocast_enabled("cpu"), torch.get_default_device(), torch.is_inference_mode_enabled()
        again = quiet("si", "seed=3")
        assert (
            torch.is_autocast_enabled("cpu"),
            torch.get_default_device(),
            torch.is_inference_mode_enabled(),
        ) == before
    pd.testing.assert_frame_equal(measured(again), measured(si), check_exact=True)
    assert all(not p.is_inference() and p.device.type == "cpu" for p in again.model.parameters())


def _state() -> list[Any]:
    return [
        torch.get_num_threads(),
        torch.get_default_dtype(),
        (torch.full((1,), 1e-40, dtype=torch.float32) * 1.0).item(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        list(sys.path),
        [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    ]


def test_a_program_that_uses_hydra_itself_goes_on_with_its_own(tmp_path: Path, si: clsweep.Result) -> None:
    (tmp_path / "theirs.yaml").write_text("key: 1\n")
    base = VersionBase.instance().version_base
    try:
        with hydra.initialize_config_dir(version_base="1.2", config_dir=str(tmp_path)):
            theirs = GlobalHydra.instance().hydra
            assert quiet("si", "seed=3").average_accuracy == si.average_accuracy
            clsweep.sweep("split_mnist", ["none"], overrides=[*SWEEP, "search.dry_run=true"], quiet=True)
            assert GlobalHydra.instance().hydra is theirs
            assert str(VersionBase.instance().version_base) == "1.2"
            assert hydra.compose("theirs").key == 1
    finally:
        VersionBase.instance().version_base = base


# ---- sweeps


def test_a_sweep_gives_the_studies_tables_and_keeps_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    file = ROOT / "examples" / "my_method.py"
    before = _state()
    tuned = clsweep.sweep("split_mnist", ["none", file], n_trials=2, overrides=SWEEP, quiet=True)
    assert _state() == before
    assert capsys.readouterr().out == ""
    assert tuned.folder is None
    assert [path.name for path in tmp_path.rglob("*")] == ["temp"]
    assert list(tuned.table.index) == ["none", "my_method.py"]
    assert tuned.table.trials.to_list() == [1, 2]  # none has nothing to tune
    trials = tuned.trials[tuned.trials.method == "my_method.py"]
    assert trials.state.isin(["COMPLETE", "PRUNED"]).all()
    best = trials.sort_values("validation_average_accuracy").iloc[-1]
    assert tuned.table.validation["my_method.py"] == best.validation_average_accuracy
    assert tuned.best == {"none": {}, "my_method.py": {"reg_strength": pytest.approx(best.reg_strength)}}
    finals = tuned.finals[(tuned.finals.method == "my_method.py") & (tuned.finals.setting == "tuned")]
    assert tuned.table.test["my_method.py"] == finals.test_average_accuracy.item()
    assert finals.seed.item() == 1000
    assert "my_method.py" in repr(tuned)


def wrong(value: Any) -> Any:
    """A value that the types don't allow."""
    return value


def test_an_argument_of_another_type_is_an_input_error() -> None:
    calls: dict[str, Callable[[], Any]] = {
        "folder=5: expected the path": lambda: clsweep.load_model(wrong(5)),
        "device=5: expected auto, cpu": lambda: interface._device(wrong(5)),
        "['a']: expected a path": lambda: results.load(wrong(["a"])),
        "methods=5: expected a list": lambda: clsweep.sweep("split_mnist", wrong(5)),
        "overrides: search.n_trials=3: contradicts n_trials=1; expected one of them.": lambda: clsweep.sweep(
            "split_mnist", ["ewc"], 1, ["search.n_trials=3"]
        ),
        f"folder={__file__}: Not a directory": lambda: clsweep.sweep("split_mnist", ["ewc"], folder=__file__),
    }
    for sentence, call in calls.items():
        with pytest.raises(clsweep.InputError, match=f"^{re.escape(sentence)}"):
            call()


@pytest.mark.parametrize(
    ("methods", "overrides", "sentence"),
    [
        ("ewc", [], "methods='ewc': expected a list of names and paths, as in methods=['ewc', 'mine.py']."),
        (
            ["ewc", Scaled(1.0)],
            [],
            "methods: Scaled is an object; expected a name or a path, since the workers of a sweep are "
            "processes of their own.",
        ),
        (["a/m.py", "b/m.py"], [], "methods: m.py is there twice; expected names and files that can be told apart."),
        (["ewc"], ["hydra.sweep.dir=x"], "hydra.sweep.dir=x: is for the command line; expected KEY=VALUE, as in "),
        (["ewc"], ["regularizer=si"], "overrides: regularizer=si: expected it as method='si'."),
        (["nothing"], SWEEP, "regularizer=nothing: expected one of "),
        (["ewc"], ["logger=[tensorboard]"], "logger=tensorboard: there is no folder to keep its files in; expected "),
    ],
)
def test_what_is_wrong_with_a_sweep_is_an_input_error(methods: Any, overrides: list[str], sentence: str) -> None:
    with pytest.raises(clsweep.InputError) as caught:
        clsweep.sweep("split_mnist", methods, overrides=overrides, quiet=True)
    assert str(caught.value).startswith(sentence)


@pytest.mark.slow
def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "notebook.py"))
    printed = capsys.readouterr().out
    assert "Result(split_mnist si, seed 0: average accuracy 0." in printed
    assert "torch.Size([1, 2])\n" in printed
    assert re.search(r"\n +after_context  context split  accuracy +n\n0 +3 +1 +test +0\.\d+ +\d+\n", printed)
    assert re.search(r"\nsi +0\.\d+ ", printed)
    assert re.search(r"\{'reg_strength': [\d.e+-]+, 'epsilon': [\d.e+-]+\}\n$", printed)


def test_joint_training_with_a_method_of_ones_own_is_joint_training() -> None:
    class Stopping:
        @staticmethod
        def estimate_importance(model: Any, dataset: Any, prev_params: Any, device: Any) -> dict[str, Any]:
            return {}

        @staticmethod
        def compute_regularization_loss(model: Any, importance_dict: Any, prev_params_dict: Any) -> float:
            return 0

        @staticmethod
        def transform_gradients(model: Any, importance_dict: Any, prev_params_dict: Any) -> None:
            for p in model.parameters():
                p.grad = None

    joint = [*TINY, "stream=joint"]
    plain, given = (clsweep.run("split_mnist", method, joint, quiet=True) for method in ("ewc", Stopping()))
    assert given.average_accuracy == plain.average_accuracy
    assert given.summary["hyperparameters"] == plain.summary["hyperparameters"] == ""
