from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clsweep.data.transforms import PixelOrder, Rotation, of_several


def images(n: int = 5, shape: tuple[int, int, int] = (2, 6, 9)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def rotated_naively(image: Tensor, degrees: float) -> Tensor:
    """Each pixel looked up where it comes from, weighted by the distance to its four neighbours; [C, H, W] float64."""
    _, height, width = image.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    made = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = i - (height - 1) / 2, j - (width - 1) / 2
            row, column = sin * x + cos * y + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(column), math.floor(column) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        made[:, i, j] += (1 - abs(row - a)) * (1 - abs(column - b)) * image[:, a, b]
    return made


@pytest.mark.parametrize("degrees", [0, 17.5, 90, 123, 180, -40])
@pytest.mark.parametrize("shape", [(1, 7, 7), (2, 6, 9)])
def test_a_rotation_is_that_of_a_naive_loop(degrees: float, shape: tuple[int, int, int]) -> None:
    batch = images(2, shape)
    expected = torch.stack([rotated_naively(image.double(), degrees) for image in batch])
    torch.testing.assert_close(Rotation(degrees, *shape[1:])(batch).double(), expected, rtol=0, atol=2e-5)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    batch = images(3, (1, 8, 8))
    torch.testing.assert_close(Rotation(90, 8, 8)(batch), batch.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_an_image_is_rotated_alike_in_every_batch() -> None:
    batch = images(40, (1, 8, 8))
    rotate = Rotation(33, 8, 8)
    assert torch.equal(rotate(batch)[7:9], rotate(batch[7:9]))


def test_one_function_for_several_contexts_does_what_theirs_do() -> None:
    batch = images(40, (1, 4, 4))
    source = torch.Generator().manual_seed(1)
    orders = [PixelOrder(torch.randperm(16, generator=source)) for _ in range(3)]
    contexts = torch.randint(3, (40,), generator=source)
    for transforms in (orders, [orders[0], None, Rotation(30, 4, 4)], [None, None, None], [None, None, torch.neg]):
        made = of_several(transforms)(batch, contexts)
        for image, context, one in zip(batch, contexts.tolist(), made, strict=True):
            transform = transforms[context]
            expected = image if transform is None else transform(image.unsqueeze(0))[0]
            assert torch.equal(one, expected)
