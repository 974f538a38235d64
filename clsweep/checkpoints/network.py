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
_TENSORS: Final = ("_parameters", "_buffers")
_INTERNAL: Final = frozenset(vars(nn.Module()))
# The path integral of a context that is over: the next one begins with another, before anybody reads it.
_OF_A_CONTEXT: Final = ("_custom_W", "_custom_p_old")

_Owner = str | Place  # the name of a layer, or the place of a parameter or a buffer


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
        self._built = {(owner, key): value for owner, key, value in self._attributes()}
        self._hooked = {owner: _hooks_of(self._owner(owner)) for owner in self._owners()}
        self._others: set[tuple[_Owner, str]] = set()
        for owner, key, value in self._attributes():
            self._fixed.note(("attribute", owner, key), value)

    def place(self, value: object) -> Place | None:
        return self._places.get(id(value))

    def fixed(self, value: object) -> Place | None:
        return self._fixed.place(value)

    def at(self, place: Place) -> object:
        return self._fixed.at(place) if place[0] == "attribute" else self._at[place]

    def _owners(self) -> list[_Owner]:
        """What may have attributes and hooks."""
        return [*self._modules, *(place for place in self._at if place[0] in _TENSORS)]

    def _owner(self, owner: _Owner) -> Any:
        return self._modules[owner] if isinstance(owner, str) else self._at[owner]

    def _attributes(self) -> Iterator[tuple[_Owner, str, Any]]:
        for owner in self._owners():
            for key, value in vars(self._owner(owner)).items():
                if key not in _INTERNAL and key not in _OF_A_CONTEXT:
                    yield owner, key, value

    def pack(self, packer: Packer, left_out: Collection[tuple[_Owner, str]] = ()) -> dict[str, Any]:
        """What the network holds now.

        Args:
            packer: packs it.
            left_out: attributes that are not packed.

        Raises:
            UnpackableError: something on it can't be packed, or a method has left hooks.
        """
        for owner, hooks in self._hooked.items():
            if _hooks_of(self._owner(owner)) != hooks:
                raise UnpackableError(f"a hook is left on the network ({_shown(owner) or 'on the whole'})")
        return {
            "values": self.values(),
            "trained": {place: p.requires_grad for place, p in self._at.items() if place[0] == "_parameters"},
            "attributes": [
                (owner, key, packer.pack(value, f"{key}, an attribute of the network,"))
                for owner, key, value in self._attributes()
                if self.fixed(value) != ("attribute", owner, key) and (owner, key) not in left_out
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
        if values.keys() != {place for place in self._at if place[0] in _TENSORS}:
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

    def leave_out_of_training(self) -> None:
        """Note what a method has put on the network: it isn't the network's own, and has no part in training."""
        self._others = {(owner, key) for owner, key, _ in self._attributes()} - self._built.keys() | {("", BATCH)}

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
        changed += [name for name, module in self._modules.items() if type(module) is not self._at["class", name]]
        changed += [_shown(owner) for owner, hooks in self._hooked.items() if _hooks_of(self._owner(owner)) != hooks]
        for owner, key, value in self._attributes():
            is_built = (owner, key) in self._built
            if is_built and value is not self._built[owner, key] and not isinstance(self._owner(owner), Head):
                changed.append(key)
            if not is_built and (owner or hasattr(type(self._owner(owner)), key)):
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
        for owner, key, value in packed["attributes"]:
            object.__setattr__(self._owner(owner), key, unpacker.unpack(value))


def _hooks_of(owner: nn.Module | Tensor) -> list[int]:
    if isinstance(owner, Tensor):  # which keeps them elsewhere than in its attributes
        kinds = [owner._backward_hooks, owner._post_accumulate_grad_hooks]
    else:
        kinds = [hooks for name, hooks in vars(owner).items() if name.endswith("_hooks")]
    return [id(hook) for hooks in kinds if hooks for hook in hooks.values()]


def _shown(owner: _Owner) -> str:
    return owner if isinstance(owner, str) else ".".join(filter(None, owner[1:]))
