"""Streams: what each context shows of a data set. `benchmark.stream._target_` names one of these, or one of your own.

A stream is a function from labelled images to one `ContextData` for each context, in their order:

    import torch
    from clsweep.data.streams import ContextData

    def noisy(data, contexts, classes_per_context, seed, flipped=0.2):
        source = torch.Generator().manual_seed(seed)
        for number in range(contexts):
            classes = range(number * classes_per_context, (number + 1) * classes_per_context)  # a fixed order
            train = torch.isin(data.train.labels, torch.tensor(classes))
            labels = data.train.labels[train]
            wrong = torch.rand(len(labels), generator=source) < flipped
            labels = torch.where(wrong, labels.flip(0), labels)
            test = torch.isin(data.test.labels, torch.tensor(classes))
            yield ContextData(classes, train, test, train_labels=labels)

It gets the images and labels (`clsweep.data.datasets.ImageData`: `data.train.images` [N, C, H, W] as the files have
them, `data.train.labels` [N], the same of `data.test`, `data.n_classes`), and by name, where it has parameters of these
names, `contexts`, `classes_per_context`, `seed`, and `input_shape`, the (C, H, W) of the images once they are padded.
All its other parameters are arguments of its own: `benchmark.stream.flipped=0.1`. The same arguments must give the same
contexts. What a scenario makes of the classes, what is held out for validation, normalization and padding are none of
its business: clsweep does that for every stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clsweep import memory
from clsweep.data.datasets import ImageData
from clsweep.data.transforms import PixelOrder, Rotation, Transform
from clsweep.errors import InputError
from clsweep.seeding import generator

HALF_TURN = 180.0
_BYTES_OF_INDEX = 8


@dataclass(frozen=True, eq=False)
class ContextData:
    """What one context shows.

    Attributes:
        classes: its classes in the order of their labels. In the scenario `class` the same class has the same output
            in every context; in `task` contexts with the same classes in the same order share their outputs. Contexts
            of a stream may have different numbers of classes.
        train: the training images: [n] int64, their numbers from 0, or [N] bool, a mask of all. A number may come
            several times, and in several contexts. Those that are held out for validation are taken out of it.
        test: the test images, likewise.
        train_labels: [n] int64, the class of each of them, one of `classes`; None: as the data set has it.
        test_labels: likewise.
        transform: what is done with the images: a function, or an `nn.Module`, from prepared float32 images
            [b, C, H, W] to such images; None: nothing. It is called for each batch that is read, so it must give the
            same for the same image.
        own_classes: whether its classes differ from those with the same numbers in other contexts, as the digits of
            two permutations do; decides where the outputs are, in the scenarios `task` and `class`.
    """

    classes: Sequence[int]
    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    transform: Transform | None = None
    own_classes: bool = False


def split(data: ImageData, contexts: int, classes_per_context: int, seed: int) -> Iterator[ContextData]:
    """Disjoint classes for each context, in an order that the seed shuffles."""
    order = torch.randperm(data.n_classes, generator=generator(seed, "classes"))
    for classes in order[: contexts * classes_per_context].split(classes_per_context):
        train, test = (torch.isin(part.labels, classes) for part in (data.train, data.test))
        yield ContextData(classes.tolist(), train, test)


def permuted(data: ImageData, contexts: int, seed: int, input_shape: tuple[int, int, int]) -> Iterator[ContextData]:
    """All classes in every context, with the pixels (those of the padding, too) in an order of the context's own."""
    channels, height, width = input_shape
    values = channels * height * width
    what = f"benchmark.contexts={contexts}: as many orders of {values:,} values"
    memory.refuse_beyond(contexts * values * _BYTES_OF_INDEX, what, "fewer contexts")
    source = generator(seed, "permutations")
    orders = (torch.randperm(values, generator=source) for _ in range(contexts))
    yield from _all_classes(data, map(PixelOrder, orders))


def rotated(
    data: ImageData,
    contexts: int,
    seed: int,
    input_shape: tuple[int, int, int],
    max_degrees: float = HALF_TURN,
    degrees: Sequence[float] | None = None,
) -> Iterator[ContextData]:
    """All classes in every context, with the images rotated by an angle of the context's own.

    As in the code of Lopez-Paz & Ranzato, "Gradient Episodic Memory" (2017), angles ascend: the range from 0 to
    `max_degrees` has as many equal parts as there are contexts, and the seed draws one angle from each.

    Args:
        data: the images.
        contexts: how many.
        seed: draws the angles.
        input_shape: (C, H, W).
        max_degrees: where the last part ends.
        degrees: the angles themselves, one for each context, counter-clockwise.

    Raises:
        InputError: there are not as many angles as contexts, or all would be the same.
    """
    if degrees is None and max_degrees == 0:
        raise InputError("benchmark.stream.max_degrees=0: makes all contexts the same; expected an angle above 0.")
    if degrees is None:
        part = torch.rand(contexts, generator=generator(seed, "rotations"), dtype=torch.float64)
        degrees = ((torch.arange(contexts) + part) * (max_degrees / contexts)).tolist()
    if len(degrees) != contexts:
        raise InputError(
            f"benchmark.stream.degrees={list(degrees)}: has {len(degrees)} angles; expected {contexts}, one for "
            "each of benchmark.contexts."
        )
    _, height, width = input_shape
    yield from _all_classes(data, (Rotation(angle, height, width) for angle in degrees))


def _all_classes(data: ImageData, transforms: Iterator[Transform]) -> Iterator[ContextData]:
    """All images, each context's in a way of its own."""
    train, test = (torch.arange(len(part.labels)) for part in (data.train, data.test))
    for transform in transforms:
        yield ContextData(range(data.n_classes), train, test, transform=transform, own_classes=True)
