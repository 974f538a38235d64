"""Who is told what happens in a run: the display, a sweep's reporter, loggers, callbacks of one's own.

A logger (`logger=wandb`) and a callback are observers that the configuration names. One of your own is an object with
some of the methods of `Observer`; its class may derive from that one:

    class Norms:                                      # my_callbacks.py, in the current folder
        def __init__(self, every: int = 100) -> None:
            self._every, self._count = every, 0

        def setting(self, run):
            self._model = run.model

        def step(self, loss):
            self._count += 1
            if self._count % self._every == 0:
                print(self._count, float(loss), sum(p.norm().item() for p in self._model.parameters()))

    python -m clsweep +benchmark=split_mnist callbacks.norms._target_=my_callbacks.Norms callbacks.norms.every=50

`logger.NAME._target_` does the same; the two words only say what it is for. What can be known to be wrong before
anything is trained is refused: a package or a class that isn't there, an argument that it doesn't take, an error while
it is made. After that the results come first: what an observer raises is said in one line, with its traceback in the
run's log, and the run goes on without that observer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from clsweep import process
from clsweep.errors import InputError, named
from clsweep.targets import TARGET, Target

if TYPE_CHECKING:  # checking what is typed takes neither torch nor pandas
    from torch import Tensor, nn

    from clsweep.config import Config
    from clsweep.results import Summary
    from clsweep.results.curves import Point
    from clsweep.results.metrics import Cell, Matrix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """The run that starts.

    Attributes:
        config: its setting.
        values: the same as the columns of `summary.csv` that are known now, by name: protocol, hyperparameters, seed,
            machine, versions.
        hyperparameters: the names of those that the method uses.
        shown: these with their values, and where they are from, as it is printed.
        model: the network, whose parameters training changes. What an observer changes in it, it must put back.
        device: where it is, as in `cuda:0`.
        folder: where the run's files go; None where it leaves none.
        study: what it is a part of: a sweep's study, or the folder of several seeds; empty for a single run.
        name: its own within that, as in `trial-0003`, else of benchmark, method and seed.
    """

    config: Config
    values: Mapping[str, str | int | float | bool]
    hyperparameters: Sequence[str]
    shown: Sequence[str]
    model: nn.Module
    device: str
    folder: Path | None
    study: str
    name: str


class Observer:
    """Is told what happens in a run, in this order; each method does nothing by default."""

    def setting(self, run: Started) -> None:
        """The run is about to start: data, network and method are there, nothing is trained.

        Raises:
            InputError: it can't be as asked; the one error with which any observer may end a run, before it begins.
        """

    def __enter__(self) -> Self:
        return self

    def note(self, sentence: str) -> None:
        """Something that the user should know of the run, at any time; only what shows the run is told."""

    def going_on(self, where: str) -> None:
        """The run will go on where an earlier part of it was stopped; only what shows the run is told.

        Args:
            where: as in `context 3 of 10`.
        """

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        """The run goes on where an earlier part of it was stopped; by default each moment is told as it was then.

        Args:
            measured: what that part measured, moment by moment, each as `context_done` is told it.
            iterations: how many optimizer steps it made.
        """
        for cells in measured:
            self.context_done(cells)

    def step(self, loss: Tensor) -> None:
        """One optimizer step was made; called thousands of times a second on small networks.

        A class of yours with this method costs about 0.3 ms a step, since the random number generators are kept for it.

        Args:
            loss: the step's, a detached scalar on the device: `float(loss)` waits for it, so do that seldom. It is the
                total loss, but without a penalty of which only the gradient is computed, as with most methods here.
        """

    def evaluated(self, points: Sequence[Point]) -> None:
        """The contexts so far were measured while one is learned, or at its end, as `evaluate_every` asks for.

        Args:
            points: what was measured; each has `training_context`, `iteration` within it, `overall_iteration`,
                `context`, `split`, `accuracy` (0 to 1) and `n`.
        """

    def context_done(self, cells: Sequence[Cell]) -> None:
        """A context was learned (or none yet, `after_context=0`), and all contexts were measured.

        Args:
            cells: what was measured; each has `after_context`, `context`, `split`, `accuracy` (0 to 1) and `n`.
        """

    def __exit__(self, *_: object) -> None:
        """Training is over, whatever ended it."""

    def finished(self, matrix: Matrix, summary: Summary) -> None:
        """The run is finished, and its files are written.

        Args:
            matrix: its test accuracies, [T + 1, T]; see `clsweep.results.metrics`.
            summary: its row of `summary.csv`.
        """

    def stopped(self, summary: Summary) -> None:
        """The run ended early; what was measured is written.

        Args:
            summary: its row of `summary.csv`; `status` and `reason` say why.
        """

    @property
    def where(self) -> str:
        """Where to look at what it wrote, for a line at the end of a single run; empty: nowhere."""
        return ""


_TOLD: Final = ("setting", "step", "evaluated", "context_done", "finished", "stopped")
_ALL: Final = (*_TOLD, "restored", "__enter__", "__exit__")


class Several(Observer):
    """Tells several observers, in order.

    Args:
        observers: the last one may raise in `context_done`, the others have been told by then.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._steps = [step for one in observers if (step := _step(one)) is not None]
        self._entered = ExitStack()

    def setting(self, run: Started) -> None:
        for one in self._observers:
            one.setting(run)

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        for one in self._observers:
            one.restored(measured, iterations)

    def step(self, loss: Tensor) -> None:
        for step in self._steps:
            step(loss)

    def evaluated(self, points: Sequence[Point]) -> None:
        for one in self._observers:
            one.evaluated(points)

    def context_done(self, cells: Sequence[Cell]) -> None:
        for one in self._observers:
            one.context_done(cells)

    def finished(self, matrix: Matrix, summary: Summary) -> None:
        for one in self._observers:
            one.finished(matrix, summary)

    def stopped(self, summary: Summary) -> None:
        for one in self._observers:
            one.stopped(summary)

    def __enter__(self) -> Self:
        for one in self._observers:
            self._entered.enter_context(one)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()


def _step(of: Observer) -> Callable[[Tensor], None] | None:
    """What is to be called at every step, where there is anything."""
    if isinstance(of, Guarded):
        return of.step if of.listens_to_steps else None
    return None if type(of).step is Observer.step else of.step


class Guarded(Observer):
    """An observer that the configuration names: what it raises ends its own part in the run, and nothing else.

    What it draws from the global generators isn't drawn from the run's random numbers, so that it decides no result.

    Args:
        key: as it is typed: `logger.wandb`.
        observer: an object with some of an observer's methods.

    Raises:
        InputError: it has none.
    """

    def __init__(self, key: str, observer: object) -> None:
        self.key = key
        self._observer = observer
        self._is_ours = type(observer).__module__.startswith("clsweep.")
        self._methods = {name: getattr(observer, name) for name in _ALL if _has(observer, name)}
        if not self._methods.keys() & set(_TOLD):
            raise InputError(
                f"{key}.{TARGET}: made {type(observer).__name__}, which has none of an observer's methods; expected "
                f"one of {', '.join(_TOLD)}."
            )

    @property
    def listens_to_steps(self) -> bool:
        """Whether it has a method for them."""
        return "step" in self._methods

    def setting(self, run: Started) -> None:
        self._tell("setting", run)

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        if "restored" in self._methods:
            self._tell("restored", measured, iterations)
        else:
            super().restored(measured, iterations)

    def step(self, loss: Tensor) -> None:
        self._tell("step", loss)

    def evaluated(self, points: Sequence[Point]) -> None:
        self._tell("evaluated", points)

    def context_done(self, cells: Sequence[Cell]) -> None:
        self._tell("context_done", cells)

    def finished(self, matrix: Matrix, summary: Summary) -> None:
        self._tell("finished", matrix, summary)

    def stopped(self, summary: Summary) -> None:
        self._tell("stopped", summary)

    def __enter__(self) -> Self:
        self._tell("__enter__")
        return self

    def __exit__(self, *of: object) -> None:
        self._tell("__exit__", *of)

    @property
    def where(self) -> str:
        """Where it says that one should look, while it works."""
        return str(getattr(self._observer, "where", "")) if self._methods else ""

    def _tell(self, name: str, *given: Any) -> None:
        method = self._methods.get(name)
        if method is None:
            return
        from clsweep import seeding  # here, since it imports torch

        try:
            # Our own loggers draw nothing, and at every step keeping the generators would cost something.
            with nullcontext() if self._is_ours and name == "step" else seeding.kept():
                method(*given)
        except Exception as error:
            if name == "setting" and isinstance(error, InputError):  # nothing is trained yet
                raise
            self._methods = {}
            log.exception("%s: %s raised", self.key, name)
            process.say("clsweep", f"{self.key}: {name} raised {named(error)}; the run goes on without it.")


def _has(observer: object, name: str) -> bool:
    """Whether it has a method of its own for that."""
    found = getattr(type(observer), name, None) or getattr(observer, name, None)
    return callable(found) and found is not getattr(Observer, name)


def targets(config: Config) -> list[Target]:
    """The loggers and callbacks that a setting names.

    Raises:
        InputError: one is no node with a `_target_`.
    """
    found = []
    for group, nodes in (("logger", config.logger), ("callbacks", config.callbacks)):
        for name, node in nodes.items():
            key = f"{group}.{name}"
            if not isinstance(node, Mapping):
                raise InputError(f"{key}={node}: expected {key}.{TARGET}=my_module.Name and its arguments.")
            if TARGET not in node and group == "logger":
                raise InputError(
                    f"{key}: is not among the loggers; expected logger={name} or {key}.{TARGET}=... as well."
                )
            found.append(Target.of(key, node))
    return found


def check(config: Config) -> None:
    """Check that the loggers and callbacks are there and take their arguments; torch isn't needed for it.

    Raises:
        InputError: one isn't there, or doesn't take them.
    """
    for target in targets(config):
        target.check()


def made(config: Config) -> list[Guarded]:
    """The loggers and callbacks of a run.

    Raises:
        InputError: making one raised, or made no observer.
    """
    from clsweep import seeding  # here, since it imports torch

    with seeding.kept():
        return [Guarded(target.key, target.make()) for target in targets(config)]
