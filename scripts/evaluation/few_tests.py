"""A stream of few test examples: with a hundred contexts, all of them would take longer to test than to train.

python -m clsweep +benchmark=perm_mnist benchmark.stream._target_=scripts.evaluation.few_tests.permuted
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from clsweep.data import streams
from clsweep.data.datasets import ImageData
from clsweep.data.streams import ContextData
from clsweep.seeding import generator


def permuted(
    data: ImageData, contexts: int, seed: int, input_shape: tuple[int, int, int], tests: int = 1000
) -> Iterator[ContextData]:
    """`permuted` of `clsweep.data.streams` with at most `tests` test examples a context, drawn anew in each."""
    source = generator(seed, "few tests")
    for context in streams.permuted(data, contexts, seed, input_shape):
        images = context.test.nonzero().squeeze(1) if context.test.dtype == torch.bool else context.test
        yield replace(context, test=images[torch.randperm(len(images), generator=source)[:tests]].sort().values)
