"""Short words for what tells one protocol from another, fit for the name of a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from clsweep.architecture import BETWEEN_LISTS
from clsweep.protocol import Protocol


def words(protocol: Protocol, usual: Protocol, budgets: Mapping[str, int]) -> list[str]:
    """What sets a protocol apart from the usual one of its benchmark.

    Args:
        protocol: the one to be named.
        usual: the other one.
        budgets: iterations by the names of budgets.

    Returns:
        Words such as `class`, `quick`, `lr3e-4` or `mlp50x40`, those that a reader looks for first before the others.
    """
    differing = protocol.differences(usual)
    if not protocol.iters:  # epochs decide them, which a study may search
        differing.pop("iters", None)
    made = {name: word(differing[name][0]) for name, word in _WORDS.items() if name in differing}
    budget = next((budget for budget, iters in budgets.items() if iters == protocol.iters), None)
    return list((made | {"iters": budget} if budget is not None and "iters" in made else made).values())


def number(value: float) -> str:
    """A number as short as it can be: 0.0003 is 3e-4."""
    plain = f"{value:g}"
    mantissa, exponent = f"{value:.6e}".split("e")
    scientific = f"{float(mantissa):g}e{int(exponent)}"
    return min(plain, scientific, key=len) if 0 < abs(value) < 0.01 or abs(value) >= 1e4 else plain


def _of_target(described: str) -> str:
    """`mlp 50 40` is mlp50x40, `cnn 8 16 / 40` cnn8x16-40, and `my_nets.Net width=64` Net-width64."""
    first, *rest = described.split()
    if all(one.isdigit() or one == BETWEEN_LISTS for one in rest):
        lists = " ".join(rest).split(BETWEEN_LISTS)
        return first.rpartition(".")[2] + "-".join("x".join(one.split()) for one in lists if one)
    return "-".join([first.rpartition(".")[2], *(one.replace("=", "") for one in rest)])


# By the names of `Protocol`'s fields.
_WORDS: Final[dict[str, Callable[[Any], str]]] = {
    "benchmark_stream": _of_target,
    "scenario": str,
    "contexts": lambda value: f"contexts{value}",
    "classes_per_context": lambda value: f"classes{value}",
    "dataset": str,
    "iters": lambda value: f"iters{value}",
    "epochs": lambda value: f"epochs{value}",
    "network": _of_target,
    "optimizer": _of_target,
    "lr": lambda value: f"lr{number(value)}",
    "batch_size": lambda value: f"batch{value}",
    "precision": str,
    "schedule": _of_target,
    "optimizer_reset": lambda value: "reset" if value else "kept",
    "validation_fraction": lambda value: f"held{number(value)}",
    "logits": lambda value: f"logits-{value}",
    "first_contexts": lambda value: f"first{value}",
    "seed_order": lambda value: f"order{value}",
    "seed_init": lambda value: f"init{value}",
    "seed_batches": lambda value: f"batches{value}",
    "image_size": lambda value: f"size{value}",
    "normalize": lambda value: "normalized" if value else "raw",
}
