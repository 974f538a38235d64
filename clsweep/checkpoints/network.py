"""What a network holds: values, what its own code keeps on it, and what a method has put there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from clsweep.checkpoints.code import Fixed
from clsweep.checkpoints.packing import DamagedError, Packer, Place, UnpackableError, Unpacker
from clsweep.networks.equipment import BATCH
from clsweep.networks.outputs import Head

_KINDS: Final = ("_parameters", "_buffers", "_modules")
_INTERNAL: Final = frozenset(vars(nn.Module()))
# The path integral of a context that is over: the next one begins with another, before anybody reads it.
_OF_A_CONTEXT: Final = ("_custom_W", "_custom_p_old")


class NetworkParts:
    """The parts of a network as it was built, by name, before a method has seen it.

    It is one of the `Places` of a packer: the network, its layers, parameters and buffers are packed as their names.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._own = {(name, kind): dict(getattr(m, kind)) for name, m in self._modules.items() for kind in _KINDS}
        self._at: dict[Place, Any] = {("_modules", name): module for name, module in self._modules.items()}
        for (name, kind), values in self._own.items():
            if kind != "_modules":
                self._at |= {(kind, name, key): value for key, value in values.items() if value is not None}
        self._at |= {("class", name): type(module) for name, module in self._modules.items()}  # a copy is of them, too
        self._places = {id(value): place for place, value in reversed(self._at.items())}
        self._fixed = Fixed()
        self._built = {(name, key): value for name, key, value in self._attributes()}
        self._hooked = {name: _hooks_of(module) for name, module in self._modules.items()}
        self._others: set[str] = set()
        for name, key, value in self._attributes():
            self._fixed.note(("attribute", name, key), value)

    def place(self, value: object) -> Place | None:
        return self._places.get(id(value))

    def fixed(self, value: object) -> Place | None:
        return self._fixed.place(value)

    def at(self, place: Place) -> object:
        return self._fixed.at(place) if place[0] == "attribute" else self._at[place]

    def _attributes(self) -> Iterator[tuple[str, str, Any]]:
        for name, module in self._modules.items():
            for key, value in vars(module).items():
                if key not in _INTERNAL and key not in _OF_A_CONTEXT:
                    yield name, key, value

    def pack(self, packer: Packer, left_out: Collection[str] = ()) -> dict[str, Any]:
        """What the network holds now.

        Args:
            packer: packs it.
            left_out: attributes of the whole network that are not packed.

        Raises:
            UnpackableError: something on it can't be packed, or a method has left hooks.
        """
        for name, module in self._modules.items():
            if _hooks_of(module) != self._hooked[name]:
                raise UnpackableError(f"a hook is left on the network ({name or 'on the whole'})")
        return {
            "values": self.values(),
            "trained": {place: p.requires_grad for place, p in self._at.items() if place[0] == "_parameters"},
            "attributes": [
                (name, key, packer.pack(value, f"{key}, an attribute of the network,"))
                for name, key, value in self._attributes()
                if self.fixed(value) != ("attribute", name, key) and not (name == "" and key in left_out)
            ],
            "added": [
                (name, kind, key, packer.pack(value, f"{key}, which was added to the network,"))
                for (name, kind), own in self._own.items()
                for key, value in getattr(self._modules[name], kind).items()
                if key not in own
            ],
            "not persistent": {name: module._non_persistent_buffers_set for name, module in self._modules.items()},
        }

    def values(self) -> dict[Place, Tensor]:
        """Its parameters and buffers, as they are now and by their places."""
        found = {
            (kind, name, key): getattr(self._modules[name], kind)[key]
            for (name, kind), own in self._own.items()
            if kind != "_modules"
            for key in own
        }
        return {place: value.detach() for place, value in found.items() if value is not None}

    @torch.no_grad()
    def put(self, values: Mapping[Place, Tensor]) -> None:
        """Set parameters and buffers, in place where shape and type are the same.

        Raises:
            DamagedError: they are of another network.
        """
        if values.keys() != {place for place in self._at if place[0] in ("_parameters", "_buffers")}:
            raise DamagedError("its parameters are not those of this network")
        for place, value in values.items():
            kind, name, key = place
            there = getattr(self._modules[name], kind)[key]
            if there is not None and (there.shape, there.dtype) == (value.shape, value.dtype):
                there.data.copy_(value)
            elif kind == "_buffers":
                self._modules[name]._buffers[key] = value
            else:
                raise DamagedError(f"{key} is of another shape than this network's")

    def leave_out_of_training(self, model: nn.Module) -> None:
        """Note what a method has put on the network: it isn't the network's own, and has no part in training."""
        self._others = {name for name in vars(model) if ("", name) not in self._built} | {BATCH}

    def pack_trained(self, packer: Packer) -> dict[str, Any]:
        """What training leaves, without what a method has put on the network.

        Raises:
            UnpackableError: something of the network's own can't be packed.
        """
        packed = self.pack(packer, left_out=self._others)
        if packed["added"]:
            raise UnpackableError("something was added to the network, which another run wouldn't have,")
        return packed

    def changes(self, before: Mapping[Place, Tensor]) -> list[str]:
        """The names of what may have changed the network's outputs.

        One name too many costs a measurement; one too few gives a wrong result.

        Args:
            before: its parameters and buffers before that, as `values` gave them.
        """
        changed = [str(place[-1]) for place, value in self.values().items() if not torch.equal(value, before[place])]
        for name, module in self._modules.items():
            if type(module) is not self._at["class", name] or _hooks_of(module) != self._hooked[name]:
                changed.append(name)
        for name, key, value in self._attributes():
            is_built = (name, key) in self._built
            if is_built and value is not self._built[name, key] and not isinstance(self._modules[name], Head):
                changed.append(key)
            if not is_built and (name or hasattr(type(self._modules[name]), key)):
                changed.append(key)
        return changed

    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Let the network hold what it held.

        Raises:
            DamagedError: it was another network.
        """
        self.put(packed["values"])
        for place, is_trained in packed["trained"].items():
            self._at[place].requires_grad_(is_trained)
        for name, kind, key, value in packed["added"]:
            getattr(self._modules[name], kind)[key] = unpacker.unpack(value)
        for name, names in packed["not persistent"].items():
            self._modules[name]._non_persistent_buffers_set.update(names)
        for name, key, value in packed["attributes"]:
            object.__setattr__(self._modules[name], key, unpacker.unpack(value))


def _hooks_of(module: nn.Module) -> list[int]:
    kinds = [hooks for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks]
    return [id(hook) for hooks in kinds for hook in hooks.values()]
