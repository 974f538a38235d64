"""The networks of the benchmarks, and the slim ResNet-18 of the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clsweep.networks.outputs import Head


class MLP(nn.Module):
    """Fully connected layers with ReLU.

    Args:
        input_shape: (C, H, W) of an example, which is flattened.
        n_outputs: the outputs over all contexts.
        hidden: the widths of the hidden layers.
    """

    def __init__(self, input_shape: Sequence[int], n_outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        self.hidden = _linear_layers(widths)
        self.head = Head(widths[-1], n_outputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer's activations [B, hidden[-1]]."""
        return _through(self.hidden, inputs.flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, active] for examples [B, C, H, W]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


class Convolution(nn.Conv2d):
    """A 3×3 convolution without bias, padded to keep the size or, with stride 2, to halve it, rounded up.

    The library for convolutions on a CPU cuts a convolution of few positions into many small products. Where sixteen
    positions or fewer are left, one product of all patches with the weight takes far less time in bf16 and
    about the same in float32.
    """

    FEW_POSITIONS = 16

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, out_channels, H', W'] from [B, in_channels, H, W]."""
        height, width = self.output_size(inputs)
        if inputs.is_cpu and height * width <= self.FEW_POSITIONS:
            return self.as_product(inputs)
        return super().forward(inputs)

    def output_size(self, inputs: Tensor) -> tuple[int, int]:
        """H' and W'."""
        stride = int(self.stride[0])
        return (inputs.shape[2] - 1) // stride + 1, (inputs.shape[3] - 1) // stride + 1

    def as_product(self, inputs: Tensor) -> Tensor:
        """The same values as those of PyTorch's convolution, but for rounding."""
        height, width = self.output_size(inputs)
        padded = F.pad(inputs, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        rows, columns = (_windows(n, int(self.stride[0]), inputs.device) for n in (height, width))
        pixels = rows[:, None, :, None] * padded.shape[2] + columns[None, :, None, :]  # [H', W', 3, 3]
        patches = padded.flatten(1, 2).index_select(1, pixels.flatten()).view(len(inputs), height, width, -1)
        return F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


def _windows(count: int, stride: int, device: torch.device) -> Tensor:
    """The three places that each window covers, [count, 3]."""
    return (torch.arange(count, device=device) * stride).unsqueeze(1) + torch.arange(3, device=device)


class CNN(nn.Module):
    """3×3 convolutions with batch normalization and ReLU, stride 2 from the second on, then an MLP.

    Args:
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        channels: the output channels of the convolutions.
        hidden: the widths of the fully connected layers.
    """

    memory_format = torch.channels_last  # what convolutions compute in

    def __init__(
        self, input_shape: Sequence[int], n_outputs: int, channels: Sequence[int], hidden: Sequence[int]
    ) -> None:
        super().__init__()
        in_channels, height, width = input_shape
        # No bias: the normalization that follows would take it out again.
        self.convolutions = nn.ModuleList(
            Convolution(before, after, stride=1 if number == 0 else 2)
            for number, (before, after) in enumerate(pairwise([in_channels, *channels]))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        for _ in channels[1:]:
            height, width = (height + 1) // 2, (width + 1) // 2
        widths = [channels[-1] * height * width, *hidden]
        self.hidden = _linear_layers(widths)
        self.head = Head(widths[-1], n_outputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer's activations [B, hidden[-1]]."""
        values = inputs
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = F.relu(norm(convolution(values)))
        return _through(self.hidden, values.flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, active] for examples [B, C, H, W]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


class ResNet18(nn.Module):
    """The slim ResNet-18 with a 3×3 stem that continual learning uses on CIFAR.

    He, Zhang, Ren & Sun ("Deep residual learning for image recognition", CVPR 2016) with a third of the filters and a
    stem of 3×3 without pooling, as in Lopez-Paz & Ranzato ("Gradient episodic memory for continual learning", NeurIPS
    2017) and the code that follows theirs, such as Mammoth (Buzzega et al., NeurIPS 2020). The average over the
    positions that are left takes images of any size.

    Args:
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        width: the channels of the first stage, which double from stage to stage.
    """

    memory_format = torch.channels_last

    def __init__(self, input_shape: Sequence[int], n_outputs: int, width: int) -> None:
        super().__init__()
        self.stem = Convolution(input_shape[0], width, stride=1)
        self.norm = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(_Residual(before, after, stride=1 if number == 0 else 2), _Residual(after, after, stride=1))
            for number, (before, after) in enumerate(pairwise(widths))
        )
        self.head = Head(widths[-1], n_outputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last stage's activations, averaged over positions: [B, 8 * width]."""
        values = F.relu(self.norm(self.stem(inputs)))
        for stage in self.stages:
            values = stage(values)
        return values.mean((2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, active] for examples [B, C, H, W]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


class _Residual(nn.Module):
    """Two normalized convolutions beside a shortcut, which is one of 1×1 where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [Convolution(in_channels, out_channels, stride), Convolution(out_channels, out_channels, stride=1)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)])
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, out_channels, H', W'] from [B, in_channels, H, W]."""
        values = inputs
        for convolution, norm, is_last in zip(self.convolutions, self.norms, (False, True), strict=True):
            values = norm(convolution(values))
            values = F.relu(values + self.shortcut(inputs) if is_last else values)
        return values


def _linear_layers(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))


def _through(layers: nn.ModuleList, values: Tensor) -> Tensor:
    for layer in layers:
        values = F.relu(layer(values))
    return values
