"""What a method is to the training loop, and the base classes of the built-in ones.

A method learns from each finished context, and from then on says what a change in the parameters costs. The
hyperparameters of a built-in one are the fields of its class (`clsweep.hyperparameters`), and its state is its
own: nothing of it lies on the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.errors import MethodError, NotFiniteError
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.quadratic import weighted_squares
from clsweep.methods.undisturbed import Network, first_not_finite
from clsweep.networks import Classifier
from clsweep.parameters import NamedTensors, snapshot
from clsweep.seeding import GlobalStream

if TYPE_CHECKING:
    from clsweep.checkpoints.packing import Packer, Places, Unpacker

_STATE, _DERIVED = "state", "derived"
_NOT_STATE = {"source", "network", "stream", "active_outputs", "_path"}


class Path(NamedTuple):
    """The path integral of a context, by key.

    Attributes:
        totals: of -gradient * change, of the total loss, from the context's start on; each as its parameter.
        positions: the parameters after the last step, where somebody reads them at every step.
    """

    totals: NamedTensors
    positions: NamedTensors


class Squares(NamedTuple):
    """The penalty sum_i c_i (theta_i - m_i)^2 + constant.

    Attributes:
        coefficients: c, by key, each as its parameter.
        centres: m, for at least these keys.
        constant: what the gradient doesn't see.
    """

    coefficients: NamedTensors
    centres: NamedTensors
    constant: Tensor | float = 0.0


@dataclass(frozen=True)
class Finished:
    """A context that has just been trained.

    Attributes:
        dataset: its training examples; `dataset.tensors` are the inputs [N, C, H, W] and labels [N].
        start: the parameters at its start, by key.
        path: its path integral.
        device: where model and data are.
    """

    dataset: TensorDataset
    start: NamedTensors
    path: Path
    device: torch.device


class Method(ABC):
    """What the loop asks of a method, in the order in which it asks.

    Attributes:
        source: what to call it in messages.
        uses_path_integral: whether a context's path integral must be kept up to date.
        is_quadratic: whether the penalty is what `squares` says until the context ends: then the optimizer's update
            adds the gradient, which costs a step next to nothing.
        transforms_gradients: whether `transform` is to be called at every step.
        transforms_first_context: whether it is to be called in the first context, too.
        needs_plain_steps: whether it counts on steps against the gradient that `transform` leaves, as those of SGD are.
        tells_layers: whether `additions` says what becomes of layers that it can't treat like the others.
        takes_batch: whether `see` is to be called at every step.
        takes_outputs: whether `see_outputs` is to be called at every step, from the second context on.
        can_be_wrong: whether what it says about itself is checked while it is used, as for code that others wrote.
        reg_strength_scale: its own multiplier on `reg_strength`.
        network: what it is attached to.
        stream: the random numbers that it draws from.
        active_outputs: the outputs that the context's loss is over, from the context's start to its end.
    """

    source: str
    uses_path_integral: bool = False
    is_quadratic: bool = False
    transforms_gradients: bool = False
    transforms_first_context: bool = True
    needs_plain_steps: bool = False
    tells_layers: bool = False
    takes_batch: bool = False
    takes_outputs: bool = False
    can_be_wrong: bool = False
    reg_strength_scale: float = 1.0
    network: Network
    stream: GlobalStream
    active_outputs: range = range(0)

    @property
    def leaves_first_context_alone(self) -> bool:
        """Whether it takes no part in the training of the first context, which runs may then share."""
        return not ((self.transforms_gradients and self.transforms_first_context) or self.takes_batch)

    @property
    def model(self) -> Classifier:
        return self.network.model

    def active(self) -> AbstractContextManager[None]:
        """Around a whole run."""
        return nullcontext()

    def attach(self, network: Network) -> None:
        """Begin with a network that nobody has trained."""
        self.network = network

    def expect(self, examples: int) -> None:  # noqa: B027 - most need not know
        """Learn how many training examples the context has that is about to start."""

    @abstractmethod
    def start_context(self, path: Path) -> None:
        """Begin a context, with a path integral of zero."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """Where the path integral of this context is kept from now on."""

    def check_path(self) -> None:  # noqa: B027 - the tensors of most are those of the context's start
        """Check that the path is kept in tensors like the parameters, where others may have been put there.

        Raises:
            MethodError: it isn't.
        """

    def places(self) -> list[Places]:
        """What of its code is there in every process that runs it, for packing; see `clsweep.checkpoints`."""
        return []

    @abstractmethod
    def pack(self, packer: Packer) -> dict[str, Any]:
        """All that it keeps from context to context, beside what is on the network.

        Raises:
            UnpackableError: something of it can't be packed.
        """

    @abstractmethod
    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Go on from what was packed, in a process in which it has just been made."""

    def see(self, inputs: Tensor, labels: Tensor) -> None:
        """Take the batch of a step: inputs [B, C, H, W] and labels [B]."""
        raise NotImplementedError

    def see_outputs(self, logits: Tensor, before: Tensor) -> None:
        """Take what the network gives for the batch of a step, just before `penalty` is asked for.

        Args:
            logits: of all classes, those of the step's own forward pass, [B, n_outputs].
            before: those of the same examples at the context's start, in eval mode, without a graph.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def strength(self) -> float:
        """What the penalty is multiplied with."""

    def squares(self) -> Squares:
        """The penalty of a context, where it is quadratic; asked for once, at the context's start."""
        raise NotImplementedError

    @abstractmethod
    def penalty(self, *, is_first: bool) -> Tensor:
        """The penalty where the parameters are now, a differentiable scalar; from the second context on.

        Args:
            is_first: whether it is the context's first step, where time may be taken to check it.
        """

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a loss that has the penalty in it."""
        loss.backward()

    def check_gradient(self) -> None:  # noqa: B027 - most have nothing to say
        """Say so where it is the penalty's gradient that isn't finite.

        Raises:
            MethodError: the penalty's gradient isn't finite.
        """

    def check_squares(self, squares: Squares, strength: float) -> None:  # noqa: B027
        """Check that `squares` is the penalty, where it can be wrong.

        Raises:
            MethodError: it isn't, or the strength has changed.
        """

    def check_dependence(self) -> None:  # noqa: B027
        """Check that the penalty depends on the network's parameters, where it can be wrong.

        Raises:
            MethodError: it doesn't.
        """

    def additions(self) -> list[str]:
        """What its author may take for something else, such as what it has added to the network, in sentences."""
        return []

    def blamed(self, error: Exception) -> MethodError | None:
        """Its failure, where an exception passed through its code while it wasn't called."""
        return None

    def transform(self) -> None:
        """Change the gradients of a step, which stand in the parameters' `grad`.

        Where the penalty is quadratic they are those of the task loss: the update adds the penalty's to the result.
        """
        raise NotImplementedError

    def abandon(self) -> None:  # noqa: B027 - most leave the network as it is until they transform
        """Take back what `see` has done to the network: the step that it began ends in an exception."""

    @abstractmethod
    def end_context(self, finished: Finished) -> None:
        """Learn from a context.

        Raises:
            MethodError: it failed.
        """


def state(first: Callable[[], Any] = dict) -> Any:
    """A field of a built-in method's class that is a part of its state.

    Args:
        first: makes its first value, by default an empty dict.
    """
    return field(init=False, default_factory=first, metadata={_STATE: True})


def derived(first: Callable[[], Any]) -> Any:
    """A field of a built-in method's class that follows from its state, and is made anew where that was restored.

    Args:
        first: makes its first value.
    """
    return field(init=False, default_factory=first, repr=False, metadata={_DERIVED: True})


@dataclass(eq=False)
class BuiltIn(Method):
    """A method of clsweep's own. What its estimates disturb is put back, and they draw random numbers of their own."""

    def __post_init__(self) -> None:
        self.source = f"{type(self).__module__}.{type(self).__qualname__}"

    @property
    def leaves_first_context_alone(self) -> bool:
        """See `Method`; a class of one's own may do anything to the network before it is trained."""
        is_ours = type(self).attach is Method.attach and type(self).start_context is BuiltIn.start_context
        return is_ours and super().leaves_first_context_alone

    def start_context(self, path: Path) -> None:
        """Keep the path, to be read at the context's end."""
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def end_context(self, finished: Finished) -> None:
        """Learn from a context.

        Raises:
            NotFiniteError: what it made of it holds NaN or infinity.
        """
        with self.network.undisturbed(), self.stream.active():
            self.learn(finished)
        self.refuse_not_finite(self.state_dict())

    def refuse_not_finite(self, made: dict[str, Any]) -> None:
        """Check what a context has left, such as the state.

        Args:
            made: by name; dicts of tensors, or tensors.

        Raises:
            NotFiniteError: it holds NaN or infinity.
        """
        broken = first_not_finite(dict(_tensors(made)))
        if broken is not None:
            named = broken.replace(".", " and ")  # a layer's keys, joined: none of them has a dot
            smaller = "benchmark.lr or regularizer.reg_strength" if self.strength else "benchmark.lr"
            raise NotFiniteError(
                f"{self.source}: after a context its {named} holds NaN or infinity; expected finite numbers (a "
                f"smaller {smaller} may help)."
            )

    @abstractmethod
    def learn(self, finished: Finished) -> None:
        """Take a finished context in."""

    def state_dict(self) -> dict[str, Any]:
        """The fields that are its state."""
        return {one.name: getattr(self, one.name) for one in fields(self) if _STATE in one.metadata}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def pack(self, packer: Packer) -> dict[str, Any]:
        """Its state, and what a class of one's own keeps besides; see `Method`."""
        made_anew = {one.name for one in fields(self) if _DERIVED in one.metadata}
        apart = self.state_dict().keys() | _NOT_STATE | made_anew
        # Hyperparameters, too, which it may change; options in a dataclass are frozen.
        others = {name: one for name, one in vars(self).items() if name not in apart and not is_dataclass(one)}
        return {
            "state": packer.pack(self.state_dict(), self.source),
            "others": packer.pack(others, self.source),
            "stream": packer.pack(self.stream.packable(self.network.device), "the method's random numbers"),
        }

    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        self.load_state_dict(unpacker.unpack(packed["state"]))
        vars(self).update(unpacker.unpack(packed["others"]))
        self.stream.restore(unpacker.unpack(packed["stream"]), self.network.device)


def _tensors(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a state, with the names that lead to them."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name} of ")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


@dataclass(eq=False)
class Quadratic(BuiltIn):
    """A method whose penalty is a weighted sum of squares, from which its gradient and the fast way both follow."""

    is_quadratic = True

    def penalty(self, *, is_first: bool) -> Tensor:
        """sum_i c_i (theta_i - m_i)^2 + constant, a differentiable scalar."""
        coefficients, centres, constant = self.squares()
        return weighted_squares(self.model, coefficients, centres) + constant


@dataclass(eq=False)
class Anchored(Quadratic):
    """A penalty factor * sum_i I_i (theta_i - theta*_i)^2, theta* the parameters at the end of the last context.

    Attributes:
        reg_strength: what the penalty is multiplied with.
        importance: I, by key.
        anchor: theta*, by key.
        factor: 1, or 1/2 where the penalty is defined with it.
    """

    factor: ClassVar[float] = 1.0
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e6))")
    importance: NamedTensors = state()
    anchor: NamedTensors = state()

    @property
    def strength(self) -> float:
        return self.reg_strength

    def learn(self, finished: Finished) -> None:
        """Bring the importance up to date, and move the anchor; a parameter that is frozen keeps its importance."""
        self.importance = self.importance | self.updated(finished)
        self.anchor = snapshot(self.model)

    @abstractmethod
    def updated(self, finished: Finished) -> NamedTensors:
        """The importance from now on, by key, each as its parameter; `self.importance` is the one so far."""

    def squares(self) -> Squares:
        """The importance, times the factor, around the anchor."""
        return Squares({key: self.factor * value for key, value in self.importance.items()}, self.anchor)


def added(before: NamedTensors, new: NamedTensors) -> NamedTensors:
    """The sum by key; what is missing before is zero."""
    return {key: before[key] + value if key in before else value for key, value in new.items()}
