"""What is summed of the gradients of single examples: their squares, or their absolute values."""

from __future__ import annotations

from torch import Tensor


class Phi:
    """An elementwise function with phi(xy) = phi(x) phi(y) and phi >= 0.

    Attributes:
        is_square: whether it is the square: that of a sum can be multiplied out.
    """

    is_square: bool

    def __call__(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add phi of every element to `total`, which has the same shape."""
        raise NotImplementedError


class Square(Phi):
    """x^2."""

    is_square = True

    def __call__(self, values: Tensor) -> Tensor:
        return values * values

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add phi of every element to `total`, which has the same shape."""
        total.addcmul_(values, values)


class Absolute(Phi):
    """|x|."""

    is_square = False

    def __call__(self, values: Tensor) -> Tensor:
        return values.abs()

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add phi of every element to `total`, which has the same shape."""
        total += values.abs()
