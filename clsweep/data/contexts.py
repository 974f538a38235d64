"""From labelled images to a stream of contexts.

Images become floats once, on the device; contexts are views of them: row numbers, labels and, for permuted
benchmarks, an order of the pixels.

Scenarios are those of van de Ven, Tuytelaars & Tolias, "Three types of incremental learning" (2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from clsweep import memory
from clsweep.config import Config, check_class_count
from clsweep.data import appearance
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.errors import InputError
from clsweep.seeding import generator

_BYTES_OF_FLOAT, _BYTES_OF_INDEX = 4, 8
_BYTES_OF_ENTRY, _BYTES_OF_CELL = 8, 200  # of an accuracy in a matrix, and as what was measured


class Scenario(Protocol):
    """Which outputs are active, and which output a label belongs to. Contexts are counted from 0."""

    def n_outputs(self, contexts: int, classes: int) -> int:
        """The size of the output layer for `contexts` contexts of `classes` classes each."""
        ...

    def active(self, context: int, learned: int, classes: int) -> range:
        """The active outputs for an example of `context` when `learned` contexts have been started."""
        ...

    def first_label(self, context: int, classes: int) -> int:
        """The label, counted over the active outputs, of the first class of `context`."""
        ...


class TaskIncremental:
    """The context is known: each has outputs of its own, and labels from 0."""

    def n_outputs(self, contexts: int, classes: int) -> int:
        """One output a class and context."""
        return contexts * classes

    def active(self, context: int, learned: int, classes: int) -> range:
        """The context's own outputs."""
        return range(context * classes, (context + 1) * classes)

    def first_label(self, context: int, classes: int) -> int:
        """Labels start at 0 in every context."""
        return 0


class DomainIncremental:
    """The context is not known and not asked for: all contexts share the outputs."""

    def n_outputs(self, contexts: int, classes: int) -> int:
        """One output a class."""
        return classes

    def active(self, context: int, learned: int, classes: int) -> range:
        """All outputs, always."""
        return range(classes)

    def first_label(self, context: int, classes: int) -> int:
        """Labels start at 0 in every context."""
        return 0


class ClassIncremental:
    """The context is not known but must be told from the class: all classes seen so far are active.

    A context that has not been learned yet is evaluated over all classes up to its own.
    """

    def n_outputs(self, contexts: int, classes: int) -> int:
        """One output a class and context."""
        return contexts * classes

    def active(self, context: int, learned: int, classes: int) -> range:
        """The outputs of all contexts learned so far, and at least those up to `context`."""
        return range(max(learned, context + 1) * classes)

    def first_label(self, context: int, classes: int) -> int:
        """Labels run on over the contexts."""
        return context * classes


SCENARIOS: dict[str, Scenario] = {
    "task": TaskIncremental(),
    "domain": DomainIncremental(),
    "class": ClassIncremental(),
}


@dataclass(frozen=True, eq=False)
class Part(Dataset[tuple[Tensor, Tensor]]):
    """The training, validation or test examples of one context: a view of images that all contexts share.

    Attributes:
        images: [N, C, H, W] float32, shared.
        rows: [n] int64, the examples of this part among the images.
        labels: [n] int64, over the active outputs.
        order: [C * H * W] int64, the order of the pixels; None: as they are.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    order: Tensor | None = None

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The examples with the numbers `index` [b]: inputs [b, C, H, W] and labels [b]."""
        images = self.images.index_select(0, self.rows.index_select(0, index))
        if self.order is not None:
            images = images.flatten(1).index_select(1, self.order).view_as(images)
        return images, self.labels.index_select(0, index)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All examples at once, gathered anew at each call: inputs [n, C, H, W], labels [n]."""
        return self.take(torch.arange(len(self), device=self.rows.device))

    def gathered(self) -> TensorDataset:
        """All examples, gathered once; its `.tensors` are the inputs and labels."""
        return TensorDataset(*self.tensors)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.take(torch.tensor([index], device=self.rows.device))
        return inputs[0], labels[0]


@dataclass(frozen=True)
class Context:
    """One context's examples; `validation` is None where nothing is held out."""

    train: Part
    validation: Part | None
    test: Part

    def measured(self) -> Iterator[tuple[str, Part]]:
        """The parts that accuracy is measured on, with their names in `accuracy.csv`."""
        yield "test", self.test
        if self.validation is not None:
            yield "validation", self.validation


@dataclass(frozen=True)
class Stream:
    """The contexts in their order.

    Attributes:
        contexts: what is learned, one after the other.
        scenario: which outputs are active when.
        classes_per_context: the number of classes in each context.
        input_shape: (C, H, W) of an example.
        n_train: distinct training images over all contexts, those held out not counted.
        n_test: distinct test images over all contexts.
        images: what the images are and what is done with them, as it is printed.
        notes: what the user should know of them, a sentence each.
    """

    contexts: Sequence[Context]
    scenario: Scenario
    classes_per_context: int
    input_shape: tuple[int, int, int]
    n_train: int
    n_test: int
    images: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """The size of the network's output layer."""
        return self.scenario.n_outputs(len(self.contexts), self.classes_per_context)

    def active(self, context: int, learned: int) -> range:
        """The active outputs for `context` (from 0) when `learned` contexts have been started."""
        return self.scenario.active(context, learned, self.classes_per_context)


def build(data: ImageData, config: Config, device: torch.device) -> Stream:
    """Make the benchmark's contexts.

    Args:
        data: the images, on the CPU.
        config: the setting; its seed decides the order of classes or the permutations.
        device: where the images will live.

    Returns:
        The stream of contexts.

    Raises:
        InputError: the data set doesn't fit the benchmark.
    """
    benchmark = config.benchmark
    check_class_count(config, data.n_classes)
    _check_memory(data, config, device)
    train_images, test_images = _prepared(data, config, device)
    rows = _held_out(data, config)
    make = _split_contexts if benchmark.kind == "split" else _permuted_contexts
    scenario = SCENARIOS[benchmark.scenario]
    contexts = make(data, train_images, test_images, rows, scenario, config)
    return Stream(
        contexts,
        scenario,
        benchmark.classes_per_context,
        _input_shape(train_images),
        n_train=_distinct(context.train for context in contexts),
        n_test=_distinct(context.test for context in contexts),
        images=appearance.described(data, benchmark),
        notes=(*appearance.notes(data, benchmark), *_repeating(contexts, config)),
    )


def _repeating(contexts: Sequence[Context], config: Config) -> list[str]:
    """A note where a batch shows examples several times."""
    sizes = [len(context.train) for context in contexts]
    fewest = sum(sizes) if config.stream == "joint" else min(sizes)
    if config.benchmark.batch_size <= fewest:
        return []
    of = "all contexts together have" if config.stream == "joint" else f"context {1 + sizes.index(fewest)} has"
    return [
        f"benchmark.batch_size={config.benchmark.batch_size}, but {of} {fewest} training examples: a batch shows some "
        "of them several times"
    ]


def _check_memory(data: ImageData, config: Config, device: torch.device) -> None:
    """Refuse what can't fit: the images as floats, the contexts' own tensors, and what is measured on them.

    Raises:
        InputError: naming the key that asks for it.
    """
    benchmark, contexts = config.benchmark, config.benchmark.contexts
    images = len(data.train.labels) + len(data.test.labels)
    channels, height, width = data.train.images.shape[1:]
    side = benchmark.image_size
    values = channels * (side or height) * (side or width)
    by = f"dataset={config.dataset.name}" if side is None else f"benchmark.image_size={side}"
    what = f"{by}: {images:,} images of {values:,} values"
    memory.refuse_beyond(images * values * _BYTES_OF_FLOAT, what, "fewer or smaller images", device)
    cells = contexts * (contexts + 1)
    what = f"benchmark.contexts={contexts}: {cells:,} accuracies (each context, after each context)"
    of_cell = _BYTES_OF_ENTRY if config.stream == "joint" else _BYTES_OF_CELL
    memory.refuse_beyond(cells * of_cell, what, "fewer contexts")
    if benchmark.kind == "permuted":
        what = f"benchmark.contexts={contexts}: as many orders of {values:,} values"
        memory.refuse_beyond(contexts * values * _BYTES_OF_INDEX, what, "fewer contexts", device)


def _input_shape(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _distinct(parts: Iterator[Part]) -> int:
    return len(torch.cat([part.rows for part in parts]).unique())


def _prepared(data: ImageData, config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Training and test images as float32 on the device, normalized and padded as the benchmark asks."""
    train, test = (_as_float(part, device) for part in (data.train, data.test))
    benchmark = config.benchmark
    if benchmark.normalize:
        std, mean = torch.std_mean(train, dim=(0, 2, 3), keepdim=True)
        std = std.clamp_min(torch.finfo(std.dtype).eps)
        train, test = ((images - mean) / std for images in (train, test))
    if benchmark.image_size is not None:
        train, test = (_padded(images, benchmark.image_size, config) for images in (train, test))
    return train, test


def _as_float(part: LabelledImages, device: torch.device) -> Tensor:
    images = part.images.to(device)
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def _padded(images: Tensor, size: int, config: Config) -> Tensor:
    height, width = images.shape[2:]
    if height > size or width > size:
        raise InputError(
            f"dataset={config.dataset.name} has images of {height}x{width}, but benchmark={config.benchmark.name} pads "
            f"them to {size}x{size}: expected images that fit, or benchmark.image_size={max(height, width)}."
        )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


@dataclass(frozen=True)
class _Rows:
    """Row numbers of the training images: those to learn from and those held out, both in ascending order."""

    train: Tensor
    validation: Tensor | None


def _held_out(data: ImageData, config: Config) -> _Rows:
    """Hold out the same fraction of every class, chosen by the seed."""
    labels, fraction = data.train.labels, config.validation_fraction
    everything = torch.arange(len(labels))
    if fraction == 0:
        return _Rows(everything, None)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    used = set(_classes(data, config).tolist())
    source = generator(config.seed, "validation")
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = round(fraction * len(members))
        if label in used and not 0 < count < len(members):
            raise InputError(
                f"validation_fraction={fraction} of the {len(members)} examples of class {label} is {count}: "
                "expected at least one example for validation and one for training in every class."
            )
        held_out[members[torch.randperm(len(members), generator=source)[:count]]] = True
    return _Rows(everything[~held_out], everything[held_out])


def _classes(data: ImageData, config: Config) -> Tensor:
    """The classes that are learned, int64, in the order of the contexts: split ones are shuffled by the seed."""
    benchmark = config.benchmark
    if benchmark.kind == "permuted":
        return torch.arange(data.n_classes)
    order = torch.randperm(data.n_classes, generator=generator(config.seed, "classes"))
    return order[: benchmark.contexts * benchmark.classes_per_context]


def _split_contexts(
    data: ImageData, train: Tensor, test: Tensor, rows: _Rows, scenario: Scenario, config: Config
) -> list[Context]:
    """Disjoint classes for each context, in an order that the seed shuffles."""
    size = config.benchmark.classes_per_context
    order = _classes(data, config)

    def part(images: Tensor, labels: Tensor, among: Tensor, context: int) -> Part:
        label_of_class = torch.full((data.n_classes,), -1)
        first = scenario.first_label(context, size)
        label_of_class[order[context * size : (context + 1) * size]] = torch.arange(first, first + size)
        mapped = label_of_class[labels[among]]
        inside = mapped >= 0
        if not inside.any():
            raise InputError(f"dataset={config.dataset.name} has no test image for context {context + 1}.")
        return Part(images, among[inside].to(images.device), mapped[inside].to(images.device))

    return [
        Context(
            train=part(train, data.train.labels, rows.train, context),
            validation=None if rows.validation is None else part(train, data.train.labels, rows.validation, context),
            test=part(test, data.test.labels, torch.arange(len(test)), context),
        )
        for context in range(config.benchmark.contexts)
    ]


def _permuted_contexts(
    data: ImageData, train: Tensor, test: Tensor, rows: _Rows, scenario: Scenario, config: Config
) -> list[Context]:
    """All classes in every context, the pixels in an order of the context's own."""
    source = generator(config.seed, "permutations")
    n_values = train[0].numel()

    def part(images: Tensor, labels: Tensor, among: Tensor) -> Part:
        return Part(images, among.to(images.device), labels[among].to(images.device))

    as_they_are = Context(
        train=part(train, data.train.labels, rows.train),
        validation=None if rows.validation is None else part(train, data.train.labels, rows.validation),
        test=part(test, data.test.labels, torch.arange(len(test))),
    )

    def context(number: int) -> Context:
        order = torch.randperm(n_values, generator=source).to(train.device)
        first = scenario.first_label(number, data.n_classes)

        def permuted(of: Part) -> Part:
            return replace(of, order=order, labels=of.labels + first if first else of.labels)

        held_out = as_they_are.validation
        return Context(
            train=permuted(as_they_are.train),
            validation=None if held_out is None else permuted(held_out),
            test=permuted(as_they_are.test),
        )

    return [context(number) for number in range(config.benchmark.contexts)]
