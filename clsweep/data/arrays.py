"""Labelled images as arrays: read from `.npz` files, and checked, whatever source they come from. Imports no torch."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clsweep import memory
from clsweep.config import LAYOUTS, DatasetConfig
from clsweep.errors import InputError
from clsweep.paths import no_file, short

Array = npt.NDArray[Any]

CHANNELS_LAST, CHANNELS_FIRST = LAYOUTS
_IMAGE_CHANNELS = (1, 3, 4)  # grey, RGB, RGB and transparency
_FEW_CHANNELS = 4
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")  # how an .npz file begins, and one without arrays
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Arrays(NamedTuple):
    """Images, laid out as in the file, and labels."""

    images: Array
    labels: Array


def read_npz(key: str, path: str | None) -> Arrays:
    """Read an .npz file.

    Args:
        key: what names the file on the command line.
        path: the file.

    Returns:
        Checked images, uint8 or float32, [N, H, W] or four axes in the file's own order; labels int64 from 0.

    Raises:
        InputError: it isn't there, or doesn't hold what it should.
    """
    if path is None:
        raise InputError(f"{key} is missing: dataset=arrays needs dataset.train=PATH.npz dataset.test=PATH.npz.")
    where = named(key, path)
    if not Path(path).is_file():
        raise InputError(f"{where}: {no_file(path)}; expected an .npz file with arrays images and labels.")
    try:
        # Opened here, since numpy leaves the file open when it is damaged.
        with Path(path).open("rb") as file:
            if file.read(len(_ZIPS[0])) not in _ZIPS:  # numpy takes anything else for an array, or for pickled objects
                raise InputError(
                    f"{where}: is no .npz file, whatever its name; expected one with arrays images and labels "
                    "(numpy.savez)."
                )
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            absent = [name for name in ("images", "labels") if name not in archive.files]
            if absent:
                raise InputError(
                    f"{where}: has no array {absent[0]!r}, only {', '.join(archive.files) or 'nothing'}; "
                    "expected images and labels."
                )
            for name in ("images", "labels"):
                _check_size(where, archive, name)
            return checked(where, archive["images"], archive["labels"])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{where}: cannot be read ({first_line(error)}); expected an .npz file of plain numeric arrays images "
            "and labels (pickled objects are never loaded)."
        ) from error


def named(key: str, path: str | None) -> str:
    """A file as it was typed on the command line."""
    return f"{key}={short(Path(str(path)))}"


def _check_size(where: str, archive: Any, name: str) -> None:
    """Refuse an array that is too large, or not as large as it claims: numpy takes the memory before it looks."""
    header = _header(archive, name)
    if header is None or header.kind.hasobject:
        return  # refused where it is read
    shape, kind, held = header
    claimed = math.prod(shape) * kind.itemsize
    if claimed != held:
        raise InputError(
            f"{where}: {name} should have shape {shape} of {kind}, {claimed:,} bytes, but {held:,} bytes are there; "
            "expected the file as numpy.savez wrote it."
        )
    memory.refuse_beyond(claimed, f"{where}: {name} of shape {shape}", "fewer of them")


class _Header(NamedTuple):
    """What an array's own header says, and how many bytes follow it."""

    shape: tuple[int, ...]
    kind: np.dtype[Any]
    held: int


def _header(archive: Any, name: str) -> _Header | None:
    """The header of an array in an .npz file, and no more read than that; None where it isn't a plain array."""
    member = archive.zip.getinfo(name if name in archive.zip.namelist() else f"{name}.npy")
    with archive.zip.open(member) as content:
        try:
            read = _HEADER_READERS[np.lib.format.read_magic(content)]
        except (ValueError, KeyError):
            return None
        shape, _, kind = read(content)
        return _Header(shape, kind, member.file_size - content.tell())


def checked(where: str, images: Any, labels: Any, n_classes: int | None = None) -> Arrays:
    """Check what a source holds.

    Args:
        where: names the source in a sentence.
        images: any kind of thing.
        labels: likewise.
        n_classes: how many classes there are, where that is known.

    Returns:
        The same: images uint8 or float32, three or four axes; labels int64 from 0.

    Raises:
        InputError: they aren't labelled images.
    """
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise InputError(f"{where}: {name} is not an array; expected arrays images and labels (numpy.savez).")
    if images.ndim not in (3, 4):
        expected = "[N, H, W], [N, H, W, C] or [N, C, H, W] (dataset.layout=chw)"
        if images.ndim == 2:
            expected += f"; for rows of features: images.reshape({len(images)}, 1, {images.shape[1]})"
        raise InputError(f"{where}: images have shape {images.shape}; expected {expected}.")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{where}: images are {images.dtype}; expected uint8 (0 to 255) or float.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise InputError(f"{where}: labels have shape {labels.shape}; expected [{len(images)}], one for each image.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{where}: labels are {labels.dtype}; expected integers.")
    if images.size == 0:
        raise InputError(f"{where}: holds no images; expected at least one of each class.")
    last = np.iinfo(np.int64).max if n_classes is None else n_classes - 1
    for label in (labels.min(), labels.max()):
        if not 0 <= label <= last:
            raise InputError(f"{where}: has label {label}; expected labels from 0{_up_to(n_classes)}.")
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise InputError(f"{where}: images hold NaN or infinity, as float32; expected finite numbers.")
    return Arrays(images, labels.astype(np.int64))


def _up_to(n_classes: int | None) -> str:
    return "" if n_classes is None else f" to {n_classes - 1}"


def layout(where: str, shape: tuple[int, ...], chosen: str | None) -> str:
    """Where the channels are.

    A second axis of 1, 3 or 4 and a last one above 4 can only be PyTorch's [N, C, H, W]. A last axis of at most 4
    without such a second one is [N, H, W, C].

    Args:
        where: names the source in a sentence.
        shape: the images'.
        chosen: `dataset.layout`; None: what the shape says.

    Returns:
        `chw` or `hwc`; the latter for images without an axis of channels.

    Raises:
        InputError: the shape doesn't say.
    """
    if len(shape) == 3:
        return CHANNELS_LAST
    if chosen is not None:
        return chosen
    first, last = shape[1] in _IMAGE_CHANNELS, shape[3] <= _FEW_CHANNELS
    if first == last:
        raise InputError(
            f"{where}: images of shape {list(shape)} don't say where the channels are; expected dataset.layout=hwc "
            "([N, H, W, C]) or dataset.layout=chw ([N, C, H, W])."
        )
    return CHANNELS_FIRST if first else CHANNELS_LAST


def reads_channels_first(config: DatasetConfig) -> bool:
    """Whether a data set's own files are read as [N, C, H, W]; False, too, where they can't be read."""
    if config.source != "arrays" or config.train is None:
        return False
    try:
        with Path(config.train).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = _header(archive, "images")
        return header is not None and layout("", header.shape, config.layout) == CHANNELS_FIRST
    except Exception:  # whatever is wrong is said where they are loaded
        return False


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")
