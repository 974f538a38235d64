"""What a setting says about its network (`conf/network`): how it is checked, and how results describe it.

`clsweep.networks` makes the network. Nothing here imports torch, except for the signature of a class that has no file
in `conf/network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from clsweep.errors import InputError
from clsweep.targets import TARGET, Target, files

KEY = "network"
PROVIDED = ("input_shape", "n_outputs")  # what a network is given where its signature has them
BETWEEN_LISTS = "/"  # in what results say of a network with several lists of widths
_APART = ("name",)  # clsweep's own key
_OURS = "clsweep.networks."


def of(node: Mapping[str, Any]) -> Target:
    """The network's class or function, with its arguments.

    Raises:
        InputError: the node names none.
    """
    return Target.of(KEY, node, _APART)


def is_ours(target: Target) -> bool:
    """Whether it is one of `clsweep.networks`."""
    return target.path.startswith(_OURS)


def complete(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node with its `_target_`; one that was written before networks had a `_target_` gets it by its name."""
    written = files(KEY).get(str(node.get("name")))
    if TARGET in node or written is None:
        return dict(node)
    return {TARGET: written[TARGET], **{name: value for name, value in node.items() if value != [] or name in written}}


def described(node: Mapping[str, Any]) -> str:
    """The network as results describe it: `mlp 400 400`, `cnn 16 32 / 200`, or `my_nets.Net width=64` for your own."""
    target = of(node)
    if not is_ours(target):
        return target.described
    widths = _widths(target)
    lists = [" ".join(map(str, one if isinstance(one, list) else [one])) for one in widths.values()]
    others = {name: value for name, value in target.arguments.items() if name not in widths}
    said = replace(target, path=str(node["name"]), arguments=others).described
    return " ".join([said, *f" {BETWEEN_LISTS} ".join(lists).split()])


def from_results(described: str) -> str:
    """A network as results describe it, in the current form: older results have a CNN's two lists end to end.

    If the text begins with the convolutions of `network=cnn`, the first list ends after them. Otherwise its end isn't
    known, and the text stays as it is: it equals no current one.
    """
    name = "cnn"
    usual = " ".join(map(str, [name, *files(KEY)[name]["channels"]]))
    if BETWEEN_LISTS in described.split() or not f"{described} ".startswith(f"{usual} "):
        return described
    return " ".join([usual, BETWEEN_LISTS, *described.removeprefix(usual).split()])


def size_typed(node: Mapping[str, Any]) -> str:
    """What decides the network's size, as it is typed."""
    target = of(node)
    if not is_ours(target):
        return f"{KEY}.{TARGET}={target.path}"
    return " ".join(target.typed(name) for name in reversed(_widths(target)))


def check(node: Mapping[str, Any]) -> None:
    """Check a network's values.

    Raises:
        InputError: naming the first that is unknown or out of its range.
    """
    target = of(node)
    target.check(*PROVIDED)
    if is_ours(target):
        _check_name(target.path, node.get("name"))
        for name, usual in _usual_widths(target).items():
            if name in target.arguments and (expected := _unlike(name, target.arguments[name], usual)):
                raise InputError(f"{target.typed(name)}: expected {expected}.")


def _check_name(path: str, name: object) -> None:
    """Check that a network of ours goes by its own name, which is what results have."""
    ours = {str(values["name"]): str(values[TARGET]) for values in files(KEY).values()}
    if name not in ours:
        raise InputError(f"{KEY}.name={name}: expected one of {', '.join(ours)}.")
    if ours[str(name)] != path:
        raise InputError(f"{KEY}.name={name}: isn't {path}; expected {KEY}={name}, which chooses it.")


def _widths(target: Target) -> dict[str, Any]:
    """The widths that a setting gives to a network of ours, in the order in which results have them."""
    return {name: target.arguments[name] for name in _usual_widths(target) if name in target.arguments}


def _usual_widths(target: Target) -> dict[str, int | list[int]]:
    """What its file in `conf/network` says of its widths: its integers, and lists of them."""
    file = next((values for values in files(KEY).values() if values[TARGET] == target.path), {})
    return {name: value for name, value in file.items() if isinstance(value, list) or _is_integer(value)}


def _unlike(name: str, value: object, usual: int | list[int]) -> str | None:
    """What is expected of a width, or of a list of them; None where the value is so."""
    if not isinstance(usual, list):
        return None if _is_integer(value) and value >= 1 else "an integer of 1 or more"
    if name == "channels" and value == []:
        return "at least one convolution for network.name=cnn"
    if not isinstance(value, list) or not all(map(_is_integer, value)):
        example = value if _is_integer(value) else ",".join(map(str, usual))
        return f"a list of integers, as in {KEY}.{name}=[{example}]"
    return None if all(width >= 1 for width in value) else "widths of 1 or more"


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
