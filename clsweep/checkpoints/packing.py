"""A run's state as tensors and plain containers, and back.

A file of tensors and plain containers is read without running anything that stands in it (`torch.load` with
`weights_only=True`, nothing added). What is neither is packed here. If an object's class belongs to the run's own code,
it becomes the class's place in that code and the object's attributes. A parameter of the network becomes its name.
Unpacking looks such places up in the code and the network of the new process, so that a file can name nothing that
isn't there anyway. Objects that several places share are shared again, and so are cycles.

What can't be packed raises `UnpackableError`, with its place in words: a lambda, an open file, a library's object.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import importlib
import random
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clsweep.errors import printable
from clsweep.networks.equipment import OwnParameters
from clsweep.networks.outputs import Head, Selection

_ATOMS: Final = (type(None), bool, int, float, str)
_TORCHS: Final = (torch.dtype, torch.layout, torch.memory_format)
# Classes of PyTorch's whose objects are their attributes; the packages' own, not what they import.
_PACKAGES: Final = ("torch.nn.modules.", "torch.optim.", "torch.utils.data.")
_OURS: Final = {one.__qualname__: one for one in (Head, Selection)}

# What a node that `Packer` didn't make may raise.
MALFORMED: Final = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)

Packed = Any  # an atom, or ("node", its number)
Place = tuple[Any, ...]  # of atoms


class UnpackableError(Exception):
    """Something can't be kept in a file; the message says what, and where it is, as the beginning of a sentence."""


class DamagedError(Exception):
    """A file doesn't hold what this code packs."""


class Places(Protocol):
    """What is there in every process that runs the same code: it is packed as its place."""

    def place(self, value: object) -> Place | None:
        """Where it is; None where it has no place, and is packed by its content."""

    def fixed(self, value: object) -> Place | None:
        """Where it is, asked for what can't be packed by its content; None where it is nowhere, or may have changed."""

    def at(self, place: Place) -> object:
        """What is there.

        Raises:
            LookupError: nothing.
        """


class Packer:
    """Packs values into numbered nodes.

    Args:
        places: what isn't packed by its content.

    Attributes:
        nodes: what has been packed so far.
    """

    def __init__(self, places: Iterable[Places]) -> None:
        self._places = list(places)
        self._numbers: dict[int, int] = {}
        self._parts: dict[int, set[tuple[int, int]]] = {}  # the bytes of each storage that are a tensor's
        self._views: dict[tuple[Any, ...], Tensor] = {}
        self._alive: list[object] = []  # a number is an object's only while that lives
        self.nodes: list[Any] = []

    def pack(self, value: object, where: str) -> Packed:
        """Pack a value.

        Args:
            value: any.
            where: what to call it in a message.

        Raises:
            UnpackableError: it, or something in it, can't be.
        """
        if type(value) in _ATOMS:
            return value
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.nodes)
            self._alive.append(value)
            self.nodes.append(None)  # it may hold itself
            self.nodes[number] = self._node(value, where)
        return ("node", number)

    def _node(self, value: Any, where: str) -> tuple[Any, ...]:
        found = self._placed(lambda places: places.place(value))
        found = found or self._plain(value, where) or self._object(value, where)
        found = found or self._placed(lambda places: places.fixed(value))
        if found is None:
            raise UnpackableError(f"{where} is {described(value)}")
        return found

    def _placed(self, ask: Callable[[Places], Place | None]) -> tuple[Any, ...] | None:
        for number, places in enumerate(self._places):
            place = ask(places)
            if place is not None:
                return ("place", number, place)
        return None

    def _plain(self, value: Any, where: str) -> tuple[Any, ...] | None:
        kind = type(value)
        if kind in (Tensor, nn.Parameter):
            return self._tensor(value, where)
        if kind in _SEQUENCES:
            return (kind.__name__, [self.pack(one, f"{where}[{i}]") for i, one in enumerate(value)])
        if kind in (dict, collections.OrderedDict, collections.Counter):
            return (kind.__name__, self._items(value, where))
        if kind is collections.defaultdict:
            factory = value.default_factory
            known = next((name for name, one in _FACTORIES.items() if one is factory), None)
            if known is None and all(places.place(factory) is None for places in self._places):
                raise UnpackableError(f"the default of {where} is {described(factory)}")
            if known is None:
                factory = self.pack(factory, f"the default of {where}")
            return ("defaultdict", known, None if known is not None else factory, self._items(value, where))
        if kind is collections.deque:
            return ("deque", [self.pack(one, f"{where}[{i}]") for i, one in enumerate(value)], value.maxlen)
        if kind in (bytes, bytearray):
            return (kind.__name__, torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else None)
        if kind is range:
            return ("range", value.start, value.stop, value.step)
        if kind is slice:
            return ("slice", [self.pack(one, where) for one in (value.start, value.stop, value.step)])
        if kind is complex:
            return ("complex", value.real, value.imag)
        if isinstance(value, _TORCHS):
            return ("torch", str(value).removeprefix("torch."))
        if kind is torch.device:
            return ("device", str(value))
        if kind is torch.Size:
            return ("size", list(value))
        return self._of_numpy(value, where) or self._generator(value, where)

    def _tensor(self, value: Tensor, where: str) -> tuple[Any, ...]:
        if value.grad_fn is not None:
            raise UnpackableError(f"{where} is a tensor with its graph, which detach() takes off")
        gradient = None if value.grad is None else self.pack(value.grad, f"{where}.grad")
        return (
            "tensor",
            self._alone(value.detach(), where),
            value.requires_grad,
            gradient,
            isinstance(value, nn.Parameter),
        )

    def _alone(self, tensor: Tensor, where: str) -> Tensor:
        """A tensor without the rest of its storage: with a few examples, a file would hold the whole data set.

        Raises:
            UnpackableError: another one has a part of the same memory, and would no longer follow it.
        """
        if tensor.layout is not torch.strided:
            return tensor
        storage = tensor.untyped_storage()
        reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        begin = int(tensor.storage_offset()) * tensor.element_size()
        end = begin + int(reach) * tensor.element_size() if tensor.numel() else begin
        parts = self._parts.setdefault(storage.data_ptr(), set())
        if any(begin < other_end and other_begin < end for other_begin, other_end in parts - {(begin, end)}):
            raise UnpackableError(f"{where} is a tensor that shares memory with another one")
        parts.add((begin, end))
        if storage.nbytes() == tensor.numel() * tensor.element_size():
            return tensor
        key = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._views:
            self._views[key] = tensor.clone()
        return self._views[key]

    def _items(self, value: Mapping[Any, Any], where: str) -> list[tuple[Packed, Packed]]:
        return [
            (self.pack(key, f"a key of {where}"), self.pack(one, f"{where}[{key!r}]")) for key, one in value.items()
        ]

    def _of_numpy(self, value: Any, where: str) -> tuple[Any, ...] | None:
        if type(value) is np.ndarray or isinstance(value, np.generic):
            array = np.ascontiguousarray(value)
            if array.dtype.hasobject:
                raise UnpackableError(f"{where} is a NumPy array of objects")
            flat = torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy()) if array.nbytes else None
            return ("numpy", flat, array.dtype.str, list(np.shape(value)), isinstance(value, np.generic))
        if isinstance(value, np.dtype) and not value.hasobject:
            return ("dtype", value.str)
        return None

    def _generator(self, value: Any, where: str) -> tuple[Any, ...] | None:
        kind = type(value)
        if kind is torch.Generator:
            return ("torch generator", value.get_state(), str(value.device))
        if kind is random.Random:
            return ("random", self.pack(value.getstate(), where))
        if kind is np.random.RandomState:
            return ("random state", self.pack(value.get_state(), where))
        if kind is np.random.Generator:
            bits = value.bit_generator
            return ("numpy generator", type(bits).__name__, self.pack(bits.state, where))
        return None

    def _object(self, value: Any, where: str) -> tuple[Any, ...] | None:
        """An object by its class and its attributes."""
        kind = type(value)
        if kind is SimpleNamespace:
            return ("namespace", self._attributes(value, where))
        if kind is MethodType:
            if getattr(value.__self__, value.__name__, None) != value:
                return None
            return ("method", self.pack(value.__self__, where), value.__name__)
        if kind is OwnParameters:
            return ("own parameters", self.pack(value._alive(), where))
        found = self._class(kind, where)
        if found is None:
            return None
        if isinstance(value, enum.Enum):
            return ("member", found, value.name)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ("named tuple", found, [self.pack(one, f"{where}[{i}]") for i, one in enumerate(value)])
        if getattr(kind, "__new__", None) is not object.__new__ and not issubclass(kind, nn.Module):
            return None  # what it holds besides its attributes isn't known: a dict's items, say
        return ("object", found, self._attributes(value, where))

    def _class(self, kind: type, where: str) -> tuple[Any, ...] | None:
        if any(places.place(kind) is not None for places in self._places):
            return ("own", self.pack(kind, where))
        if _OURS.get(kind.__qualname__) is kind:
            return ("ours", kind.__qualname__)
        if _of_torch(kind.__module__, kind.__qualname__) is kind:
            return ("torch", kind.__module__, kind.__qualname__)
        return None

    def _attributes(self, value: object, where: str) -> list[tuple[str, Packed]]:
        own = dict(vars(value)) if hasattr(value, "__dict__") else {}
        own |= {name: getattr(value, name) for name in copyreg._slotnames(type(value)) if hasattr(value, name)}  # type: ignore[attr-defined]
        return [(name, self.pack(one, f"{where}.{name}")) for name, one in own.items()]


_SEQUENCES: Final[dict[type, Callable[[Iterable[Any]], Any]]] = {one: one for one in (list, tuple, set, frozenset)}
_FACTORIES: Final[dict[str, Callable[[], Any] | None]] = {
    "none": None, "list": list, "dict": dict, "int": int, "float": float, "set": set
}  # fmt: skip


class Unpacker:
    """Makes packed values whole again, once each.

    Args:
        places: those of the process that packed, as they are in this one, in the same order.
        nodes: what it packed, as tensors and plain containers.
        device: where generators go that weren't on the CPU.

    Raises:
        DamagedError: by `unpack`: a node isn't what `Packer` makes.
    """

    def __init__(self, places: Iterable[Places], nodes: list[Any], device: torch.device) -> None:
        self._places = list(places)
        self._nodes = nodes
        self._device = device
        self._made: dict[int, Any] = {}

    def unpack(self, packed: Packed) -> Any:
        """A value as it was packed."""
        if type(packed) in _ATOMS:
            return packed
        try:
            tag, number = packed
            if tag != "node":
                raise DamagedError(f"unexpected {tag!r}")
            if number not in self._made:
                self._make(number, self._nodes[number])
            return self._made[number]
        except DamagedError:
            raise
        except MALFORMED as error:
            raise DamagedError(str(error)) from error

    def unpack_all(self) -> None:
        """Make everything, to see whether it can be; see `unpack`."""
        for number in range(len(self._nodes)):
            self.unpack(("node", number))

    def _make(self, number: int, node: tuple[Any, ...]) -> None:
        kind, *parts = node
        if kind in _FILLED:  # made empty first: it may hold itself
            _FILLED[kind](self, number, *parts)
        else:
            self._made[number] = _MADE[kind](self, *parts)

    def _all(self, packed: Iterable[Packed]) -> list[Any]:
        return [self.unpack(one) for one in packed]

    def _place(self, which: int, place: Place) -> Any:
        return self._places[which].at(tuple(place))

    def _tensor(self, value: Tensor, requires_grad: bool, gradient: Packed, is_parameter: bool) -> Tensor:
        made = nn.Parameter(value, requires_grad) if is_parameter else value.requires_grad_(requires_grad)
        if gradient is not None:
            made.grad = self.unpack(gradient)
        return made

    def _numpy(self, flat: Tensor | None, kind: str, shape: list[int], is_scalar: bool) -> Any:
        content = b"" if flat is None else flat.cpu().numpy().tobytes()
        array = np.frombuffer(content, np.dtype(kind)).reshape(shape).copy()
        return array[()] if is_scalar else array

    def _list(self, number: int, parts: list[Packed]) -> None:
        made = self._made[number] = []
        made += self._all(parts)

    def _set(self, number: int, parts: list[Packed]) -> None:
        made: set[Any] = set()
        self._made[number] = made
        made |= set(self._all(parts))

    def _deque(self, number: int, parts: list[Packed], longest: int | None) -> None:
        made: collections.deque[Any] = collections.deque(maxlen=longest)
        self._made[number] = made
        made.extend(self._all(parts))

    def _fill(self, number: int, made: dict[Any, Any], items: list[tuple[Packed, Packed]]) -> None:
        self._made[number] = made
        for key, value in items:
            made[self.unpack(key)] = self.unpack(value)

    def _defaultdict(self, number: int, known: str | None, factory: Packed, items: list[tuple[Packed, Packed]]) -> None:
        made = _FACTORIES[known] if known is not None else self.unpack(factory)
        if known is None and all(places.place(made) is None for places in self._places):
            raise DamagedError(f"{made!r} is no function or class of the run's own code")
        self._fill(number, collections.defaultdict(made), items)

    def _namespace(self, number: int, attributes: list[tuple[str, Packed]]) -> None:
        self._with_attributes(number, SimpleNamespace(), attributes)

    def _object(self, number: int, of: tuple[Any, ...], attributes: list[tuple[str, Packed]]) -> None:
        kind = self._class(of)
        self._with_attributes(number, kind.__new__(kind), attributes)

    def _with_attributes(self, number: int, made: Any, attributes: list[tuple[str, Packed]]) -> None:
        self._made[number] = made
        slots = copyreg._slotnames(type(made))  # type: ignore[attr-defined]
        for name, value in attributes:
            if name in slots:
                object.__setattr__(made, name, self.unpack(value))
            else:
                vars(made)[name] = self.unpack(value)

    def _class(self, of: tuple[Any, ...]) -> Any:
        whose, *parts = of
        if whose == "ours":
            return _OURS[parts[0]]
        if whose == "own":  # and nothing that this code has imported
            found = self.unpack(parts[0])
            if not isinstance(found, type) or all(places.place(found) is None for places in self._places):
                raise DamagedError(f"{found!r} is no class of this code")
            return found
        module, name = parts
        found = _of_torch(module, name)
        if found is None:
            raise DamagedError(f"{name} is no class of PyTorch's in {module}")
        return found

    def _member(self, of: tuple[Any, ...], name: str) -> Any:
        kind = self._class(of)
        if not issubclass(kind, enum.Enum):
            raise DamagedError(f"{kind!r} has no members")
        return kind[name]

    def _named_tuple(self, of: tuple[Any, ...], parts: list[Packed]) -> Any:
        return tuple.__new__(self._class(of), self._all(parts))

    def _method(self, of: Packed, name: str) -> MethodType:
        found = getattr(self.unpack(of), name)
        if not isinstance(found, MethodType):
            raise DamagedError(f"{name} is no method")
        return found

    def _torch_generator(self, state: Tensor, device: str) -> torch.Generator:
        made = torch.Generator("cpu" if device == "cpu" else self._device)
        made.set_state(state.cpu())
        return made

    def _random(self, state: Packed) -> random.Random:
        made = random.Random()
        made.setstate(self.unpack(state))
        return made

    def _random_state(self, state: Packed) -> np.random.RandomState:
        made = np.random.RandomState()
        made.set_state(self.unpack(state))
        return made

    def _numpy_generator(self, bits: str, state: Packed) -> np.random.Generator:
        kind = getattr(np.random, bits)
        if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
            raise DamagedError(f"{bits} is no generator of NumPy's")
        made = kind()
        made.state = self.unpack(state)
        return np.random.Generator(made)

    def _torchs(self, name: str) -> Any:
        found = getattr(torch, name)
        if not isinstance(found, _TORCHS):
            raise DamagedError(f"torch.{name} is no setting of a tensor's")
        return found


def _of_torch(module: str, name: str) -> type | None:
    """A class of PyTorch's own; not by way of attributes, since torch.optim deletes those of its modules."""
    try:
        found = vars(importlib.import_module(module)).get(name) if f"{module}.".startswith(_PACKAGES) else None
    except ImportError:
        return None
    is_own = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, name)
    return found if is_own else None


_Make = Callable[..., Any]
_FILLED: Final[dict[str, _Make]] = {
    "list": Unpacker._list,
    "set": Unpacker._set,
    "deque": Unpacker._deque,
    "dict": lambda self, number, items: self._fill(number, {}, items),
    "OrderedDict": lambda self, number, items: self._fill(number, collections.OrderedDict(), items),
    "Counter": lambda self, number, items: self._fill(number, collections.Counter(), items),
    "defaultdict": Unpacker._defaultdict,
    "namespace": Unpacker._namespace,
    "object": Unpacker._object,
}
_MADE: Final[dict[str, _Make]] = {
    "place": Unpacker._place,
    "tensor": Unpacker._tensor,
    "numpy": Unpacker._numpy,
    "dtype": lambda self, text: np.dtype(text),
    "tuple": lambda self, parts: tuple(self._all(parts)),
    "frozenset": lambda self, parts: frozenset(self._all(parts)),
    "bytes": lambda self, flat: b"" if flat is None else flat.cpu().numpy().tobytes(),
    "bytearray": lambda self, flat: bytearray(b"" if flat is None else flat.cpu().numpy().tobytes()),
    "range": lambda self, *parts: range(*parts),
    "slice": lambda self, parts: slice(*self._all(parts)),
    "complex": lambda self, *parts: complex(*parts),
    "torch": Unpacker._torchs,
    "device": lambda self, text: torch.device(text),
    "size": lambda self, parts: torch.Size(parts),
    "torch generator": Unpacker._torch_generator,
    "random": Unpacker._random,
    "random state": Unpacker._random_state,
    "numpy generator": Unpacker._numpy_generator,
    "method": Unpacker._method,
    "own parameters": lambda self, of: OwnParameters(self.unpack(of)),
    "member": Unpacker._member,
    "named tuple": Unpacker._named_tuple,
}


def described(value: object) -> str:
    """What to call something that can't be kept."""
    if isinstance(value, FunctionType):
        return "a lambda" if value.__name__ == "<lambda>" else f"the function {printable(value.__qualname__)}"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an object of the type {printable(name)}"
