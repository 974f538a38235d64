"""`contract.logits=all`: a method sees the logits of all classes, and training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLASSES, OUTPUTS, dataset, examples, file_method, method, network, optimizer, write

from clsweep.config import RegularizerConfig
from clsweep.methods.base import Anchored
from clsweep.methods.loading import load
from clsweep.parameters import snapshot
from clsweep.training.learner import Learner

SEEING = """
import torch

def estimate_importance(model, dataset, prev_params, device):
    inputs, labels = dataset.tensors
    model.shape, model.labels = model(inputs).shape, labels.unique().tolist()
    return {n.replace(".", "__"): torch.ones_like(p) for n, p in model.named_parameters()}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    inputs, labels = model._custom_batch
    model.seen = model(inputs).shape, labels.unique().tolist()
    return sum(((p - prev_params_dict[n.replace(".", "__")]) ** 2).sum() for n, p in model.named_parameters())
"""


def trained(config: RegularizerConfig, *, shows_all: bool) -> Learner:
    made = Learner(network(), load(config).method, optimizer(), "float32", shows_all=shows_all)
    for number in range(2):
        made.activate(range(CLASSES * number, CLASSES * (number + 1)))
        made.start_context()
        for step in range(3):
            made.step(*examples(6, seed=10 * number + step))
        made.end_context(dataset(9, seed=number))
    return made


def test_a_file_sees_all_logits_and_labels_that_count_over_them(tmp_path: Path) -> None:
    config = file_method(write(tmp_path, SEEING), reg_strength=2.0)
    active, every = (trained(config, shows_all=shown) for shown in (False, True))
    seen: list[Any] = [active.model, every.model]
    assert [(tuple(model.shape), model.labels) for model in seen] == [((9, CLASSES), [0, 1]), ((9, OUTPUTS), [2, 3])]
    shape, labels = seen[1].seen
    assert (tuple(shape), labels) == ((6, OUTPUTS), [2, 3])
    same = zip(snapshot(active.model).items(), snapshot(every.model).values(), strict=True)
    for (key, one), other in same:
        torch.testing.assert_close(one, other, msg=key)


@pytest.mark.parametrize("name", ["ewc", "online_ewc"])
def test_a_built_in_methods_fisher_is_that_of_the_softmax_over_what_it_sees(name: str) -> None:
    """Row k of a linear head's bias has the information E[p_k (1 - p_k)], whatever the label."""
    for shown in (False, True):
        made = Learner(network(), load(method(name)).method, optimizer(), "float32", shows_all=shown)
        made.activate(range(CLASSES))
        made.start_context()
        made.step(*examples(6, seed=1))
        seen = dataset(9, seed=2)
        with torch.no_grad():
            p = made.model(seen.tensors[0]).softmax(1)
        made.end_context(seen)
        expected = torch.zeros(OUTPUTS)
        expected[: p.shape[1]] = (p * (1 - p)).mean(0)
        assert isinstance(made.method, Anchored)
        torch.testing.assert_close(made.method.importance["head__bias"], expected)


@pytest.mark.parametrize("name", ["ewc", "si", "kfac_ewc"])
def test_accuracy_is_of_the_active_classes_in_any_case(name: str) -> None:
    made = trained(method(name), shows_all=True)
    inputs, labels = examples(20, seed=5)
    made.activate(range(CLASSES))
    with made.evaluating():
        assert made.logits(inputs).shape == (20, CLASSES)
        assert made.model(inputs).shape == (20, OUTPUTS)
        right = (made.model(inputs)[:, :CLASSES].argmax(1) == labels).sum()
        over_all = (made.model(inputs).argmax(1) == labels).sum()
        assert made.correct(inputs, labels) == right
        assert right > over_all  # some examples look like a class of the other context
