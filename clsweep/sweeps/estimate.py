"""How long a run will take, without training: its floating-point operations over this machine's speed."""

from __future__ import annotations

import time
from copy import deepcopy

import torch
from torch import Tensor, nn

from clsweep import networks
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.data.contexts import Stream
from clsweep.training.loop import protocol_of
from clsweep.training.run import pick_device

_SIDE = 1_024
_SECONDS_MEASURED = 0.2
_NETWORKS_IN_CHECKPOINT = 5
_STEP_OVER_FLOOR = 1.6  # a step with a penalty, importance and evaluation, over its matrix products alone


def run_seconds(config: Config, streams: ContextCache) -> float:
    """About how many seconds one run takes on this machine; good to a factor of two.

    Args:
        config: the run's setting.
        streams: makes the contexts, whose images' shape decides.

    Raises:
        InputError: the data are not there or don't fit.
    """
    stream = streams(config, torch.device("cpu"))
    operations = _step_operations(config, stream) * steps(config, streams)
    return _STEP_OVER_FLOOR * operations / _operations_per_second(config)


def steps(config: Config, streams: ContextCache) -> int:
    """How many optimizer steps one run makes; see `run_seconds`."""
    return sum(protocol_of(config).iterations(streams(config, torch.device("cpu"))))


def checkpoint_mib(config: Config, streams: ContextCache) -> float:
    """About how large one checkpoint is: the network, Adam's averages, and a method's importance and anchor.

    Args:
        config: a run's setting.
        streams: makes the contexts, whose images' shape decides.
    """
    stream = streams(config, torch.device("cpu"))
    model = networks.build(config.network, stream.input_shape, stream.n_outputs, 0)
    return sum(p.numel() * p.element_size() for p in model.parameters()) * _NETWORKS_IN_CHECKPOINT / 2**20


def _step_operations(config: Config, stream: Stream) -> float:
    """Floating-point operations of one step, counted on tensors without memory where that can be."""
    model = networks.build(config.network, stream.input_shape, stream.n_outputs, 0)
    batch_size = config.benchmark.batch_size
    try:
        return _operations(deepcopy(model).to("meta"), torch.empty(batch_size, *stream.input_shape, device="meta"))
    except Exception:  # a network of one's own may look at values
        return _operations(model, torch.zeros(2, *stream.input_shape)) * batch_size / 2


def _operations(model: nn.Module, inputs: Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # here, since it imports Triton

    with FlopCounterMode(display=False) as counter:
        model(inputs).sum().backward()
    return float(counter.get_total_flops())


def _operations_per_second(config: Config) -> float:
    """This machine's speed at matrix products in the run's precision."""
    device = pick_device(config.device)
    kind = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = torch.randn(2, _SIDE, _SIDE, device=device).to(kind)
    _sum(a @ b)  # the first one is slow
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS_MEASURED:
        _sum(a @ b)
        count += 1
    return 2 * _SIDE**3 * count / (time.perf_counter() - start)


def _sum(product: torch.Tensor) -> float:
    return float(product.sum().item())
