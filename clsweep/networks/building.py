"""From what a setting says of its network to the network, and what is refused before anything is trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from clsweep import architecture, memory
from clsweep.errors import InputError
from clsweep.networks import trial
from clsweep.networks.equipment import Classifier, equip
from clsweep.seeding import GlobalStream
from clsweep.targets import Target

# The parameter, its gradient and Adam's two averages, where it was at the context's start and after the last step, and
# its path integral, 4 bytes each.
_BYTES_OF_PARAMETER = 28


def build(node: Mapping[str, Any], input_shape: tuple[int, int, int], n_outputs: int, seed: int) -> Classifier:
    """Make a network, on the CPU.

    Args:
        node: what the setting says of it.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        seed: decides the initial parameters; the global generators are left as they were.

    Returns:
        The network, in training mode, with what a run needs of it.

    Raises:
        InputError: it can't be made.
    """
    target = architecture.of(node)
    with GlobalStream(seed).active():
        model = _made(target, input_shape, n_outputs)
        examples = None if architecture.is_ours(target) else torch.zeros(1, *input_shape)
        return equip(model, n_outputs, examples)


def _made(target: Target, input_shape: tuple[int, int, int], n_outputs: int) -> nn.Module:
    model = target.make(input_shape=input_shape, n_outputs=n_outputs)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{target.key}._target_={target.path}: makes {type(model).__name__}; expected a torch.nn.Module."
        )
    trial.refuse_opaque(target, model)
    if any(map(is_lazy, model.parameters())):  # whose shapes the first examples decide
        with torch.no_grad():
            trial.given(target, model.eval(), torch.zeros(1, *input_shape))
    return model.train()


def check(
    node: Mapping[str, Any], input_shape: tuple[int, int, int], n_outputs: int, batch_size: int, device: torch.device
) -> None:
    """Check that a network can be made and trained, before its parameters take memory.

    Args:
        node: what the setting says of it.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        batch_size: the examples of a step.
        device: where it is trained.

    Raises:
        InputError: it or the batch is too large, the batch is too small for it, or it is a network of one's own that
            doesn't do what a network must.
    """
    target = architecture.of(node)
    is_ours = architecture.is_ours(target)
    with GlobalStream(0).active():
        shapes = _of_shapes(target, input_shape, n_outputs)
        if shapes is not None:
            _check_memory(node, shapes, n_outputs, device)
            if is_ours and batch_size == 1:
                _check_single_example(node, shapes, input_shape)
            _check_batch(node, shapes, input_shape, batch_size, device)
        if not is_ours:
            trial.check(target, _made(target, input_shape, n_outputs).to(device), input_shape, n_outputs, batch_size)


def _of_shapes(target: Target, input_shape: tuple[int, int, int], n_outputs: int) -> nn.Module | None:
    """The network without values; None where one's own needs values, or is wrong, which making it will tell."""
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            return _made(target, input_shape, n_outputs)
    except Exception as error:
        if not architecture.is_ours(target):
            return None
        said = " ".join(target.typed(name) for name in target.arguments)  # more than an address, or a number, can say
        raise InputError(f"{said}: too large for any memory; expected narrower layers.") from error


def _check_memory(node: Mapping[str, Any], shapes: nn.Module, n_outputs: int, device: torch.device) -> None:
    count = sum(p.numel() for p in shapes.parameters())
    what = f"{architecture.size_typed(node)}: {count:,} parameters with {n_outputs} outputs"
    memory.refuse_beyond(count * _BYTES_OF_PARAMETER, what, "narrower layers", device)


def _check_single_example(node: Mapping[str, Any], shapes: nn.Module, input_shape: tuple[int, int, int]) -> None:
    try:
        shapes(torch.empty(1, *input_shape, device="meta"))
    except ValueError as error:
        _, height, width = input_shape
        instead = "fewer network.channels" if "channels" in node else "larger images (benchmark.image_size)"
        raise InputError(
            f"benchmark.batch_size=1: network={node['name']} leaves one position of an image of {height}x{width}, and "
            "batch normalization takes no average of one value; expected benchmark.batch_size=2 or more, or "
            f"{instead}."
        ) from error


def _check_batch(
    node: Mapping[str, Any],
    shapes: nn.Module,
    input_shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
) -> None:
    try:
        needed = batch_size * _bytes_of_example(shapes, input_shape)
    except Exception:
        if architecture.is_ours(architecture.of(node)):
            raise
        return  # it looks at values
    what = f"benchmark.batch_size={batch_size}: as many examples in {architecture.size_typed(node)}"
    memory.refuse_beyond(needed, what, "smaller batches", device)


def _bytes_of_example(shapes: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """What a step keeps of each example for back-propagation.

    The network gets memory, which holds anything: without any, on torch's meta device, a product imports torch's
    compiler, which takes seconds, as `to_empty` would. `shapes` must fit, then. What the CPU's convolutions keep for
    themselves, such as patches, counts, too.
    """
    network = copy.deepcopy(shapes)._apply(lambda value: torch.empty(value.shape, dtype=value.dtype))

    def kept(batch_size: int) -> int:
        sizes: dict[StorageWeakRef, int] = {}

        def count(value: Tensor) -> Tensor:
            storage = value.untyped_storage()  # one may be kept for several layers
            sizes[StorageWeakRef(storage)] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            logits = network(torch.empty(batch_size, *input_shape))
        assert logits.requires_grad  # what is kept lives as long as this does
        return sum(sizes.values())

    return kept(3) - kept(2)  # without what is kept for the parameters
