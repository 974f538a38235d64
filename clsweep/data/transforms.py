"""What a context does to the images that all contexts share: applied to each batch, so that no copy of them is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Images [b, C, H, W] to images of the same shape, each by itself: the same image gives the same in any batch.
Transform: TypeAlias = Callable[[Tensor], Tensor]


class PixelOrder(nn.Module):
    """Puts the values of an image, those of all channels together, into another order.

    Args:
        order: [C * H * W] int64, the place that each value comes from.
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, images: Tensor) -> Tensor:
        """Images [b, C, H, W] in that order."""
        return images.flatten(1).index_select(1, self.order).view_as(images)


class Rotation(nn.Module):
    """Rotates images counter-clockwise about their centre, bilinearly; zeros come in at the corners.

    Args:
        degrees: the angle.
        height: the images' height.
        width: their width.
    """

    grid: Tensor

    def __init__(self, degrees: float, height: int, width: int) -> None:
        super().__init__()
        # In double precision: a quarter turn then meets the pixels' centres.
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        theta = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]], dtype=torch.float64)
        grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
        self.register_buffer("grid", grid.float())

    def forward(self, images: Tensor) -> Tensor:
        """Rotated images [b, C, H, W]."""
        grid = self.grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def of_several(transforms: Sequence[Transform | None]) -> Callable[[Tensor, Tensor], Tensor]:
    """One function for batches in which the examples of several contexts are mixed.

    Args:
        transforms: those of the contexts.

    Returns:
        From images [b, C, H, W] and the context [b] of each to transformed images.
    """
    orders = [one.order for one in transforms if isinstance(one, PixelOrder)]
    if len(orders) == len(transforms):  # all at once, instead of one call for each context
        stacked = torch.stack(orders)
        return lambda images, contexts: images.flatten(1).gather(1, stacked[contexts]).view_as(images)

    def by_context(images: Tensor, contexts: Tensor) -> Tensor:
        for number, transform in enumerate(transforms):
            if transform is not None:
                rows = (contexts == number).nonzero().squeeze(1)
                images = images.index_copy(0, rows, transform(images[rows])) if len(rows) else images
        return images

    return by_context
