"""The networks' layers, compared with PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import cnn, mlp
from torch import Tensor, nn

from clsweep import memory
from clsweep.errors import InputError
from clsweep.networks import MLP, Convolution, activate, check, equip

CPU = torch.device("cpu")


def gradients(outputs: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Of a sum with uneven weights, so that no gradient is the same everywhere."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return torch.autograd.grad((weights * outputs).sum(), of)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 4), (4, 1), (5, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_product_is_the_convolution(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    layer = Convolution(5, 7, stride).double().to(memory_format=torch.channels_last)
    inputs = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(inputs, layer.weight, stride=stride, padding=1)
    assert layer.output_size(inputs) == expected.shape[2:]
    product = layer.as_product(inputs)
    torch.testing.assert_close(product, expected)
    for computed, right in zip(
        gradients(product, inputs, layer.weight), gradients(expected, inputs, layer.weight), strict=True
    ):
        torch.testing.assert_close(computed, right)


@pytest.mark.parametrize(("size", "as_product"), [(8, True), (10, False)])  # 16 positions and 25
def test_forward_is_a_product_where_few_positions_are_left(
    monkeypatch: pytest.MonkeyPatch, size: int, as_product: bool
) -> None:
    torch.manual_seed(0)
    products = 0
    product = Convolution.as_product

    def counted(layer: Convolution, inputs: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return product(layer, inputs)

    monkeypatch.setattr(Convolution, "as_product", counted)
    layer = Convolution(5, 7, stride=2).double()
    inputs = torch.randn(3, 5, size, size, dtype=torch.float64)
    torch.testing.assert_close(layer(inputs), F.conv2d(inputs, layer.weight, stride=2, padding=1))
    assert products == as_product


def test_product_in_bf16_is_as_close_to_the_exact_convolution_as_conv2d_is() -> None:
    torch.manual_seed(0)
    layer = Convolution(64, 32, stride=2)
    inputs = torch.randn(8, 64, 4, 4)
    exact = F.conv2d(inputs.double(), layer.weight.double(), stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        product, convolution = layer(inputs), F.conv2d(inputs, layer.weight, stride=2, padding=1)
    assert product.dtype == convolution.dtype == torch.bfloat16
    assert (product - exact).norm() < 1.2 * (convolution - exact).norm()


def test_product_keeps_the_layout_that_convolutions_compute_in() -> None:
    layer = Convolution(5, 7, stride=2).to(memory_format=torch.channels_last)
    outputs = layer(torch.randn(3, 5, 4, 4))
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = gradients(outputs, layer.weight)
    assert gradient.stride() == layer.weight.stride()  # else the update would have to copy it


# What cannot be trained is refused before it is made


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (mlp([10**7]), "=[10000000]: 7,950,000,010 parameters with 10 outputs need 207.3 GiB of"),
        (mlp([10**15]), "network.hidden=[1000000000000000]: 795,000,000,000,000,010 parameters"),
        (mlp([10**21]), "too large for any memory"),
        (cnn([10**9], [4]), "network.hidden=[4] network.channels=[1000000000]: "),
    ],
)
def test_a_network_that_does_not_fit_into_memory(
    config: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda device: 100 * 2**30)
    with pytest.raises(InputError) as caught:
        check(config, (1, 28, 28), 10, 2, CPU)
    assert said in str(caught.value)
    assert str(caught.value).endswith("; expected narrower layers.")


@pytest.mark.parametrize(
    ("config", "of_each"),
    [
        (mlp([100, 50]), 4 * (16 + 100 + 50)),  # the layers' inputs
        (cnn([3], [8]), 4 * (16 + 3 * 16 + 3 * 16 + 8)),  # and the normalization's
    ],
)
def test_a_batch_that_does_not_fit_into_memory(
    config: dict[str, Any], of_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda device: of_each * 10**6)
    check(config, (1, 4, 4), 10, 10**6, CPU)
    with pytest.raises(InputError) as caught:
        check(config, (1, 4, 4), 10, 10**6 + 1, CPU)
    assert str(caught.value).startswith("benchmark.batch_size=1000001: as many examples in network.hidden=[")
    assert str(caught.value).endswith("are free; expected smaller batches.")


def test_one_example_is_no_batch_for_a_normalization_of_one_position() -> None:
    deep = cnn([2, 2, 2, 2], [4])
    check(deep, (1, 9, 9), 10, 1, CPU)
    check(deep, (1, 8, 8), 10, 2, CPU)
    check(mlp([4]), (1, 1, 1), 10, 1, CPU)
    with pytest.raises(InputError) as caught:
        check(deep, (1, 8, 8), 10, 1, CPU)
    assert str(caught.value) == (
        "benchmark.batch_size=1: network=cnn leaves one position of an image of 8x8, and batch normalization takes no "
        "average of one value; expected benchmark.batch_size=2 or more, or fewer network.channels."
    )


def test_a_check_leaves_the_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    check(mlp([4]), (1, 8, 8), 10, 1, CPU)
    assert torch.equal(torch.get_rng_state(), before)


# Which outputs a network of anyone's gives


class Own(nn.Module):
    """Knows nothing of clsweep: its layers are called as its author likes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 5)
        self.last = nn.Linear(5, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.stem(inputs.flatten(1)).relu())
        return logits


@pytest.mark.parametrize("make", [Own, lambda: MLP((1, 4, 4), 6, [5])], ids=["hook", "head"])
def test_a_network_gives_the_active_outputs_alone_and_a_copy_chooses_its_own(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = equip(make(), 6), torch.randn(3, 1, 4, 4)
    every = model(inputs)
    assert every.shape == (3, 6)
    activate(model, range(2, 4))
    torch.testing.assert_close(model(inputs), every[:, 2:4])
    (gradient,) = torch.autograd.grad(model(inputs).sum(), list(model.parameters())[2])
    assert not gradient[[0, 1, 4, 5]].any()
    assert gradient[2:4].any()
    copied = deepcopy(model)
    activate(copied, torch.tensor([[0, 5], [1, 2], [3, 3]]))
    torch.testing.assert_close(copied(inputs), every.gather(1, torch.tensor([[0, 5], [1, 2], [3, 3]])))
    torch.testing.assert_close(model(inputs), every[:, 2:4])


def test_an_equipped_network_lists_its_parameters_by_its_own_names() -> None:
    model = equip(Own(), 6)
    listed = {name: p for group in model.param_list for name, p in group()}
    assert list(listed) == ["stem.weight", "stem.bias", "last.weight", "last.bias"]
    assert list(listed.values()) == list(model.parameters())
