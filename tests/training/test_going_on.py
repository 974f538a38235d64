"""A run that was stopped goes on, and ends as if it never had been."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from builders import command, refuse_writing, setting
from conftest import Typed
from test_cli import TINY, summary, without_run_id

from clsweep import methods, process, results, resuming, running
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.results.metrics import Cell
from clsweep.training.learner import Learner
from clsweep.training.loop import Trainer
from clsweep.training.observers import Observer
from clsweep.training.run import run
from clsweep.training.seeds import run_seeds

SHORT = (*TINY, "benchmark.contexts=3", "benchmark.iters=4", "figures=false", "threads=1", "device=cpu")
METHODS = (*methods.names(), "custom")

# Counts what it has seen wherever Python keeps anything, and says so where one of them is behind.
FORGETFUL = """
    import copy
    import functools
    import logging
    import random
    import re
    from collections import Counter, OrderedDict, defaultdict, deque
    from dataclasses import dataclass, field
    from types import SimpleNamespace
    from typing import NamedTuple

    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn

    log = logging.getLogger(__name__)  # what can't be kept, and doesn't change
    PATTERN, LOSS, KINDS = re.compile("x"), nn.CrossEntropyLoss(), {"relu": F.relu, "log": log}

    COUNT = 0
    START = []
    TORCH, NUMPY, PYTHON = torch.Generator().manual_seed(3), np.random.default_rng(1), random.Random(5)
    OLD_NUMPY = np.random.RandomState(2)


    @dataclass
    class Seen:
        importance: torch.Tensor
        layer: nn.Module
        names: list = field(default_factory=list)


    class Pair(NamedTuple):
        first: int
        second: tuple


    class Total:
        count = 0
        by_context: dict = {}

        @classmethod
        def add(cls):
            cls.count += 1
            cls.by_context[cls.count] = torch.ones(2) * cls.count


    def counter():
        count = 0

        def add():
            nonlocal count
            count += 1
            return count

        return add


    add = counter()


    def counted(function):
        @functools.wraps(function)
        def wrapped(*given):
            wrapped.calls = getattr(wrapped, "calls", 0) + 1
            return function(*given)

        return wrapped


    @counted
    @torch.no_grad()
    def estimate_importance(model, dataset, prev_params, device, _calls={"all": 0}):
        global COUNT
        COUNT += 1
        _calls["all"] += 1
        Total.add()
        START.append(prev_params)
        if COUNT == 1:
            model.teacher = copy.deepcopy(model)
            model.seen = Seen(torch.zeros(2), next(iter(model.children())), ["a"])
            model.again = model.seen  # the same object by another name
            model.kinds = [Counter("aab"), OrderedDict(b=1), defaultdict(list, {1: [2]}), deque([1, 2], maxlen=2), {3}]
            model.others = SimpleNamespace(a=b"x", b=slice(1, 2), c=np.arange(3), d=torch.float16, e=Pair(1, (2, 3j)))
            model.method = model.named_parameters
            model.memory = dataset.tensors[0][:7]
            model.weights = [p for p in model.parameters()]
        model.seen.importance += COUNT
        counts = {COUNT, _calls["all"], Total.count, len(Total.by_context), len(START), add()}
        assert counts | {estimate_importance.calls} == {COUNT}, counts
        assert model.again is model.seen
        assert model.seen.layer is next(iter(model.children()))
        assert float(model.seen.importance[0]) == COUNT * (COUNT + 1) / 2
        assert model.kinds[3].maxlen == 2
        assert model.kinds[2]["new"] == [] and model.kinds[2].pop("new") == []
        assert model.others.e.second == (2, 3j) and type(model.others.e) is Pair
        assert dict(model.method()).keys() == dict(model.named_parameters()).keys()
        assert model.memory.shape[0] == 7
        assert model.weights[0] is next(model.parameters())  # and no copy of it
        if COUNT > 1:
            assert model.extra.item() == COUNT - 1
        model.register_buffer("extra", torch.tensor(float(COUNT)), persistent=False)
        drawn = float(torch.rand(1, generator=TORCH)) + NUMPY.random() + PYTHON.random() + OLD_NUMPY.rand()
        drawn += float(torch.rand(1)) + random.random() + np.random.rand()
        own = {name: p for name, p in model.named_parameters() if not name.startswith("teacher")}
        teacher = dict(model.teacher.named_parameters())
        return {n.replace(".", "__"): drawn + (p - teacher[n]) ** 2 for n, p in own.items()}


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        own = {name.replace(".", "__"): p for name, p in model.named_parameters()}
        return sum((value * (own[n] - prev_params_dict[n]) ** 2).sum() for n, value in importance_dict.items())
"""


class Stops(Observer):
    """Stops a run after a context, and keeps what it is told."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.notes: list[str] = []
        self.before: list[int] = []
        self.learned: list[int] = []
        self.iterations = 0

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def going_on(self, where: str) -> None:
        self.notes.append(f"going on after {where}, where it was stopped")

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        self.before = [cells[0].after_context for cells in measured]
        self.iterations = iterations

    def context_done(self, cells: Sequence[Cell]) -> None:
        self.learned.append(cells[0].after_context)
        if cells[0].after_context == self.after:
            raise KeyboardInterrupt


def stopped(config: Config, folder: Path, after: int) -> Stops:
    """Run, and stop after a context."""
    folder.mkdir(exist_ok=True)
    observer = Stops(after)
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, observer, rehearsed=True)
    return observer


def finished(config: Config, folder: Path) -> Stops:
    """Run to the end."""
    folder.mkdir(exist_ok=True)
    observer = Stops()
    run(config, folder, observer, rehearsed=True)
    return observer


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*"))


def method_file(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(dedent(text))
    return f"regularizer.file={file}"


def goes_on(config: Config, folder: Path) -> None:
    """Stop a run after each context, and hold it against one that nothing stops."""
    finished(config, folder / "whole")
    ids = set()
    for after in (1, 2):
        stopped(config, folder / "stopped", after)
        row = summary(folder / "stopped")
        assert row["status"] == "interrupted"
        ids.add(row["run_id"])
        assert len(kept(folder / "stopped")) == min(after, 2)
    told = finished(config, folder / "stopped")
    assert (told.before, told.learned, told.iterations) == ([0, 1, 2], [3], 8)
    assert told.notes == ["going on after context 2 of 3, where it was stopped"]
    whole, parts = (without_run_id(folder / name / "accuracy.csv") for name in ("whole", "stopped"))
    assert whole == parts
    assert {summary(folder / "stopped")["run_id"]} == ids  # it is one run
    assert kept(folder / "stopped") == []


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_ends_as_if_it_had_not_been_stopped(method: str, tmp_path: Path) -> None:
    goes_on(setting(*SHORT, f"regularizer={method}"), tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=adamw", "optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR"),
        ("network=cnn", "network.channels=[4,4]", "network.hidden=[8]"),
        ("contract.logits=all", "precision=bf16"),
        ("benchmark.scenario=class", "validation_fraction=0.2"),
    ],
    ids=lambda more: more[0],
)
def test_whatever_it_is_trained_with(more: tuple[str, ...], tmp_path: Path) -> None:
    goes_on(setting(*SHORT, "regularizer=ewc", *more), tmp_path)


def test_the_shipped_file_finds_the_batch_norms_that_it_has_fixed(tmp_path: Path) -> None:
    goes_on(setting(*SHORT, "network=cnn", "network.channels=[4,4]", "network.hidden=[8]"), tmp_path)


class StopsAt(Observer):
    """Stops a run at a step, which it counts on."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        self.count = iterations

    def step(self, loss: torch.Tensor) -> None:
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt


def test_joint_training_goes_on_after_each_part(tmp_path: Path) -> None:
    config = setting(*SHORT, "stream=joint")
    finished(config, tmp_path / "whole")
    (tmp_path / "run").mkdir()
    for at in (2, 6, 11):
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", StopsAt(at))
    told = finished(config, tmp_path / "run")
    assert told.notes == ["going on after part 2 of 3, where it was stopped"]
    assert (told.before, told.learned, told.iterations) == ([0], [3], 8)
    assert without_run_id(tmp_path / "whole" / "accuracy.csv") == without_run_id(tmp_path / "run" / "accuracy.csv")


def test_joint_training_with_a_schedule_starts_over(tmp_path: Path) -> None:
    schedule = "optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR"
    config = setting(*SHORT, "stream=joint", schedule)
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", StopsAt(6))
    assert kept(tmp_path / "run") == []
    assert finished(config, tmp_path / "run").learned == [0, 3]


def test_a_file_finds_again_what_it_kept_anywhere(tmp_path: Path) -> None:
    goes_on(setting(*SHORT, method_file(tmp_path, FORGETFUL)), tmp_path)


IMPORTS_LATE = """
    import torch


    def estimate_importance(model, dataset, prev_params, device):
        from memory_of_mine import Memory

        if not hasattr(model, "memory"):
            model.memory = Memory()
        model.memory.count += 1
        return {name: torch.full_like(p, model.memory.count) for name, p in named(model).items()}


    def named(model):
        return {name.replace(".", "__"): p for name, p in model.named_parameters()}


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        own = named(model)
        return sum((value * (own[n] - prev_params_dict[n]) ** 2).sum() for n, value in importance_dict.items())
"""


def test_an_object_of_a_module_that_a_function_imports_is_kept(tmp_path: Path) -> None:
    (tmp_path / "memory_of_mine.py").write_text("class Memory:\n    count = 0\n")
    goes_on(setting(*SHORT, method_file(tmp_path, IMPORTS_LATE)), tmp_path)


OWN_METHOD = """
    from dataclasses import dataclass

    from clsweep.methods.ewc import EWC


    @dataclass(eq=False)
    class Mine(EWC):
        {more}
"""


def own_method(folder: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> tuple[str, ...]:
    """A class that does more than EWC."""
    module = f"method_of_{folder.name}"
    (folder / f"{module}.py").write_text(dedent(OWN_METHOD).format(more=more))
    monkeypatch.chdir(folder)
    return "regularizer=ewc", "regularizer.name=mine", f"regularizer._target_={module}.Mine", "~tuned"


def test_a_class_finds_again_the_hyperparameters_that_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "def learn(self, finished): super().learn(finished); self.reg_strength *= 1e6"
    goes_on(setting(*SHORT, *own_method(tmp_path, monkeypatch, more)), tmp_path)


def test_what_cannot_be_kept_is_named_once_and_the_run_starts_over(tmp_path: Path, typed: Typed) -> None:
    text = """
        def estimate_importance(model, dataset, prev_params, device):
            model.scale = lambda value: value
            return {}


        def compute_regularization_loss(model, importance_dict, prev_params_dict):
            return sum(p.sum() for p in model.parameters()) * 0.0
    """
    config = setting(*SHORT, method_file(tmp_path, text))
    told = stopped(config, tmp_path / "run", 2)
    assert kept(tmp_path / "run") == []
    named = (
        "scale, an attribute of the network, is a lambda, which a checkpoint can't hold: should a run be stopped, it "
        "starts over"
    )
    assert told.notes == [named]
    said = typed(*SHORT, f"regularizer.file={tmp_path / 'mine.py'}", f"hydra.run.dir={tmp_path / 'typed'}")
    assert said.stdout.count(named) == 1
    assert finished(config, tmp_path / "run").learned == [0, 1, 2, 3]


KEPT_ON_PARAMETERS = """
    import torch


    def named(model):
        return {name.replace(".", "__"): p for name, p in model.named_parameters()}


    def estimate_importance(model, dataset, prev_params, device):
        for p in model.parameters():
            p.count = getattr(p, "count", 0) + 1
            p.omega = getattr(p, "omega", torch.zeros_like(p)) + p.detach().abs()
        return {name: p.omega * 10 ** p.count for name, p in named(model).items()}


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        own = named(model)
        return sum((value * (own[n] - prev_params_dict[n]) ** 2).sum() for n, value in importance_dict.items())
"""


def test_what_a_file_kept_on_parameters_is_kept(tmp_path: Path) -> None:
    goes_on(setting(*SHORT, method_file(tmp_path, KEPT_ON_PARAMETERS)), tmp_path)


WITH_AN_OPTIMIZER = """
    import torch


    def estimate_importance(model, dataset, prev_params, device):
        if not hasattr(model, "adam"):
            model.adam = torch.optim.Adam(model.parameters())
            model.momentum = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
        for group in (*model.adam.param_groups, *model.momentum.param_groups):
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        model.adam.step()
        model.momentum.step()
        (moved,) = model.momentum.param_groups[0]["params"]
        return {name.replace(".", "__"): moved.detach() ** 2 + p.abs() for name, p in model.named_parameters()}


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        own = {name.replace(".", "__"): p for name, p in model.named_parameters()}
        return sum((value * (own[n] - prev_params_dict[n]) ** 2).sum() for n, value in importance_dict.items())
"""


def test_an_optimizer_that_a_file_keeps_goes_on(tmp_path: Path) -> None:
    goes_on(setting(*SHORT, method_file(tmp_path, WITH_AN_OPTIMIZER)), tmp_path)


@pytest.mark.parametrize("hook", ["register_hook(lambda g: g / 2)", "register_post_accumulate_grad_hook(print)"])
def test_a_hook_on_a_parameter_is_named_as_one_on_a_layer(hook: str, tmp_path: Path) -> None:
    text = f"""
        def estimate_importance(model, dataset, prev_params, device):
            model.head.weight.{hook}
            return {{}}


        def compute_regularization_loss(model, importance_dict, prev_params_dict):
            return sum(p.sum() for p in model.parameters()) * 0.0
    """
    told = stopped(setting(*SHORT, method_file(tmp_path, text)), tmp_path / "run", 1)
    assert told.notes == [
        "a hook is left on the network (head.weight), which a checkpoint can't hold: should a run be stopped, it "
        "starts over"
    ]
    assert kept(tmp_path / "run") == []


@pytest.mark.parametrize("damage", ["a byte", "the end", "everything", "code", "another format"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    config = setting(*SHORT, "regularizer=ewc")
    finished(config, tmp_path / "whole")
    stopped(config, tmp_path / "run", 2)
    latest = kept(tmp_path / "run")[-1]
    content = bytearray(latest.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    if damage == "code":
        torch.save({"setting": Runs(tmp_path / "ran")}, latest)
    elif damage == "another format":
        torch.save(torch.load(latest, weights_only=True) | {"format": 1}, latest)
    else:
        latest.write_bytes({"the end": bytes(content[:-100]), "everything": b""}.get(damage, bytes(content)))
    told = finished(config, tmp_path / "run")
    assert told.learned == [2, 3]
    assert told.notes[-1] == "going on after context 1 of 3, where it was stopped"
    assert latest.name in told.notes[0]
    assert told.notes[0].endswith("; going on without it")
    assert without_run_id(tmp_path / "whole" / "accuracy.csv") == without_run_id(tmp_path / "run" / "accuracy.csv")
    assert not (tmp_path / "ran").exists()


class Runs:
    """What unpickling runs."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.file,)


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    config = setting(*SHORT, "regularizer=ewc")
    stopped(config, tmp_path / "run", 1)
    partial = tmp_path / "run" / "checkpoints" / ".context-02.pt.01234567.partial"
    partial.write_bytes(b"half")
    stopped(config, tmp_path / "run", 2)
    assert not partial.exists()
    assert [path.name for path in kept(tmp_path / "run")] == ["context-01.pt", "context-02.pt"]


def test_another_setting_is_refused_by_what_differs(tmp_path: Path) -> None:
    stopped(setting(*SHORT, "regularizer=ewc", "regularizer.reg_strength=10"), tmp_path / "run", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        run(setting(*SHORT, "regularizer=ewc", "regularizer.reg_strength=20", "seed=3"), tmp_path / "run")
    assert "holds a run of another setting (seed: 0 there, 3 now; regularizer.reg_strength: 10 there, 20 now)" in (
        str(caught.value)
    )
    assert "resume=false to start over" in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    told = finished(setting(*SHORT, "regularizer=ewc", "seed=3", "resume=false"), tmp_path / "run")
    assert told.learned == [0, 1, 2, 3]


def test_what_starts_over_leaves_no_figure_of_what_was_there(tmp_path: Path) -> None:
    finished(setting(*SHORT, "regularizer=none"), tmp_path / "run")
    figures = [tmp_path / "run" / name for name in ("accuracy_matrix.png", "curves.png", "iterations.png")]
    for figure in figures:
        figure.write_bytes(b"drawn, and dated in the future")
    stopped(setting(*SHORT, "regularizer=none", "seed=3", "resume=false"), tmp_path / "run", 1)
    assert [figure.name for figure in figures if figure.exists()] == []


def test_what_starts_over_removes_nothing_before_it_can_begin(tmp_path: Path) -> None:
    finished(setting(*SHORT, "regularizer=none", "save_model=true"), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    text = "def estimate_importance(model, dataset, prev_params, device):\n    return 1\n"
    broken = method_file(tmp_path, f"{text}def compute_regularization_loss(model, importance, prev):\n    return 1\n")
    with pytest.raises(InputError):
        run(setting(*SHORT, broken, "resume=false"), tmp_path / "run", Stops())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("more", ["resume=true", "resume=false"])
def test_files_of_others_in_the_folder_are_left_alone(more: str, tmp_path: Path) -> None:
    theirs = tmp_path / "run" / "checkpoints" / "best.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    finished(setting(*SHORT, "regularizer=none", more), tmp_path / "run")
    assert kept(tmp_path / "run") == [theirs]


def test_another_content_of_the_file_is_another_setting(tmp_path: Path) -> None:
    config = setting(*SHORT, method_file(tmp_path, FORGETFUL))
    stopped(config, tmp_path / "run", 1)
    method_file(tmp_path, FORGETFUL + "    # edited\n")
    with pytest.raises(InputError, match="the content of the method's file"):
        run(config, tmp_path / "run")


def test_what_decides_nothing_may_be_another(tmp_path: Path) -> None:
    stopped(setting(*SHORT, "regularizer=ewc"), tmp_path / "run", 1)
    told = finished(setting(*SHORT, "regularizer=ewc", "figures=true", "keep_checkpoints=true"), tmp_path / "run")
    assert told.learned == [2, 3]
    assert len(kept(tmp_path / "run")) == 2


def test_the_same_command_goes_on_and_a_finished_run_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = (*SHORT, "regularizer=ewc", f"hydra.run.dir={tmp_path / 'run'}")
    stopped(setting(*SHORT, "regularizer=ewc"), tmp_path / "run", 2)
    assert command(monkeypatch, *typed) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "note       going on after context 2 of 3, where it was stopped" in lines
    assert [line[:18] for line in lines if line.startswith("after")] == [f"after context  {n}/3" for n in (1, 2, 3)]
    written = (tmp_path / "run" / "summary.csv").read_bytes()
    assert command(monkeypatch, *typed) == 0
    assert capsys.readouterr().out.startswith("finished already: average accuracy 0.")
    assert (tmp_path / "run" / "summary.csv").read_bytes() == written
    with pytest.raises(InputError, match=r"holds this run already, finished; expected another folder, or resume=false"):
        run(setting(*SHORT, "regularizer=ewc"), tmp_path / "run")


@pytest.mark.parametrize("more", [("resume=true",), ("resume=false",), ("seeds=2",)])
def test_a_folder_that_a_process_runs_in_is_refused_and_left_as_it_is(
    more: tuple[str, ...], tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Trainer.learn
    refused: list[int] = []

    def as_another_would(self: Trainer, number: int) -> None:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for look in (running.refuse, lambda folder: running.alone(folder).__enter__()):
            with pytest.raises(InputError, match=told) as caught:
                look(tmp_path / "run")
            refused.append(caught.value.exit_code)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        learn(self, number)

    here = f"process {os.getpid()} on {platform.node()}"
    told = f"^hydra.run.dir={tmp_path}/run: {here} is running there; expected another folder, or the same command once"
    arguments = (*SHORT, "regularizer=none", "benchmark.iters=1", *more, f"hydra.run.dir={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", as_another_would)
        assert typed(*arguments).returncode == 0
    assert set(refused) == {2}
    assert len(refused) == 2 * 3 * (2 if "seeds=2" in more else 1)
    assert not list(tmp_path.rglob(".running"))


def test_the_same_command_twice_is_one_run(tmp_path: Path, typed: Typed) -> None:
    folder = tmp_path / "run"
    arguments = (*SHORT, "regularizer=none", "benchmark.iters=1", f"hydra.run.dir={folder}")
    with running.alone(folder):
        said = typed(*arguments)
        assert [path.name for path in folder.iterdir()] == [".running"]
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert f"process {os.getpid()} on" in said.stderr
    assert typed(*arguments).returncode == 0


def test_a_killed_process_leaves_its_folder_to_the_next_one(tmp_path: Path) -> None:
    killed = """
        import os, pathlib, sys
        from clsweep import running
        with running.alone(pathlib.Path(sys.argv[1])):
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", dedent(killed), tmp_path], check=False, timeout=60)
    assert (tmp_path / ".running").exists()
    running.refuse(tmp_path)
    with running.alone(tmp_path):
        assert (tmp_path / ".running").read_text().startswith(f"process {os.getpid()} ")
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_owner_removes_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def after_the_owners_end(file: int, kind: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / ".running").unlink()
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", after_the_owners_end)
    with running.alone(tmp_path), pytest.raises(InputError, match="is running there"):
        running.refuse(tmp_path)


def test_a_run_goes_on_without_locks_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with running.alone(tmp_path), running.alone(tmp_path):
        running.refuse(tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*SHORT, "regularizer=ewc", f"hydra.run.dir={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        refuse_writing(patch, lambda name: "context-02" in name)
        said = typed(*arguments)
    assert said.returncode == 1
    assert said.stderr == (
        f"clsweep: {tmp_path}/run/checkpoints/context-02.pt: No space left on device; what is finished is kept: when "
        "that is mended, run the same command again.\n"
    )
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert [path.name for path in kept(tmp_path / "run")] == ["context-01.pt"]
    said = typed(*arguments)
    assert said.returncode == 0
    assert "going on after context 1 of 3" in said.stdout
    finished(setting(*SHORT, "regularizer=ewc"), tmp_path / "whole")
    assert without_run_id(tmp_path / "whole" / "accuracy.csv") == without_run_id(tmp_path / "run" / "accuracy.csv")


def test_who_stops_a_run_is_told_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = Trainer.learn

    def interrupted(self: Trainer, number: int) -> None:
        if number == 2:
            signal.raise_signal(signal.SIGUSR1)
        learn(self, number)

    arguments = (*SHORT, "regularizer=ewc", f"hydra.run.dir={tmp_path / 'a run'}")
    with monkeypatch.context() as patch:
        patch.setattr(process, "_interrupts", process._Interrupts())  # another test's may be winding up
        patch.setattr(Trainer, "learn", interrupted)
        assert command(patch, *arguments) == 130
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"to go on          the same command with hydra.run.dir='{tmp_path / 'a run'}'"
    assert said.err == "clsweep: interrupted.\n"
    assert command(monkeypatch, *arguments) == 0
    assert "going on after context 2 of 3" in capsys.readouterr().out


def test_an_interrupt_that_python_drops_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signals:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGUSR1)

    step = Learner.step
    steps: list[int] = []

    def dropped(self: Learner, *batch: torch.Tensor) -> torch.Tensor:
        steps.append(len(steps))
        if len(steps) == 6:
            Signals()
        return step(self, *batch)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(process, "_interrupts", process._Interrupts())
    monkeypatch.setattr(Learner, "step", dropped)
    assert command(monkeypatch, *SHORT, "regularizer=ewc", f"hydra.run.dir={tmp_path / 'run'}") == 130
    assert len(steps) == 6
    assert summary(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.parametrize("more", ["resume=true", "resume=false"])
def test_a_sweeps_folder_is_no_runs(more: str, tmp_path: Path) -> None:
    (tmp_path / "trials.csv").touch()
    for seeds in ("seeds=null", "seeds=2"):
        with pytest.raises(InputError, match=r"holds the results of a study; expected another folder\.$"):
            resuming.refuse_others(setting(*SHORT, "regularizer=ewc", more, seeds), tmp_path)
    with pytest.raises(InputError, match=r"holds results already \(trials\.csv\), of several runs; expected another f"):
        run(setting(*SHORT, "regularizer=ewc", more), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]


@pytest.mark.parametrize("figures", ["figures=false", "figures=true"])
def test_a_finished_run_without_what_it_measured_is_refused(figures: str, tmp_path: Path, typed: Typed) -> None:
    finished(setting(*SHORT, "regularizer=none"), tmp_path)
    (tmp_path / "accuracy.csv").unlink()
    done = typed(*SHORT, "regularizer=none", figures, f"hydra.run.dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"clsweep: hydra.run.dir={tmp_path}: holds a run that was damaged (summary.csv: accuracy.csv is not beside "
        "it); expected another folder, or resume=false to start over.\n"
    )


def cut(text: str) -> str:
    return text[: len(text) * 3 // 5]


def with_decimal_commas(text: str) -> str:
    header, row = csv.reader(text.splitlines())
    row[header.index("average_accuracy")] = '"0,55"'
    return "\n".join(map(",".join, (header, row))) + "\n"


DAMAGES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "summary cut": ("summary.csv", cut, "its last line has no end: a part of the file is missing"),
    "decimal comma": ("summary.csv", with_decimal_commas, "average_accuracy"),
    "column renamed": ("summary.csv", lambda text: text.replace(",average_acc", ",mean_acc"), "it lacks the column"),
    "semicolons": ("summary.csv", lambda text: text.replace(",", ";").replace("\n", "\r\n"), "it lacks the column"),
    "empty": ("summary.csv", lambda _: "", "empty"),
    "accuracy cut": ("accuracy.csv", cut, "its last line has no end: a part of the file is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_run_that_was_damaged_is_refused_and_left_alone(damage: str, tmp_path: Path) -> None:
    name, change, told = DAMAGES[damage]
    config = setting(*SHORT, "regularizer=none")
    finished(config, tmp_path)
    resuming.refuse_others(config, tmp_path)
    (tmp_path / name).write_text(change((tmp_path / name).read_text()))
    left = (tmp_path / name).read_bytes()
    with pytest.raises(
        InputError, match=r"holds a run that was damaged .*; expected another folder, or resume=fa"
    ) as e:
        resuming.refuse_others(config, tmp_path)
    assert told in str(e.value)
    with pytest.raises(InputError):
        run(config, tmp_path)
    assert (tmp_path / name).read_bytes() == left
    resuming.refuse_others(replace(config, resume=False), tmp_path)


def test_a_mark_that_spreadsheets_write_first_changes_nothing(tmp_path: Path) -> None:
    config = setting(*SHORT, "regularizer=none")
    finished(config, tmp_path)
    expected = resuming.finished(tmp_path)
    for name in ("summary.csv", "accuracy.csv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    resuming.refuse_others(config, tmp_path)
    assert resuming.finished(tmp_path) == expected


def test_a_damaged_summary_beside_a_checkpoint_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "context-1.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    (tmp_path / "summary.csv").touch()
    resuming.refuse_damaged(tmp_path)
    checkpoint.unlink()
    with pytest.raises(InputError, match=r"\(summary\.csv: empty\)"):
        resuming.refuse_damaged(tmp_path)


def test_files_are_there_from_the_first_context_on(tmp_path: Path) -> None:
    class Reads(Observer):
        def context_done(self, cells: Sequence[Cell]) -> None:
            if cells[0].after_context == 1:
                found = results.load(tmp_path)
                assert found.problems == []
                assert summary(tmp_path)["status"] == "running"
                assert sorted(set(found.cells["after_context"])) == [0, 1]

    run(setting(*SHORT, "regularizer=ewc"), tmp_path, Reads())
    assert summary(tmp_path)["status"] == "finished"


def test_a_folder_of_seeds_is_of_one_setting_and_of_no_single_run(tmp_path: Path) -> None:
    config = setting(*SHORT, "regularizer=none", "benchmark.iters=1", "seeds=1")
    run_seeds(config, tmp_path, lambda *_: None)
    before = (tmp_path / "seeds.csv").read_bytes()
    other = setting(*SHORT, "regularizer=l2", "benchmark.iters=1", "seed=5", "seeds=1")
    with pytest.raises(InputError, match=r"seed-0: holds a run of another setting \(regularizer: none there, l2 now"):
        run_seeds(other, tmp_path, lambda *_: None)
    for more in ("resume=true", "resume=false"):
        single = setting(*SHORT, "regularizer=none", more)
        with pytest.raises(InputError, match=r"holds the results of several seeds; expected another folder\."):
            resuming.refuse_others(single, tmp_path)
        with pytest.raises(InputError, match=r"holds results already \(seeds\.csv\)"):
            run(single, tmp_path)
    assert (tmp_path / "seeds.csv").read_bytes() == before


def test_several_seeds_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = setting(*SHORT, "regularizer=si", "seeds=3")
    run_seeds(config, tmp_path, lambda *_: None)
    whole = (tmp_path / "seeds.csv").read_bytes()
    (tmp_path / "seed-2" / "summary.csv").unlink()
    (tmp_path / "seed-1" / "summary.csv").unlink()
    (tmp_path / "seed-1" / "accuracy.csv").unlink()
    stopped(resuming.runs(config, tmp_path)[1][0], tmp_path / "seed-1", 1)
    capsys.readouterr()
    run_seeds(config, tmp_path, lambda *_: None)
    printed = capsys.readouterr().out
    assert "seed 0: finished already" in printed
    assert "going on after context 1 of 3" in printed
    assert (tmp_path / "seeds.csv").read_bytes() == whole


def test_a_setting_is_written_that_says_what_decides(tmp_path: Path) -> None:
    finished(setting(*SHORT, "regularizer=ewc"), tmp_path)
    written = json.loads((tmp_path / "setting.json").read_text())
    assert written["iters"] == 4
    assert written["regularizer"] == "ewc"
    assert not {"figures", "threads", "device", "resume", "keep_checkpoints", "search"} & written.keys()


def test_a_checkpoint_is_read_without_unpickling(tmp_path: Path) -> None:
    stopped(setting(*SHORT, method_file(tmp_path, FORGETFUL)), tmp_path / "run", 1)
    (path,) = kept(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    assert content["learned"] == 1


def test_what_a_kill_has_left_half_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = (*SHORT, "regularizer=ewc", f"hydra.run.dir={tmp_path / 'run'}")
    stopped(setting(*SHORT, "regularizer=ewc"), tmp_path / "run", 2)

    def leave() -> None:
        (tmp_path / "run" / ".accuracy.csv.0123abcd.partial").write_text("run_id,")
        (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "run" / "checkpoints" / ".context-03.pt.0123abcd.partial").write_bytes(b"PK")

    for _ in ("before the end of the run", "between its end and that of its process"):
        leave()
        assert command(monkeypatch, *typed) == 0
        assert not (tmp_path / "run" / "checkpoints").exists()
        assert list((tmp_path / "run").rglob("*.partial")) == []


def test_figures_that_a_finished_run_has_not_drawn_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = (*SHORT, "regularizer=ewc", "figures=true", f"hydra.run.dir={tmp_path}")
    names = ("accuracy_matrix.png", "curves.png")
    finished(setting(*SHORT, "regularizer=ewc"), tmp_path)  # killed before it drew
    assert command(monkeypatch, *typed) == 0
    assert "accuracy_matrix.png, curves.png" in capsys.readouterr().out
    drawn = [(tmp_path / name).stat().st_mtime_ns for name in names]
    assert command(monkeypatch, *typed) == 0
    assert "curves.png" not in capsys.readouterr().out
    assert [(tmp_path / name).stat().st_mtime_ns for name in names] == drawn  # once is enough
