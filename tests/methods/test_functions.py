"""`clsweep.methods.functions`: whether two objects are the same method."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clsweep.methods.functions import Functions


def made(factor: Any, default: float = 1.0) -> Functions:
    def estimate_importance(model: Any, dataset: Any, prev_params: Any, device: Any) -> dict[str, Any]:
        return {"factor": factor}

    def compute_regularization_loss(model: Any, importance: Any, anchors: Any, scale: float = default) -> Any:
        return scale

    return Functions.of((estimate_importance, compute_regularization_loss))


def digest(functions: Functions) -> str:
    return functions.digest("sha256")


def test_what_a_function_closes_over_and_its_defaults_belong_to_it() -> None:
    assert digest(made(1.0)) == digest(made(1.0))
    assert digest(made([1, {"a": (2.0,)}])) == digest(made([1, {"a": (2.0,)}]))
    others = [2.0, "1.0", [1.0], torch.ones(2), torch.zeros(2), np.ones(2), np.zeros(2)]
    digests = {digest(made(one)) for one in [1.0, *others]} | {digest(made(1.0, default=3.0))}
    assert len(digests) == len(others) + 2
    assert digest(made(torch.ones(2))) == digest(made(torch.ones(2)))


def test_what_cannot_be_compared_is_another_method_each_time() -> None:
    assert digest(made(Lock())) != digest(made(Lock()))
    assert digest(made(Path("a"))) == digest(made(Path("a"))) != digest(made(Path("b")))


POWER, TABLE, LOG = 1.0, [1, 2], Lock()


def weights(scale: float) -> float:
    LOG.acquire(blocking=False)
    return float(scale**POWER) * len(TABLE)


def with_helper(model: Any, importance: Any, anchors: Any) -> float:
    return weights(2.0)


class Mine:
    SCALE = 1.0

    def __init__(self) -> None:
        self.kept = {"a": 1}

    @staticmethod
    def helper(scale: float) -> float:
        return scale

    def estimate_importance(self, model: Any, dataset: Any, prev_params: Any, device: Any) -> float:
        return self.helper(self.SCALE)

    compute_regularization_loss = with_helper


class Derived(Mine):
    pass


def test_what_a_function_calls_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The globals that it names, and those that what it calls names: a notebook's cells that are run again."""
    here = sys.modules[__name__]
    functions = Functions.of((with_helper, with_helper))
    first = digest(functions)
    assert digest(functions) == first
    changes: list[tuple[str, Any]] = [("POWER", 2.0), ("TABLE", [1, 3]), ("weights", lambda scale: scale)]
    for name, value in changes:
        with monkeypatch.context() as changed:
            changed.setattr(here, name, value)
            assert digest(functions) != first
    with monkeypatch.context() as changed:
        changed.setattr(here, "LOG", Lock())  # a log, say, which can't be compared
        changed.setattr(here, "digest", None)  # which none of them names
        assert Functions.digest(functions, "sha256") == first


@pytest.mark.parametrize("method", [Mine, Mine(), Derived, Derived()])
def test_the_class_of_an_object_belongs_to_it(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions.of(method)
    first = digest(functions)
    assert digest(functions) == first
    changes: list[tuple[str, Any]] = [("SCALE", 2.0), ("helper", staticmethod(lambda scale: 0.0))]
    for name, value in changes:
        with monkeypatch.context() as changed:
            changed.setattr(Mine, name, value)
            assert digest(functions) != first
    assert digest(functions) == first


def test_a_module_of_ones_own_is_what_is_used_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_helpers")
    module.__file__ = __file__
    vars(module).update(factor=1.0, other=1.0)
    monkeypatch.setitem(globals(), "my_helpers", module)
    functions = Functions.of((of_module, of_module))
    first = digest(functions)
    vars(module)["other"] = 2.0
    assert digest(functions) == first
    vars(module)["factor"] = 2.0
    assert digest(functions) != first


def of_module(model: Any, importance: Any, anchors: Any) -> float:
    return my_helpers.factor  # type: ignore[name-defined, no-any-return] # noqa: F821


def test_it_takes_no_time_where_functions_share_what_they_call() -> None:
    """Each of 60 calls the two before it: written out, they would be more than anything can hold."""
    space: dict[str, Any] = {"f0": weights, "f1": weights}
    for number in range(2, 60):
        exec(f"def f{number}(): return f{number - 1}() + f{number - 2}()", space)
    assert len(digest(Functions.of((space["f59"], space["f59"])))) == 64


def test_the_attributes_of_an_object_belong_to_it() -> None:
    functions = made(1.0).functions
    one, other, again = (SimpleNamespace(**vars(functions), weights=[w]) for w in (1.0, 2.0, 1.0))
    assert digest(Functions.of(one)) != digest(Functions.of(other))
    assert digest(Functions.of(one)) == digest(Functions.of(again))


def test_a_function_that_holds_itself_has_a_digest() -> None:
    kept: list[Any] = []
    functions = made(kept)
    kept.append(functions.functions.estimate_importance)
    assert digest(functions) == digest(functions)


def test_it_is_called_by_the_functions_own_name() -> None:
    assert made(1.0).shown == "compute_regularization_loss"
