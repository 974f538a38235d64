"""Contexts that are kept from run to run: a sweep's trials of one seed share theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import asdict

import torch

from clsweep.config import Config, DatasetConfig
from clsweep.data import contexts, datasets, identity
from clsweep.data.contexts import Stream
from clsweep.data.datasets import ImageData
from clsweep.protocol import Protocol
from clsweep.seeding import Seeds


class ContextCache:
    """Makes contexts, and keeps the last ones, and the last data set, for the next run.

    Args:
        load: reads a data set.
    """

    def __init__(self, load: Callable[[DatasetConfig], ImageData] = datasets.load) -> None:
        self._load = load
        self._data: tuple[str, ImageData] | None = None
        self._stream: tuple[Hashable, Stream] | None = None

    def __call__(self, config: Config, device: torch.device) -> Stream:
        """The contexts of a run; see `clsweep.data.contexts.build`.

        Args:
            config: the run's setting.
            device: where they go.

        Raises:
            InputError: the data are not there or don't fit, or can't be used as this run is to use them.
        """
        key = (Protocol.of(config).of_contexts, Seeds.of(config).order, str(device))
        if self._stream is None or self._stream[0] != key:
            self._stream = None  # two at once may be too much for the device
            self._stream = key, contexts.made(self.images(config.dataset), config, device)
        return contexts.fitted(self._stream[1], config)

    def images(self, config: DatasetConfig) -> ImageData:
        """A data set.

        Raises:
            InputError: it isn't there.
        """
        key = json.dumps([asdict(config), identity.digest(config)])  # its files may change meanwhile
        if self._data is None or self._data[0] != key:
            self._data = None
            self._data = key, self._load(config)
        return self._data[1]
