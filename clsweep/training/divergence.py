"""Whether training stays finite, and what may be the reason where it doesn't."""

from __future__ import annotations

import time

import torch
from torch import Tensor

_SECONDS_BETWEEN_LOOKS = 1.0
_GROWTH = 10.0  # a loss that grows by less before it is NaN has not run away


class LossWatch:
    """The losses of one stretch of training.

    They are kept on the device and looked at once a second, since a look waits for it.

    Args:
        stretch: what to call it, such as "context 3".
        iters: how many steps it has.
        done: how many of them an earlier part of the run has made.
    """

    def __init__(self, stretch: str, iters: int, done: int = 0) -> None:
        self._stretch = stretch
        self._iters = iters
        self._losses: list[Tensor] = []
        self._first: Tensor | None = None
        self._seen = done
        self._last_look = time.monotonic()

    def add(self, loss: Tensor) -> None:
        """Take a step's loss, a detached scalar."""
        self._losses.append(loss)

    def is_due(self) -> bool:
        """Whether it is time to look: once a second, and after the last step."""
        steps = self._seen + len(self._losses)
        return steps == self._iters or time.monotonic() - self._last_look > _SECONDS_BETWEEN_LOOKS

    def look(self) -> str | None:
        """The first loss since the last look that isn't finite, as the beginning of a sentence; None if all are."""
        self._last_look = time.monotonic()
        values = torch.stack(self._losses)
        if self._first is None:
            self._first = self._losses[0]
        finite = torch.isfinite(values)
        if finite.all():
            self._seen += len(values) - 1
            del self._losses[:-1]
            return None
        number = int(finite.logical_not().nonzero()[0])
        before = f"; {values[number - 1].item():.3g} one iteration earlier" if number else ""
        place = f"at iteration {self._seen + number + 1} of {self._iters}{before}"
        return f"the training loss became NaN or infinite in {self._stretch} ({place})"

    def has_grown(self) -> bool:
        """Whether the finite losses have grown, or become infinite, as they do where training runs away."""
        assert self._first is not None
        values = torch.stack([self._first, *self._losses])
        wrong = torch.isfinite(values).logical_not().nonzero()
        until = int(wrong[0]) + 1 if len(wrong) else len(values)
        sizes = values[:until].abs()
        return bool(sizes.nan_to_num(nan=0.0, posinf=torch.inf).max() > _GROWTH * sizes[0].clamp_min(1.0))
