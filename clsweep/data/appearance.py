"""What the images are, and what is done with them before the network gets them, so that the user sees mistakes."""

from __future__ import annotations

import torch

from clsweep.config import BenchmarkConfig
from clsweep.data.datasets import ImageData

_HIGHEST_PLAUSIBLE = 1.5  # of images as floats, which usually run from 0 to 1
_FARTHEST_APART = 10  # by how much the largest values of training and test images may differ by chance


def described(data: ImageData, benchmark: BenchmarkConfig) -> str:
    """As in `1x28x28, uint8 0 to 255; divided by 255, padded to 32x32`."""
    channels, height, width = data.train.images.shape[1:]
    kind = str(data.train.images.dtype).removeprefix("torch.")
    lowest, highest = _range(data)
    first = " (channels first)" if data.channels_first else ""
    done = ["divided by 255"] if data.train.images.dtype == torch.uint8 else []
    if benchmark.normalize:
        done.append("normalized per channel")
    side = benchmark.image_size
    if side is not None and (height, width) != (side, side):
        done.append(f"padded to {side}x{side}")
    as_done = ", ".join(done) or "taken as they are"
    return f"{channels}x{height}x{width}{first}, {kind} {lowest:g} to {highest:g}; {as_done}"


def notes(data: ImageData, benchmark: BenchmarkConfig) -> tuple[str, ...]:
    """What the user should know of the images, a sentence each: what their source says, and values of an odd range."""
    # Normalized, all scales are the same; but test images are normalized by the statistics of the training images.
    odd = (_two_ranges(data), None if benchmark.normalize else _odd_range(data))
    return (*data.notes, *filter(None, odd))


def _two_ranges(data: ImageData) -> str | None:
    ends = [[float(end) for end in part.images.aminmax()] for part in (data.train, data.test)]
    train, test = (max(-low, high) for low, high in ends)
    if max(train, test) <= _FARTHEST_APART * min(train, test):
        return None
    return (
        f"training images go up to {train:g} and test images up to {test:g}, and what is done with both is the same: "
        "give them one scale, if they were saved in two"
    )


def _odd_range(data: ImageData) -> str | None:
    _, highest = _range(data)
    if data.train.images.dtype == torch.uint8:
        if highest > 1:
            return None
        return (
            f"uint8 images are divided by 255, and none of these has a value above {highest:g}: where 0 to 1 is meant, "
            "save them as float32"
        )
    if highest <= _HIGHEST_PLAUSIBLE:
        return None
    return (
        f"float images are taken as they are, here up to {highest:g}, while uint8 images are divided by 255: the same "
        "images as uint8 give other accuracies; save them as uint8, or as floats from 0 to 1, if that is what is meant"
    )


def _range(data: ImageData) -> tuple[float, float]:
    """The lowest and highest value, training and test images together."""
    found = [torch.stack(tuple(part.images.aminmax())) for part in (data.train, data.test)]
    both = torch.stack(found)
    return both.min().item(), both.max().item()
