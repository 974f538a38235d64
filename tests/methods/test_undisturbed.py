"""`clsweep.methods.undisturbed`: what a method's functions leave behind is put back, or refused by name."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    dataset,
    examples,
    file_method,
    finished,
    learner,
    method,
    network,
    regularizer,
    step,
    stream,
    trained,
    write,
)

from clsweep import methods
from clsweep.errors import MethodError
from clsweep.methods.contract import FileMethod
from clsweep.methods.undisturbed import Network, settings_put_back
from clsweep.seeding import generator_states

# Both functions run `statement` after they have used the network, and are otherwise l2's.
LEAVING = """
import os, sys, warnings
import numpy as np
import torch

def keyed(model):
    return {{n.replace(".", "__"): p for n, p in model.named_parameters()}}

def estimate_importance(model, dataset, prev_params, device):
    importance = {{key: torch.ones_like(value) for key, value in prev_params.items()}}
    {statement}
    return importance

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    penalty = sum(((p - prev_params_dict[key]) ** 2).sum() for key, p in keyed(model).items())
    {statement}
    return penalty
"""

SETTINGS = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "grad mode": "torch.set_grad_enabled(False)",
    "no_grad that is not left": "torch.no_grad().__enter__()",
    "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "autocast that is not left": "torch.autocast('cpu', torch.bfloat16).__enter__()",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "cudnn": "torch.backends.cudnn.benchmark = True",
    "anomalies": "torch.autograd.set_detect_anomaly(True)",
    "numpy errors": "np.seterr(all='raise')",
    "warnings": "warnings.simplefilter('ignore')",
    "folder": "os.chdir('/')",
    "path": "sys.path.insert(0, '/nowhere')",
    "stdout": "sys.stdout = sys.stderr",
}


def depth_of_autocast() -> int:
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth - 1


def settings() -> list[object]:
    cudnn = torch.backends.cudnn
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.is_autocast_enabled("cpu"),
        depth_of_autocast(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        torch.is_anomaly_enabled(),
        np.geterr(),
        list(warnings.filters),
        os.getcwd(),  # noqa: PTH109
        list(sys.path),
        sys.stdout,
    ]


def call_both(made: FileMethod) -> None:
    made.end_context(finished(made.model))
    made.penalty(is_first=False)


@pytest.mark.parametrize("statement", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_the_process_are_put_back(tmp_path: Path, statement: str) -> None:
    made = regularizer(tmp_path, LEAVING.format(statement=statement))
    before = settings()
    with settings_put_back():  # whatever goes wrong here must not reach other tests
        call_both(made)
        assert settings() == before


def test_weights_that_were_cast_are_cast_again_after_an_autocast_that_was_not_left() -> None:
    layer, inputs = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with settings_put_back():
        torch.autocast("cpu", torch.bfloat16).__enter__()
        layer(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        layer(inputs)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).abs().sum() == 0


def test_settings_that_were_put_back_are_named() -> None:
    with settings_put_back() as changed:
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
    assert changed == ["torch's default dtype", "the current folder"]


def test_a_folder_that_is_gone_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with settings_put_back() as changed:
        os.chdir(tmp_path)
    assert changed == ["the current folder"]


TRAINED_ALIKE = {
    "active outputs": "model.head.active = range(2)",
    "modes": "model.eval()",
    "the head's mode": "model.head.eval()",
    "settings": "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); os.chdir('/')",
    "buffers written": "[b.data.add_(1) for b in model.norms.buffers()]",
    "buffers replaced": "model.norms[0].running_mean = torch.full((3,), 9.0)",
    "buffers deleted": "del model.norms[0].running_var",
    "buffers resized": "model.norms[0].running_mean.data = torch.zeros(7)",
    "buffers of another type": "[m.double() for m in [torch.nn.BatchNorm2d(3)]]; model.norms[0]._buffers.update({"
    "k: b.double() for k, b in model.norms[0]._buffers.items()})",
    "a hook that does nothing": "model.head.register_forward_hook(lambda *_: None)",
}


@pytest.mark.parametrize("statement", TRAINED_ALIKE.values(), ids=TRAINED_ALIKE)
def test_a_method_that_leaves_something_behind_trains_as_one_that_does_not(tmp_path: Path, statement: str) -> None:
    given, expected = (
        trained(file_method(write(tmp_path, LEAVING.format(statement=each))), stream("task"), "cnn", iters=3)
        for each in (statement, "pass")
    )
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), expected.parameters(), strict=True))
    buffers = dict(given.named_buffers())
    assert buffers.keys() == dict(expected.named_buffers()).keys()
    assert all(torch.equal(buffers[name], value) for name, value in expected.named_buffers())


# ---- what is the method's own

RUNNING = """
import torch

def new(model):
    return {{n.replace(".", "__"): p.detach() ** 2 for n, p in model.named_parameters()}}

def estimate_importance(model, dataset, prev_params, device):
    before = {{key: {kept}.clone() for key in new(model)}} if hasattr(model, "started") else {{}}
    if not before:
        model.started = True
        for key, value in new(model).items():
            {start}
    for key, value in new(model).items():
        {kept}.mul_(0.5).add_(value)
    return {{key: {kept} - before.get(key, 0) for key in new(model)}}

KEPT = {{}}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    named = {{n.replace(".", "__"): p for n, p in model.named_parameters()}}
    return sum((importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum() for key, p in named.items())
"""


def test_what_a_method_keeps_in_a_buffer_is_what_it_keeps_in_a_dict(tmp_path: Path) -> None:
    in_buffers = RUNNING.format(
        kept="getattr(model, 'running_' + key)",
        start="model.register_buffer('running_' + key, torch.zeros_like(value))",
    )
    in_dict = RUNNING.format(kept="KEPT[key]", start="KEPT[key] = torch.zeros_like(value)")
    given, expected = (
        trained(file_method(write(tmp_path, source), reg_strength=5.0), stream("task"), "cnn")
        for source in (in_buffers, in_dict)
    )
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), expected.parameters(), strict=True))
    assert len(list(given.buffers())) == len(list(expected.buffers())) + len(list(given.parameters()))


def test_a_counter_in_a_buffer_counts(tmp_path: Path) -> None:
    source = """
import torch
def estimate_importance(model, dataset, prev_params, device):
    if not hasattr(model, "done"):
        model.register_buffer("done", torch.zeros(()))
    model.done.add_(1)
    return {}
def compute_regularization_loss(model, importance_dict, prev_params_dict):
    model.done.add_(100)
    return model.head.bias.sum()
"""
    model = trained(file_method(write(tmp_path, source)), iters=2)
    assert model.get_buffer("done").item() == 3 + 4 * 100


TEACHER = """
import copy
import torch

def estimate_importance(model, dataset, prev_params, device):
    forget(model)
    keep(model, copy.deepcopy(model).eval().requires_grad_(False))
    return {}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    x = torch.ones(4, 1, 4, 4).cumsum(0)
    return (model(x) - kept(model)(x)).square().mean()
"""
KEPT = {
    "as a submodule": """
def forget(model): model.old = None
def keep(model, old): model.old = old
def kept(model): return model.old
""",
    "outside": """
STATE = {}
def forget(model): STATE.clear()
def keep(model, old): STATE["old"] = old
def kept(model): return STATE["old"]
""",
}


def test_a_teacher_stays_in_eval_mode_wherever_it_is_kept(tmp_path: Path) -> None:
    given, expected = (
        trained(file_method(write(tmp_path, TEACHER + where), reg_strength=10.0), stream("domain"), "cnn")
        for where in KEPT.values()
    )
    assert not given.get_submodule("old").training
    names = [name for name, _ in expected.named_parameters()]
    assert all(torch.equal(given.get_parameter(name), expected.get_parameter(name)) for name in names)


# ---- what can't be put back

LOST = {
    "model.double()": ("hidden.0.weight with torch.float64", "expected torch.float32"),
    "model.head.weight = torch.nn.Parameter(torch.zeros(6, 7))": ("own parameter head.weight", "copy_()"),
    "del model.head.bias": ("own parameter head.bias", "copy_()"),
    "model.head.weight.data = torch.zeros(3, 7)": ("head.weight with shape (3, 7)", "expected shape (6, 7)"),
    "model.hidden = torch.nn.ModuleList([torch.nn.Linear(16, 7)])": ("own layer hidden", "expected it to stay"),
    "model._old = model": ("left the network inside itself, as model._old;", "copy.deepcopy(model)"),
    "model.head.old = torch.nn.Sequential(model)": ("as model.head.old.0;", "copy.deepcopy(model)"),
}


@pytest.mark.parametrize("function", ["estimate_importance", "compute_regularization_loss"])
@pytest.mark.parametrize(("statement", "expected"), LOST.items(), ids=LOST)
def test_what_cannot_be_put_back_is_refused_by_file_function_and_name(
    tmp_path: Path, function: str, statement: str, expected: tuple[str, str]
) -> None:
    other = {"estimate_importance": "compute_regularization_loss"}.get(function, "estimate_importance")
    source = LEAVING.format(statement=statement)
    parts = source.split("def ")
    source = "def ".join(part.replace(statement, "pass") if part.startswith(other) else part for part in parts)
    made = regularizer(tmp_path, source)
    made.model.head.bias.grad = torch.ones(6)
    with pytest.raises(MethodError) as raised:
        call_both(made)
    message = str(raised.value)
    assert [part for part in (f"method.py: {function} left", *expected) if part not in message] == []


# ---- hooks

HOOKED = """
import torch

def estimate_importance(model, dataset, prev_params, device):
    def hook(*_):
        raise ValueError("as planned")
    model.head.weight.register_hook(hook) if {backward} else model.hidden[0].register_forward_hook(hook)
    return {{}}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return model.head.bias.sum()
"""


@pytest.mark.parametrize("backward", [False, True])
def test_a_hook_that_raises_is_the_methods_failure_with_its_line(tmp_path: Path, backward: bool) -> None:
    with pytest.raises(MethodError) as raised:
        trained(file_method(write(tmp_path, HOOKED.format(backward=backward))))
    message = str(raised.value)
    assert f"{tmp_path / 'method.py'}, line 6: " in message
    assert "ValueError: as planned" in message


# ---- declarations that don't hold

IMPURE = {
    "model.eval()": "train or eval mode",
    "model.head.active = range(2)": "the active outputs",
    "torch.rand(1)": "random number generators",
    "model.head.bias.square().sum().backward()": "gradients",
    "model.head.requires_grad_(False)": "requires_grad",
    "model(torch.ones(2, 1, 4, 4))": "buffers",
    "torch.set_default_dtype(torch.float64); os.chdir('/')": "torch's default dtype and the current folder",
}


@pytest.mark.parametrize(("statement", "expected"), IMPURE.items(), ids=IMPURE)
def test_a_penalty_that_is_declared_to_be_pure_and_is_not_is_refused(
    tmp_path: Path, statement: str, expected: str
) -> None:
    source = LEAVING.format(statement=statement) + "\nPENALTY_IS_PURE = True\n"
    made = learner(file_method(write(tmp_path, source)), network("cnn"))
    inputs, labels = dataset().tensors
    made.start_context()
    made.step(inputs, labels)
    made.end_context(dataset())
    made.start_context()
    with pytest.raises(MethodError, match=f"compute_regularization_loss changed {expected}, though PENALTY_IS_PURE"):
        made.step(inputs, labels)


@pytest.mark.parametrize("name", methods.names())
def test_no_built_in_penalty_changes_anything(name: str) -> None:
    """Nothing is put back after it."""
    data = examples(12)
    model = network("cnn")
    belongs = Network(model)
    made = learner(method(name), model)
    for _ in range(2):
        made.start_context(examples=12)
        step(made, *data)
        made.end_context(dataset())
    model.train()
    logits = model(data[0])
    before = generator_states()
    with belongs.undisturbed() as changed, settings_put_back() as settings:
        if made.method.takes_outputs:
            made.method.see_outputs(logits, logits.detach())
        made.method.penalty(is_first=True)
    assert generator_states() == before
    assert changed + settings == []


# ---- the dicts of the penalty

ANCHORED = """
import torch

def keyed(model):
    return {n.replace(".", "__"): p for n, p in model.named_parameters()}

def estimate_importance(model, dataset, prev_params, device):
    {estimate}
    return {key: torch.ones_like(p) for key, p in keyed(model).items()}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    {penalty}
    return sum((importance_dict[k] * (p - prev_params_dict[k]) ** 2).sum() for k, p in keyed(model).items())

def {name}(model, importance_dict, prev_params_dict):
    {more}
"""
TRANSFORM, QUADRATIC = "transform_gradients", "quadratic_penalty"
WRITING = {
    "prev_params_dict['head__bias'].mul_(0.99)": "changed prev_params_dict['head__bias'] in place",
    "prev_params_dict['head__bias'].sub_(model.head.bias.detach()).square()": "changed prev_params_dict['head__bias']",
    "prev_params_dict['head__bias'].data += 1": "changed prev_params_dict['head__bias'] in place",
    "importance_dict['head__bias'].div_(2)": "changed importance_dict['head__bias'] in place",
    "model._custom_importance['head__bias'].div_(2)": "changed importance_dict['head__bias'] in place",
    "importance_dict['head__bias'] = importance_dict['head__bias'] / 2": "replaced importance_dict['head__bias']",
    "importance_dict.pop('head__bias'); return model.head.bias.sum()": "removed importance_dict['head__bias']",
}


def anchored_source(name: str = "other", *, estimate: str = "pass", penalty: str = "pass", more: str = "pass") -> str:
    parts = {"estimate": estimate, "penalty": penalty, "name": name, "more": more}
    text = ANCHORED
    for key, value in parts.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def assert_refused(folder: Path, source: str, expected: str) -> None:
    with pytest.raises(MethodError) as raised:
        trained(file_method(write(folder, source)))
    assert expected in str(raised.value)


@pytest.mark.parametrize("pure", ["", "PENALTY_IS_PURE = True\n"])
@pytest.mark.parametrize(("statement", "expected"), WRITING.items(), ids=WRITING)
def test_a_penalty_that_writes_to_its_dicts_is_refused(
    tmp_path: Path, statement: str, expected: str, pure: str
) -> None:
    source = pure + anchored_source(penalty=statement)
    assert_refused(tmp_path, source, f"method.py: compute_regularization_loss {expected}")


@pytest.mark.parametrize("name", [TRANSFORM, QUADRATIC])
def test_so_is_any_other_function_that_gets_them(tmp_path: Path, name: str) -> None:
    more = (
        f"{{}} if not importance_dict else importance_dict['head__bias'].div_(2); "
        f"return {'None' if name == TRANSFORM else 'importance_dict, prev_params_dict'}"
    )
    expected = f"method.py: {name} changed importance_dict['head__bias'] in place; expected a copy"
    assert_refused(tmp_path, anchored_source(name, more=more), expected)


@pytest.mark.parametrize(
    "statement",
    [
        "[value.mul_(0.9) for value in model._custom_importance.values()]",
        "model._custom_importance = {}",
        "[value.sub_(1).abs_() for value in prev_params.values()]",
    ],
)
def test_the_estimate_may_change_what_nobody_reads_again_or_what_it_decides(tmp_path: Path, statement: str) -> None:
    trained(file_method(write(tmp_path, anchored_source(estimate=statement))))
