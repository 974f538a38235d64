"""A method's file and the modules beside it: what belongs to it, and that every run of it starts anew."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pandas as pd
import pytest
import sweeping
import torch
from builders import command, setting
from sweeping import finish, plan, worker
from tiny import dataset, file_method, network, write

from clsweep import results
from clsweep.config import WorkerConfig
from clsweep.errors import InputError, RunError
from clsweep.methods import files as method_files
from clsweep.methods import loading
from clsweep.methods.contract import FileMethod
from clsweep.methods.instances import Instance
from clsweep.methods.undisturbed import Network
from clsweep.parameters import snapshot
from clsweep.report.selection import select
from clsweep.sweeps import role, storage
from clsweep.training.run import run

METHOD = """
def estimate_importance(model, dataset, prev_params, device):
    importance = {value}
    return {{n.replace(".", "__"): importance + 0 * p.detach() for n, p in model.named_parameters()}}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    named = {{n.replace(".", "__"): p for n, p in model.named_parameters()}}
    return sum((importance_dict[n] * (p - prev_params_dict[n]) ** 2).sum() for n, p in named.items())


HYPERPARAMETERS = ("reg_strength",)
"""
TINY = ("+benchmark=split_mnist", "dataset=mnist_5k", "budget=smoke", "benchmark.contexts=2", "network.hidden=[32]")


def method(folder: Path, imports: str, value: str, files: dict[str, str], name: str = "method.py") -> Path:
    """A file whose importance is `value`, with files beside it."""
    for beside, text in files.items():
        (folder / beside).parent.mkdir(parents=True, exist_ok=True)
        (folder / beside).write_text(text, encoding="utf-8")
    folder.mkdir(exist_ok=True)
    return write(folder, imports + METHOD.format(value=value), name)


def importance(of: FileMethod) -> float:
    """What the method's importance is now."""
    model = network()
    of.attach(Network(model))
    with of.active():
        made = of.importance(dataset(), snapshot(model), next(model.parameters()).device)
    return made["head__bias"][0].item()


def load(file: Path) -> FileMethod:
    made = loading.load(file_method(file)).method
    assert isinstance(made, FileMethod)
    return made


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = set(sys.modules), sys.path[:], sys.meta_path[:], Path.cwd()
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())
    own = {"weights", "helpers", "inner", "outer", "method", "library"}
    left = {name for name in set(sys.modules) - before[0] if name.split(".")[0] in own or "clsweep_custom" in name}
    assert (left, sys.path, sys.meta_path, Path.cwd()) == (set(), *before[1:])


# ---- what belongs to a file


@pytest.mark.parametrize("imports", ["", "import math, json\nimport torch\nfrom clsweep.methods import l2\n"])
def test_a_file_alone_has_the_digest_of_its_content(tmp_path: Path, imports: str) -> None:
    file = method(tmp_path, imports, "1.0", {"weights.py": "", "notes.txt": ""})
    made = method_files.read(str(file))
    assert made.neighbours == {}
    for algorithm in ("sha256", "blake2b"):
        assert made.digest(algorithm) == hashlib.new(algorithm, file.read_bytes()).hexdigest()


BESIDE = {
    "weights.py": "VALUE = 2.0\n",
    "unused.py": "VALUE = 3.0\n",
    "outer.py": "def value():\n    import weights\n    return weights.VALUE\n",
    "helpers/__init__.py": "from . import one\nVALUE = one.VALUE\n",
    "helpers/one.py": "from .deep.two import VALUE\n",
    "helpers/deep/__init__.py": "",
    "helpers/deep/two.py": "import weights\nVALUE = weights.VALUE\n",
    "helpers/other.py": "VALUE = 4.0\n",
    "inner/values.py": "VALUE = 5.0\n",
}
RUN_BY_PATH = "runpy.run_path(str(pathlib.Path(__file__).parent / BY))['VALUE']"
HELPERS = ["helpers/__init__.py", "helpers/deep/__init__.py", "helpers/deep/two.py", "helpers/one.py", "weights.py"]


@pytest.mark.parametrize(
    ("imports", "value", "expected", "belonging"),
    [
        ("import weights\n", "weights.VALUE", 2.0, ["weights.py"]),
        ("from weights import *\n", "VALUE", 2.0, ["weights.py"]),
        ("import outer\n", "outer.value()", 2.0, ["outer.py", "weights.py"]),
        ("from helpers import VALUE\n", "VALUE", 2.0, HELPERS),
        (
            "import helpers.other as h\n",
            "h.VALUE",
            4.0,
            [*HELPERS[:3], "helpers/one.py", "helpers/other.py", "weights.py"],
        ),
        ("from inner import values\n", "values.VALUE", 5.0, ["inner/values.py"]),
        ("import inner.values\n", "inner.values.VALUE", 5.0, ["inner/values.py"]),
        ("", "__import__('weights').VALUE", 2.0, ["weights.py"]),
        ("import importlib\n", "importlib.import_module('weights').VALUE", 2.0, ["weights.py"]),
        ("from importlib import import_module\n", "import_module('.values', 'inner').VALUE", 5.0, ["inner/values.py"]),
        ("def value():\n    from weights import VALUE\n    return VALUE\n", "value()", 2.0, ["weights.py"]),
        ("import pathlib, runpy\nBY = 'inner/values.py'\n", RUN_BY_PATH, 5.0, ["inner/values.py"]),
        ("try:\n    import absent\nexcept ImportError:\n    import weights\n", "weights.VALUE", 2.0, ["weights.py"]),
    ],
)
def test_the_modules_that_a_file_imports_from_beside_it_belong_to_it(
    tmp_path: Path, imports: str, value: str, expected: float, belonging: list[str]
) -> None:
    file = method(tmp_path / "one", imports, value, BESIDE)
    assert list(method_files.read(str(file)).neighbours) == sorted(belonging)
    assert importance(load(file)) == expected
    before = method_files.read(str(file)).digest("sha256")
    for name in BESIDE:  # each that belongs to it, and none else, is in the digest
        beside = tmp_path / "one" / name
        beside.write_text(BESIDE[name] + "# edited\n", encoding="utf-8")
        assert (method_files.read(str(file)).digest("sha256") != before) == (name in belonging)
        beside.write_text(BESIDE[name], encoding="utf-8")


def test_a_copy_runs_as_the_file_does_and_has_its_digest(tmp_path: Path) -> None:
    file = method(tmp_path / "one", "import helpers.other\n", "helpers.VALUE + helpers.other.VALUE", BESIDE)
    made = method_files.read(str(file))
    copies = tmp_path / "copies"
    copies.mkdir()
    made.copy_to(copies)
    file.unlink()
    copy = method_files.read(str(copies / "method.py"))
    assert sorted(path.name for path in copies.iterdir()) == ["helpers", "method.py", "weights.py"]
    assert copy.digest("sha256") == made.digest("sha256")
    assert importance(load(copies / "method.py")) == 6.0


def test_a_link_has_the_neighbours_of_what_it_leads_to_and_a_name_of_its_own(tmp_path: Path) -> None:
    method(tmp_path / "one", "import weights\n", "weights.VALUE", BESIDE)
    link = tmp_path / "link.py"
    link.symlink_to(tmp_path / "one" / "method.py")
    made = method_files.read(str(link))
    assert (made.name, list(made.neighbours)) == ("link.py", ["weights.py"])
    assert importance(load(link)) == 2.0


# ---- every run starts anew


def test_each_folder_has_its_own_neighbour(tmp_path: Path) -> None:
    def value(number: str) -> str:
        return f"from helpers.one import ONE\nVALUE = ONE + {number}\n"

    lazily = "def value():\n    import helpers\n    return helpers.VALUE\n"
    loaded = []
    for number, imports in enumerate(("import helpers\nvalue = lambda: helpers.VALUE\n", lazily, lazily)):
        files = {"helpers/__init__.py": value("100"), "helpers/one.py": f"ONE = {number}"}
        loaded.append(load(method(tmp_path / str(number), imports, "value()", files)))
    assert [importance(one) for one in (*loaded, *loaded)] == [100.0, 101.0, 102.0] * 2


def test_an_edited_neighbour_is_read_again_within_the_same_second(tmp_path: Path) -> None:
    file = method(tmp_path, "import weights\n", "weights.VALUE", {"weights.py": "VALUE = 1.0"})
    for expected in (1.0, 2.0, 3.0):
        (tmp_path / "weights.py").write_text(f"VALUE = {expected}", encoding="utf-8")
        assert importance(load(file)) == expected
    assert not list(tmp_path.rglob("*.pyc"))


COUNTS = "from helpers import SEEN\nOWN = []\nclass State:\n    calls = 0\n"
COUNTED = (
    "(SEEN.append(1), OWN.append(1), setattr(State, 'calls', State.calls + 1)) and len(SEEN) + len(OWN) + State.calls"
)


def test_state_of_the_file_and_of_its_neighbours_starts_anew(tmp_path: Path) -> None:
    file = method(tmp_path, COUNTS, COUNTED, {"helpers/__init__.py": "SEEN = []\n"})
    for _ in range(2):
        loaded = load(file)
        assert [importance(loaded) for _ in range(3)] == [3.0, 6.0, 9.0]


def test_classes_are_found_by_name_while_the_method_is_active(tmp_path: Path) -> None:
    imports = (
        "import inspect, pickle, weights\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Own:\n    count: int = 1\n"
    ).replace("import inspect", "from __future__ import annotations\nimport inspect", 1)
    imports = imports.replace("from __future__ import annotations\nfrom dataclasses", "from dataclasses")
    value = "pickle.loads(pickle.dumps(Own(3))).count + len(pickle.loads(pickle.dumps([weights.State()])))"
    file = method(tmp_path, imports, value, {"weights.py": "class State:\n    pass\n"})
    loaded = load(file)
    assert importance(loaded) == 4.0
    instance: Any = Instance(method_files.read(str(file)))
    with instance.active():
        assert inspect.getsource(instance.module.Own) == "@dataclass\nclass Own:\n    count: int = 1\n"
        assert inspect.getsource(instance.module.weights.State) == "class State:\n    pass\n"
        assert type(pickle.loads(pickle.dumps(instance.module.Own()))) is instance.module.Own


def test_somebody_elses_module_of_that_name_is_there_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ModuleType("weights")
    monkeypatch.setitem(sys.modules, "weights", theirs)
    assert importance(load(method(tmp_path, "import weights\n", "weights.VALUE", BESIDE))) == 2.0
    assert sys.modules["weights"] is theirs


def test_where_a_file_goes_and_looks_for_things_lasts_for_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "of_mine.py").write_text("VALUE = 7.0\n")
    monkeypatch.setenv("OF_MINE", "before")
    imports = f"import os, sys\nos.chdir({str(tmp_path)!r})\nsys.path.insert(0, 'library')\n"
    imports += "os.environ.update(OF_MINE='1.0', NEW='1.0')\n"
    value = "__import__('of_mine').VALUE + float(os.environ['OF_MINE']) + float(os.environ['NEW'])"
    value += f" + (os.getcwd() == {str(tmp_path)!r})"
    loaded = load(method(tmp_path / "one", imports, value, {}))
    for _ in range(2):
        assert importance(loaded) == 10.0
        assert (os.environ["OF_MINE"], "NEW" in os.environ, "of_mine" in sys.modules) == ("before", False, False)


def test_modules_in_folders_that_a_file_puts_on_the_path_start_anew(tmp_path: Path) -> None:
    for number in (1, 2):
        package = tmp_path / f"library-{number}" / "brought"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from brought.state import SEEN\n")
        (package / "state.py").write_text(f"SEEN = [0] * {10 * number}\n")
    value = "(brought.SEEN.append(1), float(len(brought.SEEN)))[1]"
    loaded = []
    for number in (1, 2, 1):
        imports = f"import sys\nsys.path.append('{tmp_path}/library-{number}')\nimport brought\n"
        loaded.append(load(method(tmp_path / f"of-{number}", imports, value, {})))
    assert [importance(one) for one in (*loaded, *loaded)] == [11.0, 21.0, 11.0, 12.0, 22.0, 12.0]
    assert not {"brought", "brought.state"} & set(sys.modules)


def test_settings_of_the_process_that_a_file_changes_at_its_top_are_put_back(tmp_path: Path) -> None:
    imports = (
        "import signal, warnings\nimport numpy, torch\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "warnings.simplefilter('ignore')\nnumpy.seterr(all='raise')\ntorch.set_num_threads(3)\n"
        "torch.use_deterministic_algorithms(True)\ntorch.set_float32_matmul_precision('medium')\n"
    )

    def settings() -> list[object]:
        torch_settings = (torch.get_num_threads(), torch.get_deterministic_debug_mode())
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [*torch_settings, torch.get_float32_matmul_precision(), handlers, numpy.geterr(), warnings.filters[:]]

    before = settings()
    load(method(tmp_path, imports, "1.0", {}))
    assert settings() == before


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "other"),
    [("random", "a module of Python"), ("numpy", "an installed one"), ("rich", "an installed one")],
)
def test_a_neighbour_called_like_a_module_in_use_is_refused(tmp_path: Path, name: str, other: str) -> None:
    file = method(tmp_path, f"import {name}\n", "1.0", {f"{name}.py": "VALUE = 1\n"})
    with pytest.raises(InputError) as caught:
        method_files.read(str(file))
    assert str(caught.value) == (
        f"{file}: imports {name}, which is {name}.py beside it as well as {other}; expected another name for the one "
        "beside it."
    )


def test_a_folder_called_like_an_installed_module_is_none(tmp_path: Path) -> None:
    """A folder of results such as `wandb/`, a checkout's `clsweep/`."""
    files = {"rich/notes.py": "", "json/notes.py": "", "clsweep/__init__.py": "raise RuntimeError"}
    imports = "import json\nimport rich.console\nfrom clsweep.methods import l2\n"
    file = method(tmp_path, imports, "float(bool(json.dumps and rich.console.Console and l2.L2))", files)
    assert method_files.read(str(file)).neighbours == {}
    assert importance(load(file)) == 1.0


UNSEEN = "expected a statement such as import weights, in a function if need be, that makes it part of the method."


def test_a_module_that_the_digest_does_not_see_is_refused(tmp_path: Path) -> None:
    hidden = "import importlib\ndef value():\n    try:\n        return importlib.import_module('weigh' + 'ts').VALUE\n"
    hidden += "    except ImportError:\n        return 0.0\n"
    file = method(tmp_path, f"{hidden}VALUE = value()\n", "VALUE", BESIDE)
    with pytest.raises(InputError) as caught:
        load(file)
    way = "imports weights, which is weights.py beside it, in a way that can't be seen before it runs"
    assert str(caught.value) == f"{file}: {way}; {UNSEEN}"
    loaded = load(method(tmp_path, hidden, "value()", BESIDE))
    with pytest.raises(RunError) as failed:
        importance(loaded)
    assert str(failed.value) == f"{file}: {way}; {UNSEEN}"


@pytest.mark.parametrize(
    ("imports", "name", "file", "instead"),
    [
        ("sys.path.insert(0, f'{HERE}/inner')\nimport values\n", "values", "inner/values.py", "inner.values"),
        ("sys.path.insert(0, f'{HERE}/..')\nimport one.weights\n", "one.weights", "weights.py", "weights"),
        ("sys.path.insert(0, HERE)\n__import__('weigh' + 'ts')\n", "weights", "weights.py", "weights"),
    ],
)
def test_a_module_beside_the_file_is_reached_from_its_folder(
    tmp_path: Path, imports: str, name: str, file: str, instead: str
) -> None:
    imports = f"import os, sys\nHERE = os.path.dirname(__file__)\n{imports}"
    of = method(tmp_path / "one", imports, "1.0", BESIDE)
    with pytest.raises(InputError) as caught:
        load(of)
    assert str(caught.value) == (
        f"{of}: imports {name}, which is {file} beside it, in a way that can't be seen before it runs; expected a "
        f"statement such as import {instead}, in a function if need be, that makes it part of the method."
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("set_default_dtype(torch.float64)", "torch's default dtype"),
        ("set_grad_enabled(False)", "torch's grad mode"),
        ("set_default_device('meta')", "torch's default device"),
    ],
)
def test_a_setting_that_training_would_follow_is_refused_at_the_top_of_a_file(
    tmp_path: Path, change: str, what: str
) -> None:
    file = method(tmp_path, "import settings\n", "1.0", {"settings.py": f"import torch\ntorch.{change}\n"})
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}: importing it changes {what}, which would hold for the network's training, too; expected it to be "
        "changed within the functions, after which it is put back."
    )
    made = torch.zeros((), requires_grad=True) * 1
    assert (made.dtype, made.device.type, made.requires_grad) == (torch.float32, "cpu", True)


def test_what_is_wrong_in_a_neighbour_is_said_with_its_place(tmp_path: Path) -> None:
    file = method(tmp_path, "\nimport weights\n", "1.0", {"weights.py": "VALUE = 1\nVALUE = (\n"})
    with pytest.raises(InputError, match=rf"{tmp_path}/weights\.py, line 2: '\(' was never closed; expected a valid"):
        load(file)
    (tmp_path / "weights.py").write_text("raise ValueError('no weights')\n")
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == f"{file}, line 2: importing it raised ValueError: no weights."
    (tmp_path / "weights.py").write_text("import nowhere\n")
    with pytest.raises(
        InputError, match=r"No module named 'nowhere'; expected nowhere to be installed, or nowhere\.py"
    ):
        load(file)


# ---- runs, studies, reports


def test_identical_files_with_other_neighbours_are_two_methods(tmp_path: Path) -> None:
    names, shown = [], []
    for value in ("0.0", "1e6"):
        folder = tmp_path / value
        file = method(folder, "import weights\n", "weights.VALUE", {"weights.py": f"VALUE = {value}\n"})
        names.append(plan(tmp_path, f"regularizer.file={file}").name)
        (folder / "run").mkdir()
        run(setting(*TINY, f"regularizer.file={file}", "regularizer.reg_strength=1"), folder / "run")
        shown.append((folder / "run" / "weights.py").read_text())
    assert len(set(names)) == 2
    assert shown == ["VALUE = 0.0\n", "VALUE = 1e6\n"]
    chosen = select(results.load(tmp_path)).runs
    assert len(set(chosen["method"])) == len(set(chosen["regularizer_digest"])) == 2
    assert len(set(chosen["average_accuracy"])) == 2
    weights = tmp_path / "0.0" / "weights.py"
    weights.write_text("VALUE = 9.9\n")  # an edit of the neighbour alone
    assert plan(tmp_path, f"regularizer.file={tmp_path / '0.0' / 'method.py'}").name not in names


def test_state_beside_a_method_does_not_go_from_trial_to_trial(tmp_path: Path) -> None:
    helpers = "SEEN = []\ndef seen():\n    SEEN.append(1)\n    assert len(SEEN) <= 3\n    return 1.0\n"
    file = method(tmp_path, "from helpers import seen\n", "seen()", {"helpers/__init__.py": helpers})
    overrides = (f"regularizer.file={file}", "search.final_seeds=0", "search.pruner=null")
    trials = finish(worker(tmp_path / "study", *overrides, space={"reg_strength": "1,2"}))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]  # of three contexts each


def test_a_sweep_goes_on_with_the_files_that_it_began_with(tmp_path: Path) -> None:
    file = method(tmp_path, "import weights\n", "weights.VALUE", {"weights.py": "VALUE = 1.0\n"})
    chosen = (f"regularizer.file={file}", "search.final_seeds=0", "search.pruner=null")
    study = worker(tmp_path / "study", *chosen, space={"reg_strength": "1,2"})
    assert study.work_once()
    part = WorkerConfig(number=1, studies=[study.plan.name])
    role.check(part, [plan(tmp_path / "study", *chosen, space={"reg_strength": "1,2"})])
    (tmp_path / "weights.py").write_text("raise RuntimeError('half edited')\n")
    finish(study)
    runs = results.load(tmp_path / "study").runs
    assert (len(runs), set(runs["status"]), len(set(runs["regularizer_digest"]))) == (2, {"finished"}, 1)
    assert {path.read_text() for path in (tmp_path / "study").rglob("weights.py")} == {"VALUE = 1.0\n"}
    assert pd.read_csv(tmp_path / "study" / "trials.csv").state.tolist() == ["COMPLETE", "COMPLETE"]
    (tmp_path / "weights.py").write_text("VALUE = 2.0\n")
    with pytest.raises(InputError) as caught:
        role.check(part, [plan(tmp_path / "study", *chosen, space={"reg_strength": "1,2"})])  # another process begins
    assert str(caught.value) == (
        f"{file}: has changed since the sweep began, which makes it another study than {study.plan.name}; expected the "
        "same command once more."
    )


# ---- commands, from other folders than the files'

SWEEP = ("--multirun", *TINY, "threads=1", "benchmark.iters=5", "search.n_trials=1", "search.final_seeds=0")


def test_the_best_trial_runs_again_from_anywhere_wherever_its_sweep_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method(tmp_path, "import os, weights\nos.chdir('/')\n", "weights.VALUE", {"weights.py": "VALUE = 2.0\n"})
    monkeypatch.chdir(tmp_path)
    chosen = ("regularizer.file=method.py", "regularizer.reg_strength=3", "hydra.job.chdir=true")
    assert command(monkeypatch, *SWEEP, *chosen, "search.storage=sqlite:///kept/studies.db") == 0
    printed = capsys.readouterr().out
    assert "storage  sqlite:///kept/studies.db\n" in printed
    assert "\n  method           method.py\n" in printed
    (study,) = (tmp_path / "outputs" / "sweeps").glob("split_mnist-*")
    assert f"--config-dir outputs/sweeps/{study.name} --config-name best\n" in printed
    assert pd.read_csv(study / "trials.csv").folder.tolist() == [f"outputs/sweeps/{study.name}/trial-0000"]
    before = pd.read_csv(study / "trial-0000" / "summary.csv").iloc[0]
    assert before.regularizer_file == "method.py"

    moved = study.rename(tmp_path / "moved")
    for name in ("method.py", "weights.py"):
        (tmp_path / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    best = ("--config-dir", "../moved", "--config-name", "best", "figures=false")
    assert command(monkeypatch, *best, "hydra.job.chdir=true", "hydra.run.dir=again") == 0
    assert "\nresults    again\n" in capsys.readouterr().out
    again = pd.read_csv("again/summary.csv").iloc[0]
    assert again.regularizer_file == str(moved / "trial-0000" / "method.py")
    for name in ("average_accuracy", "regularizer_digest", "iters", "reg_strength"):
        assert again[name] == before[name]


# ---- modules of one's own that lie elsewhere


LIBRARY = {
    "library/__init__.py": "",
    "library/values.py": "from .deep import count\n\ndef value():\n    count.NOW += 1\n    return count.NOW\n",
    "library/deep/__init__.py": "",
    "library/deep/count.py": "NOW = 1.0\n",
    "library/unused.py": "",
    "spread/part.py": "NOW = 5.0\n",
    "mine/inner/part.py": "NOW = 5.0\n",
}
FROM_LIBRARY = ["library/__init__.py", "library/deep/__init__.py", "library/deep/count.py", "library/values.py"]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on `sys.path`, as PYTHONPATH and `pip install -e` put one there."""
    folder = tmp_path / "lab"
    for name, text in LIBRARY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize(
    ("imports", "value", "expected", "belonging"),
    [
        ("from library.values import value\n", "value()", 2.0, FROM_LIBRARY),
        ("import library\nimport library.values\n", "library.values.value()", 2.0, FROM_LIBRARY),
        ("def value():\n    from library import values\n    return values.value()\n", "value()", 2.0, FROM_LIBRARY),
        ("from spread import part\n", "part.NOW", 5.0, ["spread/part.py"]),
        ("from mine.inner import part\n", "part.NOW", 5.0, ["mine/inner/part.py"]),
    ],
)
def test_the_modules_of_ones_own_that_lie_elsewhere_belong_to_a_file(
    tmp_path: Path, library: Path, imports: str, value: str, expected: float, belonging: list[str]
) -> None:
    file = method(library / "mine", imports, value, {})
    made = method_files.read(str(file))
    assert list(made.neighbours) == belonging
    assert importance(load(file)) == expected
    assert importance(load(file)) == expected  # it starts anew
    changed = library / belonging[-1]
    changed.write_text(changed.read_text() + "# another version\n")
    assert method_files.read(str(file)).digest("sha256") != made.digest("sha256")
    (tmp_path / "copy").mkdir()
    made.copy_to(tmp_path / "copy")
    copied = method_files.read(str(tmp_path / "copy" / file.name))
    assert copied.digest("sha256") == made.digest("sha256")
    assert importance(load(tmp_path / "copy" / file.name)) == expected


def test_a_module_beside_the_file_comes_before_one_that_lies_elsewhere(tmp_path: Path, library: Path) -> None:
    file = method(tmp_path / "mine", "import library\n", "library.VALUE", {"library.py": "VALUE = 7.0\n"})
    assert list(method_files.read(str(file)).neighbours) == ["library.py"]
    assert importance(load(file)) == 7.0


@pytest.mark.parametrize(
    ("name", "file"), [("library", "library/__init__.py"), ("library.unused", "library/unused.py")]
)
def test_a_module_elsewhere_that_the_digest_does_not_see_is_refused(
    tmp_path: Path, library: Path, name: str, file: str
) -> None:
    imports = (
        f"import importlib\n{'import library' if '.' in name else ''}\nNAME = '{name}'\nimportlib.import_module(NAME)\n"
    )
    of = method(tmp_path / "mine", imports, "1.0", {})
    with pytest.raises(InputError) as refused:
        load(of)
    assert str(refused.value).startswith(
        f"{of}: imports {name}, which is {library / file}, in a way that can't be seen"
    )
    assert f"expected a statement such as import {name}, in a function" in str(refused.value)


def test_what_others_have_imported_of_a_library_is_there_again_afterwards(tmp_path: Path, library: Path) -> None:
    part = importlib.import_module("spread.part")
    vars(part)["NOW"] = 6.0
    file = method(tmp_path / "mine", "from spread import part\n", "part.NOW", {})
    try:
        assert importance(load(file)) == 5.0
        assert sys.modules["spread"].part is part
        assert sys.modules["spread.part"] is part
    finally:
        for name in ("spread.part", "spread"):
            sys.modules.pop(name, None)


NETWORK = """
import torch


class Layer(torch.nn.Linear):
    pass


class Net(torch.nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.layer = Layer(784, n_outputs)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


@pytest.mark.parametrize("place", [".", "methods"])
def test_a_network_is_of_the_classes_that_the_method_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    value = "1.0 / any(isinstance(m, layers.Layer) for m in model.modules())"
    (tmp_path / "layers.py").write_text(NETWORK, encoding="utf-8")
    file = method(tmp_path / place, "import layers\n", value, {})
    run(
        setting(*TINY[:-1], "network=own", "network._target_=layers.Net", f"regularizer.file={file}"), None
    )  # a rehearsal, too
