"""What the tests of sweeps build from: tiny studies on random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from builders import image_data, setting
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from clsweep.config import Config, DatasetConfig
from clsweep.data.context_cache import ContextCache
from clsweep.data.datasets import ImageData
from clsweep.methods.loading import load
from clsweep.sweeps import storage
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.worker import StudyWorker

TINY = (
    "+benchmark=split_mnist",
    "dataset=mnist_5k",
    "benchmark.contexts=3",
    "benchmark.iters=4",
    "benchmark.batch_size=8",
    "network.hidden=[8]",
    "device=cpu",
    "validation_fraction=0.3",
)


opened: list[BaseStorage] = []  # for the tests to close


def random_images(_: DatasetConfig) -> ImageData:
    """Six classes, twenty training images each: nothing can be learned, but accuracies differ."""
    return image_data(6, train_per_class=20, test_per_class=7)


def resolved(config: Config) -> Config:
    """A setting with a value for each of its method's hyperparameters, and what a sweep searches by itself."""
    loaded = load(config.regularizer)
    return replace(config, regularizer=replace(loaded.config, space=loaded.spaces))


def plan(folder: Path, *overrides: str, space: dict[str, str] | None = None) -> StudyPlan:
    """A study on random images, of three contexts; `space` replaces what its method searches."""
    config = resolved(setting(*TINY, *overrides))
    if space is not None:
        config = replace(config, regularizer=replace(config.regularizer, space=space))
    return StudyPlan(config, folder)


def worker(
    folder: Path,
    *overrides: str,
    space: dict[str, str] | None = None,
    load: Callable[[DatasetConfig], ImageData] = random_images,
) -> StudyWorker:
    """This process's part in such a study."""
    return worker_on(plan(folder, *overrides, space=space), load)


def worker_on(study: StudyPlan, load: Callable[[DatasetConfig], ImageData] = random_images) -> StudyWorker:
    """This process's part in a study."""
    connection = storage.connect(storage.url(None, study.folder))
    opened.append(connection)
    return StudyWorker(study, connection, ContextCache(load))


def finish(study: StudyWorker) -> list[FrozenTrial]:
    """Work until nothing is left."""
    while not study.is_done():
        assert study.work_once()
    return study.ledger.trials()
