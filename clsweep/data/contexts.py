"""From labelled images to a stream of contexts.

Images become floats once, on the device. Contexts are views of them: image numbers, labels and, where a context shows
the images in a way of its own, a transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from clsweep import memory
from clsweep.config import STREAM, Config, check_class_count
from clsweep.data import appearance, returned
from clsweep.data.datasets import ImageData, untested
from clsweep.data.preparation import prepared
from clsweep.data.scenarios import SCENARIOS, Outputs
from clsweep.data.streams import ContextData
from clsweep.data.transforms import Transform
from clsweep.errors import InputError
from clsweep.seeding import Seeds, generator
from clsweep.targets import Target

_BYTES_OF_ENTRY, _BYTES_OF_CELL = 8, 200  # of an accuracy in a matrix, and as what was measured


@dataclass(frozen=True, eq=False)
class Part(Dataset[tuple[Tensor, Tensor]]):
    """The training, validation or test examples of one context: a view of images that all contexts share.

    Attributes:
        images: [N, C, H, W] float32, shared.
        rows: [n] int64, the examples of this part among the images.
        labels: [n] int64, over the active outputs.
        transform: what is done with the images, [b, C, H, W]; None: nothing.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    transform: Transform | None = None

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The examples with the numbers `index` [b]: inputs [b, C, H, W] and labels [b]."""
        images = self.images.index_select(0, self.rows.index_select(0, index))
        if self.transform is not None:
            images = self.transform(images)
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
        outputs: the network's output layer, and which of it is active when.
        input_shape: (C, H, W) of an example.
        n_train: distinct training images over all contexts, those held out not counted.
        n_test: distinct test images over all contexts.
        images: what the images are and what is done with them, as it is printed.
        notes: what the user should know of them, a sentence each.
    """

    contexts: Sequence[Context]
    outputs: Outputs
    input_shape: tuple[int, int, int]
    n_train: int
    n_test: int
    images: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """The size of the network's output layer."""
        return self.outputs.n

    def active(self, context: int, learned: int) -> range:
        """The active outputs for `context` (from 0) when `learned` contexts have been started."""
        return self.outputs.active(context, learned)


def build(data: ImageData, config: Config, device: torch.device) -> Stream:
    """Make the benchmark's contexts, or only the first ones, with the classes, outputs and held-out images of all.

    Args:
        data: the images, on the CPU.
        config: the setting; its benchmark's stream says what each context shows.
        device: where the images will live.

    Returns:
        The stream of contexts.

    Raises:
        InputError: the data set doesn't fit the benchmark, or the stream's function fails.
    """
    return fitted(made(data, config, device), config)


def fitted(stream: Stream, config: Config) -> Stream:
    """A stream with the notes on how a run uses it, which decides nothing of what the contexts hold.

    Args:
        stream: what `made` has made for this setting, or for one that differs in `stream=` or in the size of a batch.
        config: the run's setting.

    Raises:
        InputError: it can't be used that way.
    """
    _check_memory(config)
    _check_joint(config, stream.outputs)
    return replace(stream, notes=(*stream.notes, *_repeating(stream.contexts, config)))


def made(data: ImageData, config: Config, device: torch.device) -> Stream:
    """The contexts alone, which runs may share that use them in several ways; see `build` and `fitted`."""
    benchmark = config.benchmark
    check_class_count(config, data.n_classes)
    _check_memory(config)
    train_images, test_images = prepared(data, config, device)
    target = Target.of(STREAM, benchmark.stream)
    shape = _input_shape(train_images)
    shown = returned.contexts_of(target, data, config, shape)
    outputs = SCENARIOS[benchmark.scenario].outputs([_classes(number, one) for number, one in enumerate(shown)])
    make = _Maker(config, data, train_images, test_images, _held_out(data, config, shown))
    some = shown[: config.contexts_learned]
    contexts = [make(number, one, outputs.labels[number]) for number, one in enumerate(some)]
    return Stream(
        contexts,
        outputs,
        shape,
        n_train=_distinct(context.train for context in contexts),
        n_test=_distinct(context.test for context in contexts),
        images=appearance.described(data, benchmark),
        notes=(*appearance.notes(data, benchmark), *_unmeasured(some, data, config)),
    )


def _unmeasured(shown: Sequence[ContextData], data: ImageData, config: Config) -> list[str]:
    """A note where classes are learned that no test image is of; test labels of a stream's own are its own matter."""
    found = untested((one for some in shown if some.test_labels is None for one in some.classes), data, config.dataset)
    return [] if found is None else [f"{found}: no accuracy says how well that is learned"]


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


def _input_shape(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _distinct(parts: Iterator[Part]) -> int:
    return len(torch.cat([part.rows for part in parts]).unique())


def _check_memory(config: Config) -> None:
    """Refuse more contexts than can be measured."""
    contexts = config.benchmark.contexts
    cells = contexts * (contexts + 1)
    what = f"benchmark.contexts={contexts}: {cells:,} accuracies (each context, after each context)"
    of_cell = _BYTES_OF_ENTRY if config.stream == "joint" else _BYTES_OF_CELL
    memory.refuse_beyond(cells * of_cell, what, "fewer contexts")


def _check_joint(config: Config, outputs: Outputs) -> None:
    """A batch of all contexts has one row of active outputs for each example, all of one length."""
    sizes = {len(outputs.active(number, len(outputs.own))) for number in range(len(outputs.own))}
    if config.stream == "joint" and len(sizes) > 1:
        raise InputError(
            f"stream=joint: the contexts have {min(sizes)} to {max(sizes)} classes; expected as many in each, or "
            "outputs that all contexts share: benchmark.scenario=class or benchmark.scenario=domain."
        )


def _classes(number: int, shown: ContextData) -> list[tuple[int | None, int]]:
    """A context's classes, so that what is equal is the same class."""
    return [(number if shown.own_classes else None, one) for one in shown.classes]


def _held_out(data: ImageData, config: Config, shown: Sequence[ContextData]) -> Tensor | None:
    """The training images that are held out, a mask [N]: the same fraction of every class, chosen by the seed."""
    labels, fraction = data.train.labels, config.validation_fraction
    if fraction == 0:
        return None
    used = torch.zeros(len(labels), dtype=torch.bool)
    for one in shown:
        used[one.train] = True
    used_classes = set(labels[used].unique().tolist())
    held_out = torch.zeros_like(used)
    source = generator(Seeds.of(config).order, "validation")
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = round(fraction * len(members))
        if label in used_classes and not 0 < count < len(members):
            raise InputError(
                f"validation_fraction={fraction} of the {len(members)} examples of class {label} is {count}: "
                "expected at least one example for validation and one for training in every class."
            )
        held_out[members[torch.randperm(len(members), generator=source)[:count]]] = True
    return held_out


class _Maker:
    """Makes contexts; those that show the same images with the same labels share the images' numbers.

    Args:
        config: the setting.
        data: the images, on the CPU.
        train: the prepared training images.
        test: the prepared test images.
        held_out: which training images are held out; None: none.
    """

    def __init__(self, config: Config, data: ImageData, train: Tensor, test: Tensor, held_out: Tensor | None) -> None:
        self._config = config
        self._labels = {"training": data.train.labels, "validation": data.train.labels, "test": data.test.labels}
        self._images = {"training": train, "validation": train, "test": test}
        self._kept = {} if held_out is None else {"training": ~held_out, "validation": held_out}
        self._made: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, number: int, shown: ContextData, labels: Sequence[int]) -> Context:
        """The context with the number `number`, from 0; `labels` are those of its classes."""
        transform = shown.transform
        if isinstance(transform, nn.Module):
            transform = transform.to(self._images["test"].device)
        of_class = tuple(zip(shown.classes, labels, strict=True))

        def part(kind: str, rows: Tensor, classes: Tensor | None) -> Part:
            key = (kind, rows, classes, of_class)
            if key not in self._made:
                self._made[key] = self._numbers(kind, rows, classes, of_class)
            if len(self._made[key][0]) == 0:
                raise InputError(
                    f"validation_fraction={self._config.validation_fraction}: leaves context {number + 1} no {kind} "
                    "image; expected another fraction, or a stream of larger contexts."
                )
            return Part(self._images[kind], *self._made[key], transform)

        train = part("training", shown.train, shown.train_labels)
        held_out = part("validation", shown.train, shown.train_labels) if self._kept else None
        return Context(train, held_out, part("test", shown.test, shown.test_labels))

    def _numbers(
        self, kind: str, rows: Tensor, classes: Tensor | None, of_class: tuple[tuple[int, int], ...]
    ) -> tuple[Tensor, Tensor]:
        """The numbers of a part's images among all, and their labels, on the device."""
        classes = self._labels[kind][rows] if classes is None else classes
        if kind in self._kept:
            chosen = self._kept[kind][rows]
            rows, classes = rows[chosen], classes[chosen]
        known, labels = torch.tensor(sorted(of_class)).T.contiguous()
        device = self._images[kind].device
        return rows.to(device), labels[torch.searchsorted(known, classes)].to(device)
