"""What several test files build from: settings composed by Hydra, and tiny data sets."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from torch import nn

from clsweep import arguments, cli
from clsweep import config as settings
from clsweep.config import Config
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.training.observers import Started

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
GROUPS = ("benchmark", "dataset", "logger", "network", "optimizer", "protocol", "regularizer", "search")


def compose(*overrides: str) -> DictConfig:
    """The configuration of a command line, as Hydra composes it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", overrides=arguments.for_hydra(overrides))


composed_once = cache(compose)


def setting(*overrides: str) -> Config:
    """The checked setting of a command line.

    Composing takes long, so files are chosen once, and changed values put into a copy, read by Hydra's own grammar.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [one for one in parsed if one.type is OverrideType.CHANGE and one.key_or_group not in GROUPS]
    choices = [one.input_line for one in parsed if one not in values and one.input_line is not None]
    composed = deepcopy(composed_once(*choices))
    for override in values:
        OmegaConf.update(composed, override.key_or_group, override.value(), force_add=True)
    return settings.parse(composed)


def started(config: Config, folder: Path | None, device: str = "cpu") -> Started:
    """What an observer is told of a run that starts, without a network to speak of."""
    return Started(config, {"seed": config.seed}, (), (), nn.Identity(), device, folder, "", "run")


def random_images(per_class: int, n_classes: int, shape: tuple[int, ...], seed: int) -> LabelledImages:
    """uint8 images [N, *shape], the classes mixed."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=source)]
    images = torch.randint(0, 256, (len(labels), *shape), generator=source, dtype=torch.uint8)
    return LabelledImages(images, labels)


def image_data(
    n_classes: int, train_per_class: int = 6, test_per_class: int = 3, shape: tuple[int, int, int] = (1, 4, 4)
) -> ImageData:
    """A data set of random images with `n_classes` classes."""
    train = random_images(train_per_class, n_classes, shape, seed=1)
    return ImageData(train, random_images(test_per_class, n_classes, shape, seed=2), n_classes)


def command(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """A command line in this process; its exit code."""
    patch.setattr(sys, "argv", ["clsweep", *arguments])
    return cli.main()


class _Full:
    """A file on a disk that is full after a few bytes."""

    def __init__(self, file: Any, number: int) -> None:
        self._file, self._number = file, number

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        self._file.write(content[:7])
        raise OSError(self._number, os.strerror(self._number))


def refuse_writing(patch: pytest.MonkeyPatch, refused: Callable[[str], bool], number: int = errno.ENOSPC) -> None:
    """Let writing some files fail half-way, by their names."""
    opens = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opens(self, mode, *args, **options)
        return _Full(file, number) if "w" in mode and refused(self.name) else file

    patch.setattr(Path, "open", opened)
