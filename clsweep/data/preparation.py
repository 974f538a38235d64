"""Images as a network gets them: floats on its device, normalized and padded as the benchmark asks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clsweep import memory
from clsweep.config import Config
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.errors import InputError

_BYTES_OF_FLOAT = 4


def prepared(data: ImageData, config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Training and test images, each [N, C, H, W] float32 on the device.

    Args:
        data: the images, on the CPU.
        config: the setting; its benchmark says what is done with them.
        device: where they go.

    Raises:
        InputError: they are too many, or too large for the padding.
    """
    benchmark = config.benchmark
    _check_memory(data, config, device)
    train, test = (_as_float(part, device) for part in (data.train, data.test))
    if benchmark.normalize:
        std, mean = torch.std_mean(train, dim=(0, 2, 3), keepdim=True)
        # A channel that is the same in all training images has no scale; its standard deviation is a rounding error.
        constant = train.amin((0, 2, 3), keepdim=True) == train.amax((0, 2, 3), keepdim=True)
        train, test = ((images - mean) / std.masked_fill(constant, 1) for images in (train, test))
    if benchmark.image_size is not None:
        train, test = (_padded(images, benchmark.image_size, config) for images in (train, test))
    return train, test


def _check_memory(data: ImageData, config: Config, device: torch.device) -> None:
    images = len(data.train.labels) + len(data.test.labels)
    channels, height, width = data.train.images.shape[1:]
    side = config.benchmark.image_size
    values = channels * (side or height) * (side or width)
    by = f"dataset={config.dataset.name}" if side is None else f"benchmark.image_size={side}"
    what = f"{by}: {images:,} images of {values:,} values"
    memory.refuse_beyond(images * values * _BYTES_OF_FLOAT, what, "fewer or smaller images", device)


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
