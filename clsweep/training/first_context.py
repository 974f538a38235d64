"""The first context, trained once for each protocol and seed, and shared by runs.

No hyperparameter of a method touches it before its importance is estimated: there is no penalty yet. What stands at its
end (parameters, buffers, the optimizer's state, the path integral, random streams, accuracies) is kept in a file, which
whoever comes first makes and others take over. Results are those of runs that train it themselves, to the last digit:
what would round differently (the kind of update, the number of threads, the processor) has a file of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout

from clsweep import process, seeding, tensor_files
from clsweep.checkpoints.code import Code
from clsweep.checkpoints.packing import MALFORMED, DamagedError, Packer, Places, UnpackableError, Unpacker
from clsweep.decisive import of_training
from clsweep.errors import InputError, RunError, named
from clsweep.paths import short
from clsweep.results.curves import Point
from clsweep.results.metrics import Cell
from clsweep.training.learner import Learner

log = logging.getLogger(__name__)

FOLDER: Final = "first_contexts"
_FORMAT: Final = 1
_DIGEST: Final = 16  # bytes of the digest
_QUIET = 10.0  # seconds that one waits for another process without a word
_BETWEEN_LOOKS = 1.0
# Training the first context takes seconds to minutes. Where it takes longer than this, or who makes it has been halted,
# each trains its own, as runs do that share none.
_PATIENCE = 600.0


@dataclass(frozen=True)
class Trained:
    """The first context, trained and measured.

    Attributes:
        cells: of the untrained network, and after the context.
        seconds: what training and measuring took.
        steps: optimizer steps made.
        evaluate_every: the steps between two measurements of the curve; None: there is none.
        curve: what was measured within the context.
    """

    cells: tuple[list[Cell], list[Cell]]
    seconds: float
    steps: int
    evaluate_every: int | None
    curve: list[Point]


class Shared:
    """A first context that runs share.

    Args:
        folder: where the files are.
        setting: what decides a run's result; see `clsweep.decisive`.
        learner: the run's.
        code: the user's own that it is trained with, but for a method's file.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any], learner: Learner, code: Code) -> None:
        machine = {
            "format": _FORMAT,
            "torch": torch.__version__,
            "device": _kind(learner.device),
            "update": learner.update_name,
            "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
        text = json.dumps([of_training(setting), machine], sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=_DIGEST).hexdigest()
        self._path = folder / f"{name}.pt"
        self._learner = learner
        self._code = code
        self._places: list[Places] = [learner.parts, code]  # none of the method's, whose runs share it with others

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Around looking for it and making it: another process that wants the same one waits, but not forever.

        A process that is halted, or a machine that is gone, may hold the lock for good, and it only saves work.
        """
        with ExitStack() as held:
            # Where the file system has no locks, or another sweep has removed the folder, two may make it: each whole.
            with suppress(NotImplementedError, OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self._path.with_suffix(".lock"))
                if self._acquired(lock):
                    held.callback(lock.release)
            yield

    def _acquired(self, lock: FileLock) -> bool:
        """Wait for the lock, or until what it is held for is there; False: one goes on without it."""
        with suppress(Timeout):
            lock.acquire(timeout=_QUIET)
            return True
        log.info("waiting for %s, which another process is making", self._path)
        begun = time.monotonic()
        while not self.is_there() and time.monotonic() - begun < _PATIENCE:
            with suppress(Timeout):
                lock.acquire(timeout=_BETWEEN_LOOKS)
                return True
        log.info("%s is still locked by another process, and isn't waited for any longer", self._path)
        return False

    def is_there(self) -> bool:
        return self._path.exists()

    def take(self, contexts: int, evaluate_every: int | None = None) -> Trained | None:
        """Take over what is there; the learner has begun the context.

        Args:
            contexts: how many the run measures; those that learn more or fewer of the stream share the same first one.
            evaluate_every: the steps between two measurements of the curve that the run is to have; None: none.

        Returns:
            None where it can't be read, or was measured on fewer contexts or with another `evaluate_every`: it is to
            be made anew.

        Raises:
            RunError: it is another network's.
        """
        try:
            content = tensor_files.read(self._path, self._learner.device)
            every, curve = content.get("evaluate_every"), [Point(*one) for one in content.get("curve", ())]
            if evaluate_every not in (None, every):
                log.info("%s was measured with evaluate_every=%s, and is made anew", self._path, every)
                return None
            unpacker = Unpacker(self._places, content["nodes"], self._learner.device)
            unpacker.unpack_all()  # before the learner is touched
            random = seeding.unpacked(unpacker.unpack(content["random"]), self._learner.device)
            with seeding.kept():
                seeding.restore(random)  # what doesn't fit here shows now, too
            before, after = ([Cell(*cell) for cell in cells] for cells in content["cells"])
            measured = max(cell.context for cell in after)
            before, after = ([cell for cell in cells if cell.context <= contexts] for cells in (before, after))
            trained = Trained((before, after), content["seconds"], content["steps"], every, curve)
        except (InputError, DamagedError, *MALFORMED) as error:
            log.info("%s can't be used, and is made anew: %s", self._path, error)
            return None
        if measured < contexts:
            log.info("%s was measured on %d contexts of %d, and is made anew", self._path, measured, contexts)
            return None
        try:
            self._learner.take_over(content["learner"], unpacker)
            self._code.restore(content["code"], unpacker)
            seeding.restore(random)
        except (DamagedError, *MALFORMED) as error:  # the learner is neither trained nor as it was built
            raise RunError(
                f"{short(self._path)}: isn't of this network ({named(error)}); expected it as a run left it: remove "
                "it, and it is made anew."
            ) from error
        return trained

    def keep(self, trained: Trained) -> None:
        """Write down what the learner holds at the context's end, before its importance is estimated.

        Nothing is written where something of it can't be packed.

        Raises:
            OSError: it can't be written.
        """
        packer = Packer(self._places)
        try:
            content = {
                "learner": self._learner.pack_trained(packer),
                "code": self._code.pack(packer),
                "random": packer.pack(seeding.packable(seeding.capture(), self._learner.device), "the random numbers"),
            }
        except UnpackableError as error:
            log.info("the first context isn't shared: %s", error)
            return
        content |= {
            "nodes": packer.nodes,
            "cells": [[astuple(cell) for cell in cells] for cells in trained.cells],
            "seconds": trained.seconds,
            "steps": trained.steps,
            "evaluate_every": trained.evaluate_every,
            "curve": [astuple(point) for point in trained.curve],
        }
        with process.interrupts_held(), suppress(FileNotFoundError):  # another sweep has just removed the folder
            self._path.parent.mkdir(parents=True, exist_ok=True)
            tensor_files.write(content, self._path)


def _kind(device: torch.device) -> str:
    """What computes: two kinds of GPU round differently."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def remove(folder: Path) -> None:
    """Remove the first contexts that runs have shared, but for those in use; whoever still wants one makes it again."""
    names: set[str] = set()
    with suppress(FileNotFoundError):  # another command of the same sweep has removed the folder at this moment
        names = {path.stem for path in (*folder.glob("*.pt"), *folder.glob("*.lock"))}
    for name in names:
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(folder / f"{name}.lock", timeout=0))
            except Timeout:
                continue  # it is being made, or taken over
            except (NotImplementedError, OSError):
                pass  # a file system without locks
            for path in (*folder.glob(f".{name}.pt.*.partial"), folder / f"{name}.pt", folder / f"{name}.lock"):
                path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
