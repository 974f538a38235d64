"""A run's checkpoints: what is in one, when one is written, and how a run resumes from one.

Between two contexts little is alive: the network, the optimizer's state, what the method keeps, random streams, and
what was measured. All of it is written after each context; see `clsweep.checkpoints` for how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, Protocol

import torch

from clsweep import checkpoints, own, seeding
from clsweep.checkpoints.code import Code
from clsweep.checkpoints.files import Store
from clsweep.checkpoints.packing import MALFORMED, DamagedError, Packer, UnpackableError, Unpacker
from clsweep.results.curves import Point
from clsweep.results.metrics import Cell
from clsweep.targets import Target
from clsweep.training.loop import Timings, Trainer

Checkpoint = Mapping[str, Any]


class Measured(Protocol):
    """What a run has measured, and what it is called.

    Attributes:
        run_id: unique to the run.
        started_at: ISO 8601.
        cells: of all moments so far, in order.
    """

    run_id: str
    started_at: str
    cells: list[Cell]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's; None: it leaves none.
        setting: what decides the run's result; a checkpoint of another setting isn't used.
        evaluate_every: the steps between two measurements of the run's curve; None: it has none. A checkpoint with
            another value isn't used either.
        device: the run's.
        tell: is given sentences for the user.
    """

    def __init__(
        self,
        folder: Path | None,
        setting: Mapping[str, Any],
        evaluate_every: int | None,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        self._folder = folder  # None: there are to be none
        self._setting = dict(setting)
        self._every = evaluate_every
        self._device = device
        self._tell = tell

    def usable(self) -> Iterator[Checkpoint | None]:
        """The checkpoints that the run may resume from, the best first; at last None: it starts from the beginning."""
        for content in [] if self._folder is None else Store(self._folder).load(self._device, self._tell):
            is_same = content.get("setting") == self._setting and content.get("evaluate_every") == self._every
            if is_same and isinstance(content.get("learned"), int):
                yield content
        yield None

    def _do_without(self, error: UnpackableError) -> None:
        assert self._folder is not None
        self._tell(_told(error))
        checkpoints.remove(self._folder)
        self._folder = None

    def save(self, trainer: Trainer, code: Code, measured: Measured) -> None:
        """Write a checkpoint after a context; where something can't be kept, say so once, and leave none.

        Raises:
            OSError: it can't be written.
        """
        if self._folder is None:
            return
        try:
            content = packed(trainer, code)
        except UnpackableError as error:
            self._do_without(error)
            return
        content |= {
            "setting": self._setting,
            "timings": asdict(trainer.timings),
            "run": {"run_id": measured.run_id, "started_at": measured.started_at},
            "cells": [astuple(cell) for cell in measured.cells],
            "evaluate_every": self._every,
            "curve": [astuple(point) for point in trainer.curve],
        }
        Store(self._folder).save(trainer.learned, content)

    def remove(self) -> None:
        """Remove them: the run is finished."""
        if self._folder is not None:
            checkpoints.remove(self._folder)


def packed(trainer: Trainer, code: Code) -> dict[str, Any]:
    """What training goes on from, as tensors and plain containers.

    Args:
        trainer: between two contexts.
        code: the user's own, but for a method's file.

    Raises:
        UnpackableError: something of it can't be kept.
    """
    learner = trainer.learner
    packer = Packer([*learner.places(), code])
    return {
        "learner": learner.pack(packer),
        "code": code.pack(packer),
        "random": packer.pack(seeding.packable(seeding.capture(), learner.device), "the random numbers"),
        "learned": trainer.learned,
        "nodes": packer.nodes,
    }


def obstacles(trainer: Trainer, code: Code) -> list[str]:
    """Why a run would leave no checkpoints, in a sentence; none where it would.

    Args:
        trainer: between two contexts.
        code: the user's own, but for a method's file.
    """
    try:
        packed(trainer, code)
    except UnpackableError as error:
        return [_told(error)]
    return []


def _told(error: UnpackableError) -> str:
    return f"{error}, which a checkpoint can't hold: should a run be stopped, it starts over"


def restore(checkpoint: Checkpoint, trainer: Trainer, code: Code, measured: Measured) -> list[list[Cell]]:
    """Go on from a checkpoint.

    Args:
        checkpoint: what was in it.
        trainer: of a learner that has just been made.
        code: the user's own, but for a method's file.
        measured: is filled.

    Returns:
        The cells, moment by moment.

    Raises:
        DamagedError: it doesn't fit; the trainer, the learner and the method can't be used any more.
    """
    learner = trainer.learner
    try:
        unpacker = Unpacker([*learner.places(), code], checkpoint["nodes"], learner.device)
        learner.restore(checkpoint["learner"], unpacker)
        code.restore(checkpoint["code"], unpacker)
        seeding.restore(seeding.unpacked(unpacker.unpack(checkpoint["random"]), learner.device))
        trainer.learned = checkpoint["learned"]
        vars(trainer.timings).update(asdict(Timings(**checkpoint["timings"])))
        measured.run_id, measured.started_at = checkpoint["run"]["run_id"], checkpoint["run"]["started_at"]
        measured.cells[:] = [Cell(*cell) for cell in checkpoint["cells"]]
        trainer.curve[:] = [Point(*point) for point in checkpoint.get("curve", ())]
    except MALFORMED as error:
        raise DamagedError(str(error)) from error
    return by_moment(measured.cells)


def by_moment(cells: list[Cell]) -> list[list[Cell]]:
    """Cells by the moment that they were measured at, in order."""
    moments = sorted({cell.after_context for cell in cells})
    return [[cell for cell in cells if cell.after_context == moment] for moment in moments]


def code_of(targets: list[Target]) -> Code:
    """The modules of the user's own that targets come from, such as a network's; they have been imported."""
    names = {name for target in targets for path in target.paths for name in own.read(path)}
    return Code(lambda: {name: sys.modules[name] for name in sorted(names) if name in sys.modules}, names)
