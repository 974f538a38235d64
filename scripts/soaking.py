"""What the scripts that kill processes share: commands that start at once, and an account of every context begun.

A command is a fork of this process, which has imported everything and composed a sweep's setting already. It starts in
a second instead of ten, and a signal hits it as it would any other command. An observer in every run, `Account`, tells
what the contexts cost. It writes a line to a file, in one write, after the first step of a context, and another one
when the context is done, after its checkpoint was written. A context counts as trained twice where its first step is
made although it was finished before:

- a line says that it was done, or that a run went on after it; or
- its file is there: a checkpoint of this setting after it, in any run's folder of the sweep (the line may be missing,
  as the process was killed between the two), or, of a first context that is shared, the file that everyone shares.

A context that a kill interrupted is begun again. That is what a kill costs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from torch import Tensor

    from clsweep.results.metrics import Cell
    from clsweep.training.learner import Learner
    from clsweep.training.observers import Started

SMALL: Final = (
    *("+benchmark=split_mnist", "dataset=mnist_5k", "budget=smoke", "threads=1", "device=cpu"),
    *("benchmark.iters=30", "network.hidden=[64]"),  # a run takes a second
)
BEGUN, DONE, GOES_ON = "begun", "done", "goes on"
_AT_WORK, _NEXT_LINE, _FROM_START = "at work", "next line", "from the start"
_KINDS: Final = (_AT_WORK, _AT_WORK, _NEXT_LINE, _FROM_START)
_SOON: Final = 0.05  # seconds
LEFT_OVER: Final = ("*.partial", "checkpoints", "first_contexts")


class Account:
    """Writes down what a run trains; an observer, see `clsweep.training.observers`.

    Args:
        file: where the lines go, of all runs.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._learned = 0
        self._has_begun = False

    def setting(self, run: Started) -> None:
        self._run = run

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        """It goes on from a checkpoint; where nothing is told, with a first context that another run has trained."""
        self._learned = measured[-1][0].after_context if measured else 1
        self._write(GOES_ON, self._learned)

    def step(self, loss: Tensor) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._write(BEGUN, self._learned + 1)

    def context_done(self, cells: Sequence[Cell]) -> None:
        if cells[0].after_context:
            self._learned = cells[0].after_context
            self._has_begun = False
            self._write(DONE, self._learned)

    def _write(self, what: str, context: int) -> None:
        folder = self._run.folder
        assert folder is not None
        line = {
            "pid": os.getpid(),
            "what": what,
            "run": _digest(self._run, context),
            "context": context,
            "is_there": what == BEGUN and self._is_there(folder, context),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _is_there(self, folder: Path, context: int) -> bool:
        """Whether the end of a context is in a file."""
        import torch

        from clsweep import decisive
        from clsweep.training.first_context import FOLDER, Shared

        setting = json.loads((folder / decisive.FILE).read_text())
        there = [one for one in folder.parent.glob("*") if decisive.differences(one, setting) == ""]
        files = [file.name for one in there for file in one.glob("checkpoints/context-*.pt")]
        if any(int(re.findall(r"\d+", name)[0]) >= context for name in files):
            return True
        shared = [one / FOLDER for one in folder.parents if (one / FOLDER).is_dir()]
        like = SimpleNamespace(device=torch.device("cpu"), update_name=self._run.values["update"], parts=None)
        firsts = [Shared(one, setting, cast("Learner", like), cast(Any, None)) for one in shared]
        return context == 1 and any(one.is_there() for one in firsts)


def _digest(run: Started, context: int) -> str:
    """What tells the context of a run from others; a first one is the same in all runs of a protocol and seed."""
    values = run.values
    parts: list[object] = [values["seed"], values["validation_fraction"]]
    if context > 1:
        parts += [values["regularizer"], *(values.get(name) for name in run.hyperparameters)]
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@dataclass
class Contexts:
    """How many contexts were trained.

    Attributes:
        contexts: different ones that were begun; those of a sweep's runs, a first one that is shared counted once.
        begun: how often one was begun.
        trained_twice: how often one was begun that was finished already.
    """

    contexts: int
    begun: int
    trained_twice: int


def contexts(file: Path) -> Contexts:
    """Count the lines that `Account` has written."""
    finished: set[tuple[str, int]] = set()
    begun: list[tuple[str, int]] = []
    twice = 0
    for line in lines(file):
        one = (line["run"], line["context"])
        if line["what"] == BEGUN:
            begun.append(one)
            twice += line["is_there"] or one in finished
        else:
            finished.add(one)
    return Contexts(len(set(begun)), len(begun), twice)


def lines(file: Path, after: int = 0) -> list[dict[str, Any]]:
    """What was written so far, but for the first lines."""
    if not file.exists():
        return []
    with file.open() as opened:
        return [json.loads(line) for line in islice(opened, after, None)]


def override(file: Path) -> list[str]:
    """The arguments that give a command's runs an account."""
    return [f"callbacks.soak._target_={Account.__module__}.Account", f"callbacks.soak.file='{file.resolve()}'"]


class Command:
    """A command in a process of its own.

    Args:
        work: what it does; returns the exit code.
        log: its output is added to this file.

    Attributes:
        pid: the process's.
        began: when, by `time.monotonic`.
    """

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self._code: int | None = None
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(work, log)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it works."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self) -> int:
        """The exit code, in the end."""
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code


def _become(work: Callable[[], int], log: Path) -> None:
    from clsweep import process

    code = process.FAILED
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        random.seed()  # a fork continues its parent's random numbers, and so would every other one
        code = process.run_last("clsweep", work)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(arguments: Sequence[str]) -> Callable[[], int]:
    """`python -m clsweep ARGUMENTS`, for one run."""

    def work() -> int:
        from clsweep import cli

        sys.argv = ["clsweep", *arguments]
        return cli.main()

    return work


def sweep(arguments: Sequence[str], folder: Path) -> Callable[[], int]:
    """`python -m clsweep --multirun ARGUMENTS hydra.sweep.dir=FOLDER`."""
    from clsweep.sweeps import command, monitor

    asked = command.read(arguments, folder)

    def work() -> int:
        command.sweep(asked, monitor.console())
        return 0

    return work


def preload() -> None:
    """Import what commands need, by one in this process; let those find this module that are started otherwise."""
    os.environ["OMP_NUM_THREADS"] = "1"
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        sweep = [*("--multirun", f"hydra.sweep.dir={folder}"), *("search.n_trials=1", "search.final_seeds=0")]
        sys.argv = ["clsweep", *sweep, *SMALL, "regularizer=ewc", "search.pruner=null", "search.workers=1"]
        from clsweep import cli

        if cli.main() != 0:
            raise RuntimeError("the first command ended with an error")


class Aim:
    """When the next signal hits a command.

    Half come up to `pause` seconds after it began to train, a quarter within 50 milliseconds of a context's first step
    or end (checkpoint, files, storage, claim), and a quarter from its start on.

    Args:
        moments: random.
        pause: in seconds.
        from_start: whether it has just been started.
    """

    def __init__(self, moments: random.Random, pause: float, *, from_start: bool) -> None:
        self._moments = moments
        self._pause = pause
        self._kind = moments.choice(_KINDS if from_start else _KINDS[:-1])
        self._due: float | None = None

    def is_due(self, command: Command, has_written: bool) -> bool:
        """Whether the moment has come.

        Args:
            command: that is to be hit.
            has_written: whether a line of it was added to the account since it was aimed at.
        """
        now = time.monotonic()
        if self._due is None and (has_written or self._kind == _FROM_START):
            since = command.began if self._kind == _FROM_START else now
            self._due = since + self._moments.uniform(0, _SOON if self._kind == _NEXT_LINE else self._pause)
        return self._due is not None and now >= self._due


def half_written(folder: Path) -> set[str]:
    """Files that are being written, or that a killed process has left so."""
    return {name for *_, names in os.walk(folder) for name in names if name.endswith(".partial")}


def left_over(folder: Path) -> Iterator[Path]:
    """Files that are no results, which a finished run or sweep shouldn't leave."""
    for name in LEFT_OVER:
        yield from folder.rglob(name)
