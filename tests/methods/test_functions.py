"""`clsweep.methods.functions`: whether two objects are the same method."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
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
    assert digest(made(object())) != digest(made(object()))


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
