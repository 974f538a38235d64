"""The shipped file in a harness that knows nothing of clsweep: see `stand_in`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
import torch
import torch.nn.functional as F
from builders import setting
from stand_in import Benchmark, Context, Examples, Network
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.data import datasets

SHIPPED = Path(__file__).resolve().parent.parent.parent / "custom_regularization.py"
IMAGES = torch.randn(13, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([2, 3, 4] * 4 + [2])
CPU = torch.device("cpu")


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file, with batches that don't divide the examples."""
    module = stand_in.load(SHIPPED)
    monkeypatch.setattr(module, "BATCH", 5)
    monkeypatch.setattr(module, "CONVOLUTION_BATCH", 5)
    return module


def network(channels: tuple[int, ...]) -> Network:
    torch.manual_seed(0)
    made = Network((3, 6, 6), channels, (7, 5), 6).double()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made


def ordinary(model: Network) -> nn.Module:
    """The same network of PyTorch's layers, with the parameters' names and numbers."""
    made = copy.deepcopy(model)
    for block in made.modules():
        if isinstance(block, stand_in.Block):
            own: Any = block.linear
            weight = own.weight
            if isinstance(own, stand_in.Filter):
                stride = 1 if own.is_first else 2
                layer: nn.Module = nn.Conv2d(weight.shape[1], len(weight), 3, stride, 1, bias=False)
            else:
                layer = nn.Linear(weight.shape[1], len(weight))
                layer.bias = own.bias
            layer.weight = weight
            block.linear = layer
    return made


class Active(nn.Module):
    """The logits of some classes, of a network that gives all; the parameters' names stay."""

    def __init__(self, model: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.classes = classes
        for name, child in model.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = Network.forward(self, x)  # type: ignore[arg-type]
        return logits[:, self.classes]


def estimated(shipped: Any, model: nn.Module, dataset: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    importance: dict[str, Tensor] = shipped.estimate_importance(model, dataset, {}, CPU)
    return importance


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(given[key], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channels", [(), (4, 5)], ids=["mlp", "cnn"])
def test_layers_of_other_classes_have_the_importance_of_pytorchs(shipped: Any, channels: tuple[int, ...]) -> None:
    model = network(channels)
    data = TensorDataset(IMAGES, LABELS)
    expected = estimated(shipped, ordinary(model), data)
    assert_same(estimated(shipped, model, data), expected)
    assert len(model._factored_layers) == len(channels) + 3  # type: ignore[arg-type]


class Halved(TensorDataset):
    """Does something with an example on its way."""

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        images, labels = self.tensors
        return images[index] / 2, labels[index]


DATASETS: dict[str, Callable[[], Any]] = {
    "tensors that are no examples yet": lambda: Halved(2 * IMAGES, LABELS),
    "one example at a time": lambda: Examples(IMAGES, LABELS, torch.arange(13), None),
    "a list": lambda: [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
    "NumPy's arrays": lambda: [(image.numpy(), label.numpy()) for image, label in zip(IMAGES, LABELS, strict=True)],
    "with more than inputs and labels": lambda: [
        (image, label, 0) for image, label in zip(IMAGES, LABELS, strict=True)
    ],
}


@pytest.mark.parametrize("name", DATASETS)
def test_any_map_style_data_set_gives_the_same(shipped: Any, name: str) -> None:
    expected = estimated(shipped, network(()), TensorDataset(IMAGES, LABELS))
    assert_same(estimated(shipped, network(()), DATASETS[name]()), expected)


def test_of_all_logits_those_of_the_labels_classes_count(shipped: Any) -> None:
    """As many logits as there are, the importance is that of a model that gives the context's alone."""
    model, data = network(()), TensorDataset(IMAGES, LABELS)
    expected = estimated(shipped, Active(network(()), [2, 3, 4]), TensorDataset(IMAGES, LABELS - 2))
    importance = estimated(shipped, model, data)
    assert_same(
        {key: value for key, value in importance.items() if "classifier" not in key},
        {key: value for key, value in expected.items() if "classifier" not in key},
    )
    bias = importance["classifier__linear__bias"]
    assert (bias > 0).tolist() == [False, False, True, True, True, False]


def test_a_model_that_gives_the_classes_so_far_keeps_all_of_them(shipped: Any) -> None:
    """Class-incremental: later contexts have fewer classes than logits, and all logits are told apart."""
    model = Active(network(()), [0, 1, 2])
    estimated(shipped, model, TensorDataset(IMAGES, LABELS - 2))
    model.classes = [0, 1, 2, 3, 4, 5]
    estimated(shipped, model, TensorDataset(IMAGES, LABELS + 1))
    expected = Active(network(()), [0, 1, 2, 3, 4, 5])
    every = TensorDataset(IMAGES, torch.arange(13) % 6)
    alone = estimated(shipped, expected, every)
    torch.manual_seed(1)
    again = shipped.estimate_importance(model, TensorDataset(IMAGES, LABELS + 1), {}, CPU)
    assert_same(again, alone)


def test_a_copied_model_has_the_same_penalty_and_layers_of_its_own(shipped: Any) -> None:
    model = network((4,))
    importance = estimated(shipped, model, TensorDataset(IMAGES, LABELS))
    anchors = {name.replace(".", "__"): p.detach() + 0.1 for name, p in model.named_parameters()}
    other = copy.deepcopy(model)
    estimated(shipped, other, TensorDataset(IMAGES * 2, LABELS))
    before = shipped.compute_regularization_loss(model, importance, anchors)
    estimated(shipped, copy.deepcopy(model), TensorDataset(IMAGES * 3, LABELS))
    assert shipped.compute_regularization_loss(model, importance, anchors).item() == before.item() > 0
    assert shipped.compute_regularization_loss(other, importance, anchors).item() != before.item()


class Rectified(stand_in.FunctionalDense):
    """No linear layer: it bends what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Doubled(stand_in.FunctionalDense):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Two(nn.Module):
    """Two weights."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(n_outputs, n_inputs)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.first) + F.linear(x, self.second)


@pytest.mark.parametrize("layer", [Rectified, Doubled, Two])
def test_what_computes_something_else_has_no_factors(shipped: Any, layer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), layer(108, 7), nn.Linear(7, 6)).double()
    importance = estimated(shipped, model, TensorDataset(IMAGES, LABELS))
    (known,) = model._factored_layers  # type: ignore[misc]
    assert known.weight == "2__weight"
    assert all(value.max() > 0 for value in importance.values())


WINDOWS = [
    (kernel, stride, padding)
    for kernel in (1, 3, (3, 2))
    for stride in (1, (2, 1), 3)
    for padding in (0, (1, 0), "same")
    if padding != "same" or (stride == 1 and kernel != (3, 2))  # PyTorch has none with a stride; pads unevenly
]


@pytest.mark.parametrize("image", [(6, 6), (6, 5)], ids=["square", "oblong"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS, ids=str)
def test_a_convolutions_stride_padding_and_dilation_are_seen(
    shipped: Any, kernel: Any, stride: Any, padding: Any, dilation: int, image: tuple[int, int]
) -> None:
    """The patches that they cut, times the weight, are what it gives."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation).double()
    images = torch.randn(2, 3, *image, dtype=torch.float64)
    output = layer(images)
    size, found, pads, dilations = shipped._window(layer.weight, layer.bias, images, output)
    patches = F.unfold(images, size, dilations, pads, found)
    assert layer.bias is not None
    expected = (layer.weight.flatten(1) @ patches).view_as(output) + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(expected, output, rtol=1e-10, atol=1e-12)


def contexts(count: int) -> list[Context]:
    data = datasets.load(setting("benchmark=split_mnist", "dataset=mnist_5k").dataset)
    parts = [(part.images.float() / 255, part.labels) for part in (data.train, data.test)]
    return stand_in.contexts_of(parts[0], parts[1], 5, permuted=False, given=None)[:count]


class Nothing:
    """The penalty of no method."""

    @staticmethod
    def estimate_importance(model: nn.Module, *_: object) -> dict[str, Tensor]:
        return {}

    @staticmethod
    def compute_regularization_loss(model: nn.Module, *_: object) -> Tensor:
        return torch.zeros(())


def test_it_keeps_what_was_learned_at_its_own_strength_and_at_the_published_one() -> None:
    final = {}
    for name, strength, method in (
        ("none", 1.0, Nothing),
        ("own", 1.0, stand_in.load(SHIPPED)),
        ("published", 5_000.0, stand_in.load(SHIPPED)),
    ):
        torch.manual_seed(0)
        how = Benchmark((), (100, 100), 4, 100, 64, 1e-3, strength)
        model = Network((1, 28, 28), how.channels, how.hidden, 10)
        final[name] = list(stand_in.learn(method, model, contexts(4), how))[-1]
    mean = {name: sum(accuracies) / len(accuracies) for name, accuracies in final.items()}
    assert mean["own"] > mean["none"] + 0.03
    assert abs(mean["published"] - mean["own"]) < 0.02
