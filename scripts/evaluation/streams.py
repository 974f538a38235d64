"""Streams of few examples: those of `clsweep.data.streams` with a part of each context's training examples.

python -m clsweep +benchmark=split_mnist benchmark.stream._target_=scripts.evaluation.streams.split_few
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clsweep.data.datasets import ImageData
from clsweep.data.streams import ContextData, permuted, split
from clsweep.seeding import generator


def split_few(
    data: ImageData, contexts: int, classes_per_context: int, seed: int, part: float = 0.1
) -> Iterator[ContextData]:
    """`split` with a part of the training examples of each class."""
    return _few(split(data, contexts, classes_per_context, seed), data.train.labels, seed, part)


def permuted_few(
    data: ImageData, contexts: int, seed: int, input_shape: tuple[int, int, int], part: float = 0.1
) -> Iterator[ContextData]:
    """`permuted` with a part of the training examples of each class, drawn anew in each context."""
    return _few(permuted(data, contexts, seed, input_shape), data.train.labels, seed, part)


def _few(stream: Iterable[ContextData], labels: Tensor, seed: int, part: float) -> Iterator[ContextData]:
    """The contexts with fewer training examples, as many of each class as its part says, but at least one.

    Args:
        stream: the contexts; what they show of the test images stays.
        labels: [N] int64, of all training images.
        seed: draws the examples, by a random stream of its own.
        part: of each class, from 0 to 1.
    """
    source = generator(seed, "few examples")
    for context in stream:
        images = context.train.nonzero().squeeze(1) if context.train.dtype == torch.bool else context.train
        shuffled = images[torch.randperm(len(images), generator=source)]
        by_class = [shuffled[labels[shuffled] == one] for one in context.classes]
        kept = torch.cat([one[: max(1, round(part * len(one)))] for one in by_class])
        yield replace(context, train=kept.sort().values)
