"""A network's parameters by the contract's keys: their names with `.` replaced by `__`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from clsweep.networks import Classifier

NamedTensors = dict[str, Tensor]


def contract_parameters(model: Classifier) -> dict[str, nn.Parameter]:
    """The parameters of `model.param_list` under their keys."""
    return {name.replace(".", "__"): p for group in model.param_list for name, p in group()}


def distinct_parameters(model: Classifier) -> dict[str, nn.Parameter]:
    """The same, each parameter once, under the first of its keys: a penalty on all keys would count some twice."""
    keys: dict[nn.Parameter, str] = {}
    for key, p in contract_parameters(model).items():
        keys.setdefault(p, key)
    return {key: p for p, key in keys.items()}


def snapshot(model: Classifier) -> NamedTensors:
    """Detached copies of the parameters, by key."""
    return {key: p.detach().clone() for key, p in contract_parameters(model).items()}


def layers_of(keys: Iterable[str]) -> str:
    """The layers of some parameters, each once, or a parameter that is in none, by their names in the network."""
    return ", ".join(dict.fromkeys((key.rpartition("__")[0] or key).replace("__", ".") for key in keys))
