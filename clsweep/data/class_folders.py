"""Images in torchvision's ImageFolder layout: a folder for each class, labelled by the order of names. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clsweep import memory
from clsweep.config import DatasetConfig
from clsweep.data.arrays import Array, Arrays, first_line, named
from clsweep.errors import InputError
from clsweep.paths import no_folder, short

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # torchvision's
_GREY, _RGB = ("1", "L"), "RGB"
_OF_MORE_BITS = ("I", "F")


@dataclass(frozen=True)
class ClassFolder:
    """The files of a training or test set.

    Attributes:
        where: names its folder in a sentence.
        classes: the classes' names, in order.
        files: the images, by class and path.
        labels: the class of each file, from 0.
    """

    where: str
    classes: list[str]
    files: list[Path]
    labels: list[int]

    @property
    def described(self) -> str:
        """Each file's class and name, without its content."""
        return "\n".join(
            f"{self.classes[label]}/{file.name}" for file, label in zip(self.files, self.labels, strict=True)
        )


def listed(config: DatasetConfig) -> tuple[ClassFolder, ClassFolder]:
    """Training and test files.

    Raises:
        InputError: a folder is missing or has no images, or they don't have the same classes.
    """
    train, test = _listed("dataset.train", config.train), _listed("dataset.test", config.test)
    for one, other in ((train, test), (test, train)):
        lacking = [name for name in one.classes if name not in other.classes]
        if lacking:
            raise InputError(
                f"{other.where}: has no class folder {lacking[0]!r}, which {one.where} has; expected the same in both."
            )
    return train, test


def _listed(key: str, path: str | None) -> ClassFolder:
    if path is None:
        raise InputError(f"{key} is missing: dataset=folder needs dataset.train=DIR dataset.test=DIR.")
    where, folder = named(key, path), Path(path)
    if not folder.is_dir():
        raise InputError(f"{where}: {no_folder(path)}; expected one with a folder of images for each class.")
    classes = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if not classes:
        raise InputError(f"{where}: has no class folders; expected a folder of images for each class in it.")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(one for one in (folder / name).rglob("*") if one.suffix.lower() in _SUFFIXES and one.is_file())
        if not found:
            raise InputError(f"{where}: class folder {name!r} has no images; expected {', '.join(sorted(_SUFFIXES))}.")
        files += found
        labels += [label] * len(found)
    return ClassFolder(where, classes, files, labels)


def digest(config: DatasetConfig, contents: Callable[[Sequence[Path]], list[bytes]]) -> bytes:
    """The digest of the files' content, their classes, and how they are read.

    Args:
        config: the data set.
        contents: gives the digest of each file.

    Raises:
        InputError: see `listed`.
    """
    found = hashlib.sha256(str(config.resize).encode())
    for part in listed(config):
        found.update(part.described.encode())
        found.update(b"".join(contents(part.files)))
    return found.digest()


def read(train: ClassFolder, test: ClassFolder, resize: int | None) -> tuple[Arrays, Arrays]:
    """Training and test images: grey where all are, else RGB.

    Args:
        train: the training files.
        test: the test files.
        resize: the height and width that images get, cut to a square about their middle; None: they have one already.

    Returns:
        Images [N, H, W] or [N, H, W, 3] uint8, labels [N] int64.

    Raises:
        InputError: a file is no image, or has another size than the first one.
    """
    seen = [_seen(file) for part in (train, test) for file in part.files]
    mode = "L" if all(one.mode in _GREY for one in seen) else _RGB
    size = (resize, resize) if resize is not None else _size(seen)
    count = len(seen) * size[0] * size[1] * len(mode)
    memory.refuse_beyond(count, f"{train.where}: {len(seen):,} images", "fewer of them, or a smaller dataset.resize")
    made = []
    for part in (train, test):
        images = np.stack([_pixels(file, mode, size) for file in part.files])
        made.append(Arrays(images, np.array(part.labels, dtype=np.int64)))
    return made[0], made[1]


@dataclass(frozen=True)
class _Seen:
    """What an image's header says; `size` is width and height."""

    file: Path
    mode: str
    size: tuple[int, int]


def _seen(file: Path) -> _Seen:
    with _opened(file) as image:
        if image.mode.startswith(_OF_MORE_BITS):
            raise InputError(f"{short(file)}: is an image of mode {image.mode}; expected 8 bits a channel.")
        return _Seen(file, image.mode, image.size)


def _size(seen: Sequence[_Seen]) -> tuple[int, int]:
    first = seen[0]
    for one in seen:
        if one.size != first.size:
            side = min(*one.size, *first.size)
            raise InputError(
                f"{short(one.file)}: is {_shown(one)}, but {short(first.file)} is {_shown(first)}; expected images of "
                f"one size, or dataset.resize={side}, which cuts all to squares and scales them to {side}x{side}."
            )
    return first.size


def _shown(seen: _Seen) -> str:
    width, height = seen.size
    return f"{height}x{width}"


def _pixels(file: Path, mode: str, size: tuple[int, int]) -> Array:
    from PIL import Image, ImageOps

    with _opened(file) as image:
        converted = image.convert(mode)
        if converted.size != size:
            converted = ImageOps.fit(converted, size, Image.Resampling.BILINEAR)
        return np.asarray(converted)


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image  # here: only this data set needs it

    try:
        with Image.open(file) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # damaged files raise whatever their parser runs into
        raise InputError(
            f"{file}: can't be read as an image ({first_line(error)}); expected it whole, or gone."
        ) from error
