"""A run in a folder of its own that Hydra didn't make: one of a sweep, or of several seeds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clsweep import results, resuming
from clsweep.config import Config, to_yaml
from clsweep.data.contexts import Stream
from clsweep.decisive import decisive
from clsweep.methods.files import MethodFile
from clsweep.methods.functions import Functions
from clsweep.training.observers import Observer
from clsweep.training.run import Outcome, PartOf, run

SETTING = Path(".hydra") / "config.yaml"


def run_in(
    folder: Path,
    config: Config,
    observer: Observer | None,
    prepare: Callable[[Config, torch.device], Stream] | None,
    method_file: MethodFile | Functions | None,
    *,
    rehearsed: bool,
    part_of: PartOf | None,
    first_contexts: Path | None = None,
) -> Outcome:
    """One run in a folder of its own, with its setting beside its results as Hydra leaves it.

    Args:
        folder: made if it isn't there.
        config: the run's setting.
        observer: is told what happens; None: it is printed.
        prepare: makes the contexts; None: they are made for this run alone.
        method_file: the method's file, or an object that has the functions; None: it has neither, or isn't read yet.
        rehearsed: whether its functions have been tried on a few examples.
        part_of: the study, or the seeds, that it is a part of.
        first_contexts: see `clsweep.training.run.run`.
    """
    setting = folder / SETTING
    if config.resume:
        resuming.refuse_other(folder, decisive(config, method_file))  # before its setting is lost
        resuming.refuse_gaps(folder, config)
    setting.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(to_yaml(config), setting)
    with _logging_to(folder / "clsweep.log"):
        return run(
            config,
            folder,
            observer,
            prepare,
            method_file,
            rehearsed=rehearsed,
            part_of=part_of,
            first_contexts=first_contexts,
        )


@contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Keep what is logged, such as the traceback of a regularizer that failed; no file where nothing is."""
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace", delay=True)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
