"""The networks of the benchmarks, and what every network is given before it is trained.

A network takes examples [B, C, H, W] and has the outputs of all contexts. A run wants the active ones alone: the
networks here end in a `Head`, which computes no others; from any other network's outputs a hook takes them.
`equip` gives a network what a run and a method find on it, `activate` chooses the outputs.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from clsweep import memory
from clsweep.config import FisherConfig, NetworkConfig
from clsweep.errors import InputError

# The parameter, its gradient and Adam's two averages, where it was at the context's start and after the last step, and
# its path integral, 4 bytes each.
_BYTES_OF_PARAMETER = 28


# Which outputs are active: a range for every example alike, or an int64 tensor [B, active] with a row of outputs for
# each example (joint training over contexts with outputs of their own).
Outputs = range | Tensor


def select(logits: Tensor, outputs: Outputs) -> Tensor:
    """The active ones of all outputs: [B, active] from [B, n_outputs]."""
    if isinstance(outputs, Tensor):
        return logits.gather(1, outputs)
    return logits[:, outputs.start : outputs.stop]


class Head(nn.Linear):
    """A linear output layer that computes the active outputs only.

    Attributes:
        active: which; see `Outputs`.
    """

    def __init__(self, in_features: int, n_outputs: int) -> None:
        super().__init__(in_features, n_outputs)
        self.active: Outputs = range(n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, active] from features [B, in_features]."""
        if isinstance(self.active, Tensor):
            return select(F.linear(features, self.weight, self.bias), self.active)
        outputs = slice(self.active.start, self.active.stop)
        return F.linear(features, self.weight[outputs], self.bias[outputs])


class Selection:
    """A forward hook that takes the active outputs of a network that gives them all.

    It belongs to the network's call, not to its layers: parameters keep their names, and a copy has one of its own.

    Attributes:
        active: which; see `Outputs`.
    """

    def __init__(self, n_outputs: int) -> None:
        self.active: Outputs = range(n_outputs)

    def __call__(self, model: nn.Module, inputs: object, logits: Tensor) -> Tensor:
        """Logits [B, active] from [B, n_outputs]."""
        return select(logits, self.active)


class OwnParameters:
    """A network's `named_parameters` that doesn't keep the network alive, as the bound method would.

    The network holds it in `param_list`: a bound method there would close a cycle, and a network in a cycle stays in
    memory, with all that a method has put on it, until Python happens to look for cycles. A copy gets one of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name, as PyTorch has it."""
        return self._alive().named_parameters()

    def __reduce__(self) -> tuple[type[OwnParameters], tuple[nn.Module]]:
        return OwnParameters, (self._alive(),)  # copied or pickled with the network, it is the new one's

    def _alive(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise ReferenceError("the network of this param_list is gone: keep the network itself")
        return model


class Classifier(nn.Module):
    """Any network as a run and a method see it, once `equip` and the learner have put on it what is listed here.

    A type for annotations, which no network derives from. `model(x)` gives the logits of the active outputs.

    Attributes:
        head: the output layer of the networks here; those of others need not have one.
        param_list: zero-argument callables that yield `(name, parameter)`.
        reg_strength: the configured strength of the penalty; a method may overwrite it.
        gamma: the configured decay of carried importance.
        epsilon: the configured damping.
        fisher: how to estimate the Fisher information, for methods that do.
        floor_at_zero: whether carried importance is kept at or above zero, for methods that ask.

    They and the dicts `_custom_*` below are the regularizers' contract (see `clsweep.methods.contract`).
    """

    head: Head
    param_list: list[Callable[[], Iterator[tuple[str, nn.Parameter]]]]
    reg_strength: float
    gamma: float
    epsilon: float
    fisher: FisherConfig | None
    floor_at_zero: bool
    _custom_W: dict[str, Tensor]  # noqa: N815 - the contract's name
    _custom_p_old: dict[str, Tensor]
    _custom_importance: dict[str, Tensor]
    _custom_prev_params: dict[str, Tensor]


def equip(model: nn.Module, n_outputs: int) -> Classifier:
    """Give a network what a run needs of it, whoever wrote it.

    Args:
        model: a network that gives [B, n_outputs], or ends in a `Head`.
        n_outputs: the outputs over all contexts.

    Returns:
        The same network; all of its outputs are active.
    """
    made = cast("Classifier", model)
    made.param_list = [OwnParameters(model)]
    if _head(model) is None:
        model.register_forward_hook(Selection(n_outputs))
    return made


def outputs_of(model: nn.Module) -> Head | Selection:
    """What chooses an equipped network's outputs: its `active` can be read and set."""
    hooks = (hook for hook in model._forward_hooks.values() if isinstance(hook, Selection))
    found = next(hooks, None) or _head(model)
    assert found is not None
    return found


def activate(model: nn.Module, outputs: Outputs) -> None:
    """Choose the outputs that an equipped network gives from now on."""
    outputs_of(model).active = outputs


def layout_of(model: nn.Module) -> torch.memory_format:
    """The layout of inputs that a network computes fastest with: what its class says as `memory_format`."""
    layout = getattr(type(model), "memory_format", None)
    return layout if isinstance(layout, torch.memory_format) else torch.contiguous_format


def _head(model: nn.Module) -> Head | None:
    """A network's only `Head`; with several of them no one is the network's output."""
    heads = [layer for layer in model.modules() if isinstance(layer, Head)]
    return heads[0] if len(heads) == 1 else None


class MLP(nn.Module):
    """Fully connected layers with ReLU.

    Args:
        n_inputs: the number of values of an example, which is flattened.
        hidden: the widths of the hidden layers.
        n_outputs: the outputs over all contexts.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        self.hidden = _linear_layers([n_inputs, *hidden])
        self.head = Head([n_inputs, *hidden][-1], n_outputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer's activations [B, hidden[-1]]."""
        return _through(self.hidden, inputs.flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, active] for examples [B, C, H, W]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


class Convolution(nn.Conv2d):
    """A 3×3 convolution without bias, padded to keep the size or, with stride 2, to halve it, rounded up.

    The library for convolutions on a CPU cuts a convolution of few positions into many small products. Where sixteen
    positions or fewer are left, one product of all patches with the weight takes far less time in bf16 and
    about the same in float32.
    """

    FEW_POSITIONS = 16

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, out_channels, H', W'] from [B, in_channels, H, W]."""
        height, width = self.output_size(inputs)
        if inputs.is_cpu and height * width <= self.FEW_POSITIONS:
            return self.as_product(inputs)
        return super().forward(inputs)

    def output_size(self, inputs: Tensor) -> tuple[int, int]:
        """H' and W'."""
        stride = int(self.stride[0])
        return (inputs.shape[2] - 1) // stride + 1, (inputs.shape[3] - 1) // stride + 1

    def as_product(self, inputs: Tensor) -> Tensor:
        """The same values as those of PyTorch's convolution, but for rounding."""
        height, width = self.output_size(inputs)
        padded = F.pad(inputs, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        rows, columns = (_windows(n, int(self.stride[0]), inputs.device) for n in (height, width))
        pixels = rows[:, None, :, None] * padded.shape[2] + columns[None, :, None, :]  # [H', W', 3, 3]
        patches = padded.flatten(1, 2).index_select(1, pixels.flatten()).view(len(inputs), height, width, -1)
        return F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


def _windows(count: int, stride: int, device: torch.device) -> Tensor:
    """The three places that each window covers, [count, 3]."""
    return (torch.arange(count, device=device) * stride).unsqueeze(1) + torch.arange(3, device=device)


class CNN(nn.Module):
    """3×3 convolutions with batch normalization and ReLU, stride 2 from the second on, then an MLP.

    Args:
        input_shape: (C, H, W) of an example.
        channels: the output channels of the convolutions.
        hidden: the widths of the fully connected layers.
        n_outputs: the outputs over all contexts.
    """

    memory_format = torch.channels_last  # what convolutions compute in

    def __init__(
        self, input_shape: tuple[int, int, int], channels: Sequence[int], hidden: Sequence[int], n_outputs: int
    ) -> None:
        super().__init__()
        in_channels, height, width = input_shape
        # No bias: the normalization that follows would take it out again.
        self.convolutions = nn.ModuleList(
            Convolution(before, after, stride=1 if number == 0 else 2)
            for number, (before, after) in enumerate(pairwise([in_channels, *channels]))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.positions = [height * width]  # of each convolution's output
        for _ in channels[1:]:
            height, width = (height + 1) // 2, (width + 1) // 2
            self.positions.append(height * width)
        widths = [channels[-1] * height * width, *hidden]
        self.hidden = _linear_layers(widths)
        self.head = Head(widths[-1], n_outputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer's activations [B, hidden[-1]]."""
        values = inputs
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = F.relu(norm(convolution(values)))
        return _through(self.hidden, values.flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, active] for examples [B, C, H, W]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def _linear_layers(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))


def _through(layers: nn.ModuleList, values: Tensor) -> Tensor:
    for layer in layers:
        values = F.relu(layer(values))
    return values


def build(config: NetworkConfig, input_shape: tuple[int, int, int], n_outputs: int, seed: int) -> Classifier:
    """Make a network with PyTorch's default initialization, on the CPU.

    Args:
        config: the architecture.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        seed: decides the initial parameters; the global generator is left as it was.

    Returns:
        The network, in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return equip(_made(config, input_shape, n_outputs), n_outputs)


def _made(config: NetworkConfig, input_shape: tuple[int, int, int], n_outputs: int) -> nn.Module:
    if config.name == "cnn":
        return CNN(input_shape, config.channels, config.hidden, n_outputs)
    return MLP(math.prod(input_shape), config.hidden, n_outputs)


def check(
    config: NetworkConfig, input_shape: tuple[int, int, int], n_outputs: int, batch_size: int, device: torch.device
) -> None:
    """Check that a network can be made and trained, before its parameters take memory.

    Args:
        config: the architecture.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        batch_size: the examples of a step.
        device: where it is trained.

    Raises:
        InputError: it is too large, or the batch too small for it.
    """
    layers = f"network.hidden={config.hidden}" + (f" network.channels={config.channels}" if config.channels else "")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes alone
            model = _made(config, input_shape, n_outputs)
    except (RuntimeError, TypeError) as error:  # more than an address, or a number, can say
        raise InputError(f"{layers}: too large for any memory; expected narrower layers.") from error
    count = sum(p.numel() for p in model.parameters())
    what = f"{layers}: {count:,} parameters with {n_outputs} outputs"
    memory.refuse_beyond(count * _BYTES_OF_PARAMETER, what, "narrower layers", device)
    if isinstance(model, CNN) and batch_size == 1 and 1 in model.positions:
        _, height, width = input_shape
        raise InputError(
            f"benchmark.batch_size=1: network={config.name} leaves one position of an image of {height}x{width}, and "
            "batch normalization takes no average of one value; expected benchmark.batch_size=2 or more, or fewer "
            "network.channels."
        )
    what = f"benchmark.batch_size={batch_size}: as many examples in {layers}"
    memory.refuse_beyond(batch_size * _bytes_of_example(model, input_shape), what, "smaller batches", device)


def _bytes_of_example(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """What a step keeps of each example for the way back, of a network without values."""

    def kept(batch_size: int) -> int:
        sizes: dict[StorageWeakRef, int] = {}

        def count(value: Tensor) -> Tensor:
            storage = value.untyped_storage()  # one may be kept for several layers
            sizes[StorageWeakRef(storage)] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            logits = model(torch.empty(batch_size, *input_shape, device="meta"))
        assert logits.requires_grad  # what is kept lives as long as this does
        return sum(sizes.values())

    return kept(3) - kept(2)  # without what is kept of the parameters
