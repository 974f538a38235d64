"""`dataset=folder`: images in a folder for each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clsweep.config import DatasetConfig
from clsweep.data import datasets, identity
from clsweep.data.datasets import ImageData
from clsweep.errors import InputError

Array = npt.NDArray[Any]
CLASSES = ("ant", "bee", "cat")


def pixels(number: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write(root: Path, shape: tuple[int, ...] = (4, 6, 3), per_class: int = 2, first: int = 0) -> Path:
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            image = Image.fromarray(pixels(first + per_class * label + number, shape))
            image.save(root / name / f"{number}.png")
    return root


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "train"), write(tmp_path / "test", per_class=1, first=50)


def config(folders: tuple[Path, Path], resize: int | None = None) -> DatasetConfig:
    train, test = map(str, folders)
    return DatasetConfig("folder", "folder", None, train=train, test=test, resize=resize)


def load(folders: tuple[Path, Path], resize: int | None = None) -> ImageData:
    return datasets.load(config(folders, resize))


def test_classes_are_the_folders_in_order(folders: tuple[Path, Path]) -> None:
    (folders[0] / ".hidden").mkdir()
    (folders[0] / "ant" / "notes.txt").touch()
    for _ in range(2):  # the second time from the cache
        data = load(folders)
        assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.test.labels.tolist() == [0, 1, 2]
        assert data.n_classes == 3
        for part, first in ((data.train, 0), (data.test, 50)):
            for number, image in enumerate(part.images):
                assert np.array_equal(image.numpy(), pixels(first + number, (4, 6, 3)).transpose(2, 0, 1))


def test_grey_images_have_one_channel_unless_some_are_not(tmp_path: Path) -> None:
    folders = write(tmp_path / "train", (4, 4)), write(tmp_path / "test", (4, 4), first=9)
    grey = load(folders)
    assert (grey.train.images.shape, grey.test.images.shape) == ((6, 1, 4, 4), (6, 1, 4, 4))
    Image.fromarray(pixels(1, (4, 4, 3))).save(folders[1] / "bee" / "0.png")
    mixed = load(folders)
    assert (mixed.train.images.shape, mixed.test.images.shape) == ((6, 3, 4, 4), (6, 3, 4, 4))
    assert torch.equal(mixed.train.images, grey.train.images.expand(-1, 3, -1, -1))


def test_resized_images_are_cut_about_their_middle(folders: tuple[Path, Path]) -> None:
    data = load(folders, resize=4)
    assert np.array_equal(data.train.images[0].numpy(), pixels(0, (4, 6, 3))[:, 1:5].transpose(2, 0, 1))
    assert load(folders, resize=2).train.images.shape == (6, 3, 2, 2)
    assert identity.digest(config(folders, 4)) != identity.digest(config(folders, 2))


def test_an_image_that_moves_to_another_class_makes_other_data(folders: tuple[Path, Path]) -> None:
    """The files in their order stay the same."""
    before, digest = load(folders), identity.digest(config(folders))
    (folders[0] / "bee" / "0.png").rename(folders[0] / "ant" / "2.png")
    after = load(folders)
    assert torch.equal(before.train.images, after.train.images)
    assert after.train.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert len(digest) == 12
    assert identity.digest(config(folders)) != digest


def test_a_changed_image_makes_other_data(folders: tuple[Path, Path]) -> None:
    digest = identity.digest(config(folders))
    Image.fromarray(pixels(99, (4, 6, 3))).save(folders[1] / "cat" / "0.png")
    assert identity.digest(config(folders)) != digest
    assert np.array_equal(load(folders).test.images[2].numpy(), pixels(99, (4, 6, 3)).transpose(2, 0, 1))


def _without_class(train: Path, test: Path) -> None:
    (test / "cat" / "0.png").unlink()
    (test / "cat").rmdir()


def _with_class(train: Path, test: Path) -> None:
    (test / "dog").mkdir()
    Image.fromarray(pixels(0, (4, 6, 3))).save(test / "dog" / "0.png")


def _empty_class(train: Path, test: Path) -> None:
    (train / "dog").mkdir()


def _damaged(train: Path, test: Path) -> None:
    (train / "bee" / "1.png").write_bytes((train / "bee" / "1.png").read_bytes()[:60])


def _no_image(train: Path, test: Path) -> None:
    (train / "bee" / "1.png").write_text("an image")


def _larger(train: Path, test: Path) -> None:
    Image.fromarray(pixels(0, (5, 7, 3))).save(test / "bee" / "0.png")


def _deep(train: Path, test: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(test / "bee" / "0.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_class, "dataset.test={test}: has no class folder 'cat', which dataset.train={train} has; expected "
            "the same in both."),
        (_with_class, "dataset.train={train}: has no class folder 'dog', which dataset.test={test} has; expected "
            "the same in both."),
        (_empty_class, "dataset.train={train}: class folder 'dog' has no images; expected .bmp, .jpeg, .jpg, .pgm, "
            ".png, .ppm, .tif, .tiff, .webp."),
        (_damaged, "{train}/bee/1.png: can't be read as an image ("),
        (_no_image, "{train}/bee/1.png: can't be read as an image (cannot identify image file"),
        (_larger, "{test}/bee/0.png: is 5x7, but {train}/ant/0.png is 4x6; expected images of one size, or "
            "dataset.resize=4, which cuts all to squares and scales them to 4x4."),
        (_deep, "{test}/bee/0.png: is an image of mode I;16; expected 8 bits a channel."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(
    spoil: Callable[[Path, Path], None], said: str, folders: tuple[Path, Path]
) -> None:
    train, test = folders
    spoil(train, test)
    with pytest.raises(InputError) as caught:
        load(folders)
    assert str(caught.value).startswith(said.format(train=train, test=test))


def test_folders_that_are_none_are_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    for train, said in (
        (tmp_path / "nowhere", "no such folder; expected one with a folder of images for each class."),
        (folders[0] / "bee" / "0.png", "is a file; expected one with a folder of images for each class."),
        (tmp_path / "empty", "has no class folders; expected a folder of images for each class in it."),
    ):
        with pytest.raises(InputError) as caught:
            load((train, folders[1]))
        assert str(caught.value) == f"dataset.train={train}: {said}"
        assert identity.digest(config((train, folders[1]))) == ""
    with pytest.raises(
        InputError, match=r"^dataset\.train is missing: dataset=folder needs dataset\.train=DIR dataset\."
    ):
        datasets.load(DatasetConfig("folder", "folder", None))
