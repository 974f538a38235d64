"""What a file sees at every step: the batch, and the gradients, which it may change."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import dataset, examples, file_method, learner, network, trained, write
from torch import Tensor

from clsweep.errors import InputError, MethodError, NotFiniteError
from clsweep.networks import Classifier
from clsweep.parameters import NamedTensors, contract_parameters
from clsweep.seeding import generator_states
from clsweep.training.learner import Learner

SPRINGS = """
import os
import random
import numpy as np
import torch

def keyed(model):
    return {n.replace(".", "__"): p for n, p in model.named_parameters()}

def estimate_importance(model, dataset, prev_params, device):
    return {key: torch.full_like(p, 2.0) for key, p in keyed(model).items()}

PENALIZED = []

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    if hasattr(model, "_custom_batch"):
        PENALIZED.append(model._custom_batch)
    return sum((importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum() for key, p in keyed(model).items())
"""
TRANSFORM = "\ndef transform_gradients(model, importance_dict, prev_params_dict):\n"
QUADRATIC = """
def quadratic_penalty(model, importance_dict, prev_params_dict):
    return importance_dict, prev_params_dict
"""
RECORDS = (
    f"{SPRINGS}\nSEEN = []\n{TRANSFORM}"
    "    SEEN.append({key: p.grad.clone() for key, p in keyed(model).items()})\n"
    "    CARRIED.append((dict(importance_dict), dict(prev_params_dict)))\n"
    "    BATCHES.append(model._custom_batch)\n"
    "CARRIED, BATCHES = [], []\n"
)


def module_of(made: Learner, file: Path) -> Any:
    """The module that the file is in a learner's method."""
    with made.method.active():
        return sys.modules[f"clsweep_custom_{file.stem}"]


def total_gradients(model: Classifier, inputs: Tensor, labels: Tensor, penalty: Tensor | float) -> NamedTensors:
    parameters = contract_parameters(model)
    loss = F.cross_entropy(model(inputs), labels) + penalty
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


# ---- transform_gradients


@pytest.mark.parametrize("more", ["", QUADRATIC], ids=["any penalty", "quadratic"])
def test_it_is_called_at_every_step_with_the_gradients_of_the_total_loss(tmp_path: Path, more: str) -> None:
    file = write(tmp_path, RECORDS + more)
    made = learner(file_method(file, reg_strength=5.0))
    module = module_of(made, file)
    expected, carried, batches = [], [], []
    for number in range(3):
        made.start_context()
        for step in range(2):
            inputs, labels = examples(6, seed=10 * number + step)
            importance, anchors = dict(made.model._custom_importance), dict(made.model._custom_prev_params)
            named = contract_parameters(made.model)
            terms = [(value * (named[key] - anchors[key]) ** 2).sum() for key, value in importance.items()]
            penalty = 5.0 * torch.stack(terms).sum() if terms else 0.0
            expected.append(total_gradients(made.model, inputs, labels, penalty))
            carried.append((importance, anchors))
            batches.append((inputs, labels))
            made.step(inputs, labels)
        made.end_context(dataset())
    assert len(module.SEEN) == len(expected) == 6
    for given, one in zip(module.SEEN, expected, strict=True):
        torch.testing.assert_close(given, one, rtol=1e-4, atol=1e-6)
    assert [[list(part) for part in pair] for pair in module.CARRIED] == [[list(p) for p in pair] for pair in carried]
    assert module.CARRIED[0] == ({}, {})
    assert all(a is c and b is d for (a, b), (c, d) in zip(module.BATCHES, batches, strict=True))


def test_it_changes_what_is_applied(tmp_path: Path) -> None:
    """One that sets a gradient to zero leaves the parameter where it is, in all contexts and in the path integral."""
    zeroes = f"{SPRINGS}{TRANSFORM}    model.head.weight.grad.zero_()\n    model.head.bias.grad = None\n"
    made = learner(file_method(write(tmp_path, zeroes)))
    start = {key: p.detach().clone() for key, p in contract_parameters(made.model).items()}
    for number in range(2):
        made.start_context()
        for step in range(2):
            made.step(*examples(6, seed=10 * number + step))
        totals = made.method.path.totals
        assert {key for key, value in totals.items() if value.any()} == {"hidden__0__weight", "hidden__0__bias"}
        made.end_context(dataset())
    end = contract_parameters(made.model)
    assert {key for key, p in end.items() if torch.equal(p, start[key])} == {"head__weight", "head__bias"}


def test_gradients_put_there_are_those_that_the_optimizer_gets(tmp_path: Path) -> None:
    clipped = f"{SPRINGS}{TRANSFORM}    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)\n"
    replaced = f"""{SPRINGS}{TRANSFORM}
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    for p in model.parameters():
        p.grad = p.grad * (1e-3 / (norm + 1e-6)).clamp(max=1)
"""
    plain, first, second = (
        trained(file_method(write(tmp_path, source)), name="cnn") for source in (SPRINGS, clipped, replaced)
    )
    for a, b, other in zip(first.parameters(), second.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        assert not torch.equal(a, other)


def test_one_that_does_nothing_trains_as_without_it(tmp_path: Path) -> None:
    nothing, without = (
        trained(file_method(write(tmp_path, source)), name="cnn")
        for source in (SPRINGS + TRANSFORM + "    pass\n", SPRINGS)
    )
    assert all(torch.equal(a, b) for a, b in zip(nothing.parameters(), without.parameters(), strict=True))


DISTURBS = """
    model.eval()
    model.head.active = range(1)
    model.head.requires_grad_(False)
    [b.data.add_(1) for b in model.norms.buffers()]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    os.chdir("/")
"""


def test_modes_flags_buffers_random_numbers_and_settings_are_put_back(tmp_path: Path) -> None:
    disturbing, plain = (
        trained(file_method(write(tmp_path, SPRINGS + more)), name="cnn") for more in (TRANSFORM + DISTURBS, "")
    )
    assert all(torch.equal(a, b) for a, b in zip(disturbing.parameters(), plain.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(disturbing.buffers(), plain.buffers(), strict=True))
    made = learner(file_method(write(tmp_path, SPRINGS + TRANSFORM + DISTURBS)), network("cnn"))
    made.start_context()
    buffers = {name: value.clone() for name, value in made.model.named_buffers()}
    before = generator_states(), Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()
    made.method.transform()
    assert (generator_states(), Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()) == before
    assert all(module.training for module in made.model.modules())
    assert all(p.requires_grad for p in made.model.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in made.model.named_buffers())


def test_it_draws_random_numbers_of_its_own(tmp_path: Path) -> None:
    drawing = (
        f"{SPRINGS}{TRANSFORM}    DRAWN.append((torch.rand(1).item(), np.random.rand(), random.random()))\nDRAWN = []\n"
    )
    file = write(tmp_path, drawing)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        made = learner(file_method(file))
        made.start_context()
        for step in range(3):
            made.step(*examples(6, seed=step))
        drawn.append(module_of(made, file).DRAWN)
    assert drawn[0] == drawn[1]
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn[0], strict=True))


@pytest.mark.parametrize(("context", "when"), [(0, ", in the first context, where both dicts are empty,"), (1, "")])
def test_what_it_raises_is_said_with_its_line(tmp_path: Path, context: int, when: str) -> None:
    raising = f"if len(model.contexts) == {context}: raise ValueError('as planned')"
    counting = "    model.contexts = prev_params_dict and [0]\n"
    file = write(tmp_path, f"{TRANSFORM}{counting}    {raising}\n" + SPRINGS)
    made = learner(file_method(file))
    for _ in range(context):
        made.start_context()
        made.step(*examples(6))
        made.end_context(dataset())
    made.start_context()
    with pytest.raises(MethodError) as raised:
        made.step(*examples(6))
    assert str(raised.value) == (
        f"{file}, line 4: transform_gradients{when} raised ValueError: as planned (the traceback is in the run's log)."
    )


@pytest.mark.parametrize("statement", ["p.grad.div_(p.grad.sum() * 0)", "p.grad = (p.grad / 0).to_sparse()"])
def test_nan_that_it_makes_of_finite_gradients_is_its_own(tmp_path: Path, statement: str) -> None:
    file = write(tmp_path, f"{SPRINGS}{TRANSFORM}    p = model.head.weight\n    {statement}\n")
    made = learner(file_method(file))
    made.start_context()
    with pytest.raises(NotFiniteError) as raised:
        made.step(*examples(6))
    expected = (
        f"{file}: transform_gradients left NaN or infinity in the gradient of head.weight, which was finite before;"
    )
    assert str(raised.value).startswith(expected)


def test_nan_that_was_there_before_is_not_its_own(tmp_path: Path) -> None:
    made = learner(file_method(write(tmp_path, f"{SPRINGS}{TRANSFORM}    pass\n")))
    made.start_context()
    inputs, labels = examples(6)
    assert made.step(inputs * torch.nan, labels).isnan()


def test_sparse_gradients_count_as_the_dense_ones(tmp_path: Path) -> None:
    sparse, dense = (
        trained(file_method(write(tmp_path, f"{SPRINGS}{TRANSFORM}    for p in model.parameters(): {statement}\n")))
        for statement in ("p.grad = p.grad.to_sparse()", "pass")
    )
    assert all(torch.equal(a, b) for a, b in zip(sparse.parameters(), dense.parameters(), strict=True))


def test_a_network_that_it_takes_apart_is_refused(tmp_path: Path) -> None:
    made = learner(
        file_method(write(tmp_path, f"{SPRINGS}{TRANSFORM}    model.head.bias = torch.nn.Parameter(torch.zeros(6))\n"))
    )
    made.start_context()
    with pytest.raises(
        MethodError, match=r"method\.py: transform_gradients left the network without its own parameter"
    ):
        made.step(*examples(6))


def test_one_with_other_arguments_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, f"{SPRINGS}\ndef transform_gradients(model): ...\n")
    with pytest.raises(InputError) as raised:
        learner(file_method(file))
    assert str(raised.value) == (
        f"{file}: transform_gradients cannot be called with 3 arguments (too many positional arguments); expected "
        "transform_gradients(model, importance_dict, prev_params_dict)."
    )


# ---- the batch


def test_the_batch_of_every_step_is_on_the_model(tmp_path: Path) -> None:
    file = write(tmp_path, SPRINGS)
    made = learner(file_method(file))
    module = module_of(made, file)
    given = []
    for number in range(2):
        made.start_context()
        for step in range(3):
            inputs, labels = examples(6, seed=10 * number + step)
            made.step(inputs, labels)
            batch: Any = made.model._custom_batch
            assert batch[0] is inputs
            assert batch[1] is labels
            given.append(inputs)
        made.end_context(dataset())
    assert len(module.PENALIZED) == 3  # the first context has no penalty
    assert all(seen is inputs for (seen, _), inputs in zip(module.PENALIZED, given[3:], strict=True))


def test_a_penalty_may_be_of_the_batch(tmp_path: Path) -> None:
    """Distillation: the outputs of before on what is learned now."""
    source = """
import copy

def estimate_importance(model, dataset, prev_params, device):
    model.old = None
    model.old = copy.deepcopy(model).eval().requires_grad_(False)
    return {}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    inputs, labels = model._custom_batch
    assert len(inputs) == len(labels)
    return (model(inputs) - model.old(inputs)).square().mean()
"""
    loose, tight = (trained(file_method(write(tmp_path, source), reg_strength=strength)) for strength in (0.0, 100.0))
    assert not torch.equal(loose.head.weight, tight.head.weight)
