"""The networks' layers, compared with PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clsweep.networks import Convolution


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
