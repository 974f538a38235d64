"""A stand-in for the harness that the published comparison was made with, written from a description of it.

It knows nothing of clsweep: a method is any object with `estimate_importance`, `compute_regularization_loss` and, if it
has one, `CONFIG_OVERRIDES`. What is special about it, to a file that was written elsewhere:

- layers are classes of its own, and have other names: one multiplies by the weight and by a buffer of ones, then adds
  the bias in place; one is a convolution that keeps its stride to itself;
- `model(x)` gives the logits of all classes, and the loss takes those of the context;
- data sets give one example at a time, with the label that counts over all classes, and have no `tensors`;
- `model.train()` is called at every step, the model is copied after each context, and no importance is asked for after
  the last one;
- the strength is the same for every method.

    python tests/stand_in.py custom_regularization.py split_mnist --data DATA --strength 5000

`DATA` has `MNIST/raw` as torchvision leaves it, and for Split-CIFAR100 `cifar100/train.npz` and `test.npz` with
`images` [N, 32, 32, 3] and `labels` [N]. The last line begins with the average accuracy on the test set; `--rows FILE`
adds it to a CSV file.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

CPU = torch.device("cpu")


class Dense(nn.Module):
    """x W^T times a buffer of ones, plus a bias."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        bound = n_inputs**-0.5
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_outputs).uniform_(-bound, bound))
        self.ones: Tensor
        self.register_buffer("ones", torch.ones(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        output = x.matmul(self.weight.t()) * self.ones
        output += self.bias
        return output


class FunctionalDense(nn.Module):
    """The same by one call of a function."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        other = Dense(n_inputs, n_outputs)
        self.weight, self.bias = other.weight, other.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Filter(nn.Module):
    """A 3x3 convolution without bias whose stride is no attribute."""

    def __init__(self, n_inputs: int, n_outputs: int, is_first: bool) -> None:
        super().__init__()
        bound = (9 * n_inputs) ** -0.5
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs, 3, 3).uniform_(-bound, bound))
        self.is_first = is_first

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, 1 if self.is_first else 2, 1)


class Block(nn.Module):
    """A layer, a batch norm where it is a convolution, and what follows it."""

    def __init__(self, layer: nn.Module, channels: int | None, is_last: bool) -> None:
        super().__init__()
        self.linear = layer
        self.bn = nn.Identity() if channels is None else nn.BatchNorm2d(channels)
        self.nl = nn.Identity() if is_last else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.nl(self.bn(self.linear(x)))
        return values


class Network(nn.Module):
    """Convolutions, if any, then fully connected layers; it gives the logits of all classes."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int], hidden: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.convE = nn.Sequential()
        n_features, size = shape[0], shape[1]
        for number, count in enumerate(channels):
            self.convE.append(Block(Filter(n_features, count, is_first=number == 0), count, is_last=False))
            n_features, size = count, size if number == 0 else (size + 1) // 2
        widths = [n_features * size * size, *hidden]
        pairs = zip(widths[:-1], hidden, strict=True)
        self.fcE = nn.Sequential(*(Block(FunctionalDense(*pair), None, is_last=False) for pair in pairs))
        self.classifier = Block(Dense(widths[-1], n_classes), None, is_last=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.fcE(self.convE(x).flatten(1)))
        return logits


class Examples(Dataset[tuple[Tensor, int]]):
    """Some of a data set's examples, one at a time, with what is done with an image on the way."""

    def __init__(self, images: Tensor, labels: Tensor, rows: Tensor, order: Tensor | None) -> None:
        self.images, self.labels, self.rows, self.order = images, labels, rows, order

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, labels = self.batch(self.rows[index].unsqueeze(0))
        return inputs[0], int(labels[0])

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at these rows of the data set, for the harness's own loop."""
        images = self.images[rows]
        if self.order is not None:
            images = images.flatten(1)[:, self.order].view(images.shape)
        return images, self.labels[rows]


@dataclass(frozen=True)
class Context:
    """What is learned in one go: its examples, and the classes that the loss is over."""

    train: Examples
    test: Examples
    classes: Tensor


@dataclass(frozen=True)
class Benchmark:
    """A network and how it is trained; the strength is that of the published comparison."""

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    contexts: int
    iterations: int
    batch_size: int
    lr: float
    strength: float


BENCHMARKS = {
    "split_mnist": Benchmark((), (400, 400), 5, 2_000, 128, 1e-3, 5_000),
    "perm_mnist": Benchmark((), (1_000, 1_000), 10, 2_000, 128, 1e-4, 10_000),
    "split_cifar100": Benchmark((16, 32, 64, 128, 256), (2_000, 2_000), 10, 5_000, 256, 1e-4, 100),
}


def contexts_of(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], count: int, permuted: bool, given: list[int] | None
) -> list[Context]:
    """Permutations of all pixels, or as many classes for each context, in a given order or one that is drawn."""
    if permuted:
        pixels = train[0][0].numel()
        every = [torch.arange(len(labels)) for _, labels in (train, test)]
        orders = [torch.randperm(pixels) for _ in range(count)]
        return [
            Context(Examples(*train, every[0], order), Examples(*test, every[1], order), torch.arange(10))
            for order in orders
        ]
    order = torch.randperm(int(train[1].max()) + 1) if given is None else torch.tensor(given)
    number = order.argsort()  # of a class, its output
    parts = [(images, number[labels]) for images, labels in (train, test)]
    made = []
    for classes in torch.arange(len(order)).chunk(count):
        rows = [torch.isin(labels, classes).nonzero().squeeze(1) for _, labels in parts]
        made.append(Context(Examples(*parts[0], rows[0], None), Examples(*parts[1], rows[1], None), classes))
    return made


def learn(
    method: Any, model: nn.Module, contexts: Sequence[Context], how: Benchmark, *, bf16: bool = False
) -> Iterator[list[float]]:
    """Train on one context after the other with a method's penalty.

    Yields:
        After each context the test accuracy on every context so far.
    """
    model.param_list = [model.named_parameters]  # type: ignore[assignment]
    model._custom_importance, model._custom_prev_params = {}, {}  # type: ignore[assignment]
    model.reg_strength, model.gamma, model.epsilon = how.strength, 0.9, 0.1  # type: ignore[assignment]
    strength = how.strength * getattr(method, "CONFIG_OVERRIDES", {}).get("reg_strength_scale", 1.0)
    named = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=how.lr)
    for number, context in enumerate(contexts):
        start = {key: p.detach().clone() for key, p in named.items()}
        path = {key: torch.zeros_like(p) for key, p in named.items()}
        old = {key: p.detach().clone() for key, p in named.items()}
        model._custom_W, model._custom_p_old = path, old  # type: ignore[assignment]
        for rows in _batches(context.train.rows, how.iterations, how.batch_size):
            model.train()
            optimizer.zero_grad()
            inputs, labels = context.train.batch(rows)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(inputs)[:, context.classes]
            loss = F.cross_entropy(logits.float(), labels - context.classes[0])
            if number > 0:
                loss = loss + strength * method.compute_regularization_loss(
                    model, model._custom_importance, model._custom_prev_params
                )
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in named.values()]
                steps = torch._foreach_sub(list(named.values()), list(old.values()))
                torch._foreach_addcmul_(list(path.values()), gradients, steps, value=-1)
                torch._foreach_copy_(list(old.values()), list(named.values()))
        if number + 1 < len(contexts):
            importance = method.estimate_importance(model, context.train, start, CPU)
            carried: dict[str, Tensor] = model._custom_importance  # type: ignore[assignment]
            summed = {key: value + carried.get(key, 0) for key, value in importance.items()}
            model._custom_importance = summed  # type: ignore[assignment]
            model._custom_prev_params = {key: p.detach().clone() for key, p in named.items()}  # type: ignore[assignment]
        copied = copy.deepcopy(model).eval()
        yield [_accuracy(copied, one) for one in contexts[: number + 1]]


def _batches(rows: Tensor, iterations: int, size: int) -> Iterator[Tensor]:
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(iterations):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(rows))])
        yield rows[order[:size]]
        order = order[size:]


@torch.no_grad()
def _accuracy(model: nn.Module, context: Context) -> float:
    correct = 0
    for rows in context.test.rows.split(1_000):
        inputs, labels = context.test.batch(rows)
        correct += int((model(inputs)[:, context.classes].argmax(1) + context.classes[0] == labels).sum())
    return correct / len(context.test)


def _mnist(folder: Path, pad: int) -> list[tuple[Tensor, Tensor]]:
    parts = []
    for name in ("train", "t10k"):
        images = np.fromfile(folder / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", np.uint8)[16:]
        labels = np.fromfile(folder / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", np.uint8)[8:]
        values = torch.from_numpy(images).view(-1, 1, 28, 28).float() / 255
        parts.append((F.pad(values, [pad] * 4), torch.from_numpy(labels).long()))
    return parts


def _cifar100(folder: Path) -> list[tuple[Tensor, Tensor]]:
    files = [np.load(folder / "cifar100" / f"{name}.npz") for name in ("train", "test")]
    images = [torch.from_numpy(file["images"]).permute(0, 3, 1, 2).float() / 255 for file in files]
    mean, std = images[0].mean((0, 2, 3), keepdim=True), images[0].std((0, 2, 3), keepdim=True)
    labels = [torch.from_numpy(file["labels"]).long() for file in files]
    return [((values - mean) / std, label) for values, label in zip(images, labels, strict=True)]


DATA: dict[str, Callable[[Path], list[tuple[Tensor, Tensor]]]] = {
    "split_mnist": lambda folder: _mnist(folder, 0),
    "perm_mnist": lambda folder: _mnist(folder, 2),
    "split_cifar100": _cifar100,
}


def load(file: Path) -> Any:
    """A method's file as a module."""
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def main() -> None:
    """Train with a file's penalty, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--classes", type=int, nargs="+", help="all of them, in their order; by default one is drawn")
    parser.add_argument("--strength", type=float, help="by default the published one")
    parser.add_argument("--iterations", type=int, help="for each context; by default the published ones")
    parser.add_argument("--contexts", type=int, help="only the first ones")
    parser.add_argument("--bf16", action="store_true", help="the network's passes in bfloat16")
    parser.add_argument("--rows", type=Path, help="a CSV file, to which a row with the result is added")
    a = parser.parse_args()
    how = BENCHMARKS[a.benchmark]
    changes = {"strength": a.strength, "iterations": a.iterations}
    how = Benchmark(**(vars(how) | {key: value for key, value in changes.items() if value is not None}))
    random.seed(a.seed)
    np.random.seed(a.seed)
    torch.manual_seed(a.seed)
    train, test = DATA[a.benchmark](a.data)
    contexts = contexts_of(train, test, how.contexts, a.benchmark == "perm_mnist", a.classes)[: a.contexts]
    model = Network(train[0].shape[1:], how.channels, how.hidden, int(train[1].max()) + 1)
    for accuracies in learn(load(a.file), model, contexts, how, bf16=a.bf16):
        average = sum(accuracies) / len(accuracies)
        print(f"{average:.4f}  ", *(f"{one:.3f}" for one in accuracies), flush=True)
    if a.rows is not None:
        _add_row(
            a.rows,
            file=a.file.name,
            digest=hashlib.sha256(a.file.read_bytes()).hexdigest()[:12],
            benchmark=a.benchmark,
            contexts=len(contexts),
            iterations=how.iterations,
            precision="bf16" if a.bf16 else "float32",
            strength=how.strength,
            classes=" ".join(map(str, a.classes or ())),
            seed=a.seed,
            average_accuracy=average,
        )


def _add_row(rows: Path, **values: object) -> None:
    """Add a row to a CSV file, with a header where it is new."""
    is_new = not rows.exists()
    with rows.open("a", newline="") as out:
        writer = csv.DictWriter(out, list(values))
        if is_new:
            writer.writeheader()
        writer.writerow(values)


if __name__ == "__main__":
    main()
