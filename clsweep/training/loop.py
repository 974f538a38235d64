"""The loop over contexts and steps. It knows no method's name and writes nothing: what it measures, it yields."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep import process
from clsweep.config import Config
from clsweep.data.contexts import Part, Stream
from clsweep.data.transforms import of_several
from clsweep.errors import RunError
from clsweep.results.curves import Point, at_end, moments
from clsweep.results.metrics import Cell
from clsweep.seeding import Seeds, generator
from clsweep.training.divergence import LossWatch
from clsweep.training.first_context import Shared, Trained
from clsweep.training.learner import Learner

EVALUATION_BATCH = 1_000
_INDICES_AT_ONCE = 2**20


@dataclass
class Timings:
    """Where a run's time went, in seconds, and how many steps it made; `shared` is what others spent on its behalf."""

    train: float = 0.0
    importance: float = 0.0
    evaluation: float = 0.0
    steps: int = 0
    shared: float = 0.0


@dataclass(frozen=True)
class TrainingProtocol:
    """How long and with what a network is trained.

    Attributes:
        iters: optimizer steps for each context, unless `epochs` says how many.
        batch_size: examples in a step; every step has as many.
        seed: decides the order of the examples.
        epochs: passes over each context's training examples. The last one ends with a full batch, too: what it lacks
            comes from one more pass.
    """

    iters: int
    batch_size: int
    seed: int
    epochs: int | None = None

    def iterations(self, stream: Stream) -> list[int]:
        """The optimizer steps on each context of a stream."""
        sizes = [len(context.train) for context in stream.contexts]
        if self.epochs is None:
            return [self.iters] * len(sizes)
        return [math.ceil(self.epochs * size / self.batch_size) for size in sizes]


def protocol_of(config: Config) -> TrainingProtocol:
    """That of a setting."""
    benchmark = config.benchmark
    return TrainingProtocol(benchmark.iters, benchmark.batch_size, Seeds.of(config).batches, benchmark.epochs)


def measured_how(config: Config, stream: Stream) -> str:
    """How often a run is measured within the contexts, and what that costs, in words; empty where it isn't."""
    every, protocol = config.evaluate_every, protocol_of(config)
    if every is None:
        return ""
    iterations = protocol.iterations(stream)
    sizes = accumulate(sum(len(part) for _, part in context.measured()) for context in stream.contexts)
    examples = sum((iters - 1) // every * size for iters, size in zip(iterations, sizes, strict=True))
    more = examples / (sum(iterations) * protocol.batch_size)
    return f"every {every} iterations within a context: {more:.2g} examples evaluated for each one trained on"


@dataclass
class Trainer:
    """Trains a learner on a stream.

    Attributes:
        learner: what is trained.
        stream: the contexts.
        protocol: how.
        on_step: called after every optimizer step with its loss; see `Learner.step`.
        timings: filled on the way.
        learned: how many contexts have been learned, at first by an earlier part of the run.
        first: the first context, where runs share it.
        on_taken: called with the number of optimizer steps that the first context took, where another run made them.
        evaluate_every: the steps between two measurements within a context; None: it is measured after each context.
        on_measured: called with what was measured at one step.
        curve: all of that, in order, beginning with what an earlier part of the run has measured; empty without
            `evaluate_every`.
    """

    learner: Learner
    stream: Stream
    protocol: TrainingProtocol
    on_step: Callable[[Tensor], None] = lambda loss: None
    timings: Timings = field(default_factory=Timings)
    learned: int = 0
    first: Shared | None = None
    on_taken: Callable[[int], None] = lambda steps: None
    evaluate_every: int | None = None
    on_measured: Callable[[list[Point]], None] = lambda points: None
    curve: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        """How many steps each context has."""
        self._iterations = self.protocol.iterations(self.stream)

    @property
    def steps_learned(self) -> int:
        """How many optimizer steps the contexts learned so far have taken."""
        return sum(self._iterations[: self.learned])

    def sequentially(self) -> Iterator[list[Cell]]:
        """Train on one context after the other.

        Yields:
            The cells of the untrained network, then those after each context; of a resumed run, only those to come.

        Raises:
            RunError: the loss or the network became NaN or infinite, or the regularizer failed.
        """
        count = len(self.stream.contexts)
        if self.learned == 0 and self.first is not None:
            yield from self._learn_shared(self.first)
        elif self.learned == 0:
            yield self._evaluate(0)
        elif self.learned == count:  # nothing is left that would choose the outputs
            self.learner.activate(self.stream.active(count - 1, count))
        while self.learned < count:
            self.learn(self.learned)
            self.learned += 1
            yield self._measured_after(self._evaluate(self.learned))

    def jointly(self) -> Iterator[list[Cell]]:
        """Train on all contexts together for as many steps in total, each example with its own active classes.

        Yields:
            The cells of the untrained network; an empty list after as many steps as each context has, where a run can
            resume, too (`learned` counts these parts); and the cells at the end, which count as after the last context.

        Raises:
            RunError: the loss or the network became NaN or infinite.
        """
        count = len(self.stream.contexts)
        if self.learned == 0:
            yield self._evaluate(0)
        pool = _Pool(self.stream, self.learner.device)
        self.learner.start_context(sum(self._iterations), examples=len(pool))

        def batch(index: Tensor) -> tuple[Tensor, Tensor]:
            inputs, labels, active = pool.take(index)
            self.learner.activate(active)
            return inputs, labels

        for _ in self._steps(batch, pool, self._iterations, "joint", "joint training", self.learned):
            self.learned += 1
            yield self._evaluate(count) if self.learned == count else []

    def learn(self, number: int) -> None:
        """Train on one context, and let the regularizer estimate its importance.

        Args:
            number: the context's, from 0; all before it have been learned.

        Raises:
            RunError: the loss or the network became NaN or infinite, or the regularizer failed.
        """
        examples = self._gathered(number)
        self._train(number, examples)
        self._end(examples)

    def _learn_shared(self, first: Shared) -> Iterator[list[Cell]]:
        """Learn the first context, trained by whoever came first; yields as `sequentially` does."""
        learner, examples = self.learner, self._gathered(0)
        with first.claimed():
            trained = self._take(first, examples) if first.is_there() else None
            if trained is None:
                spent = self.timings.train + self.timings.evaluation
                before = self._evaluate(0)
                self._train(0, examples, tracks_path=True)
                after = self._evaluate(1)
                spent = self.timings.train + self.timings.evaluation - spent
                trained = Trained((before, after), spent, self._iterations[0], self.evaluate_every, [*self.curve])
                first.keep(trained)
        before, after = trained.cells
        yield before
        learner.activate(self.stream.active(0, 1))
        with learner.noticing_changes() as changes:
            self._end(examples)
        self.learned = 1
        yield self._measured_after(self._evaluate(1) if changes else after)

    def _take(self, first: Shared, examples: TensorDataset) -> Trained | None:
        """Take over the first context as another run has trained it."""
        self.learner.activate(self.stream.active(0, 1))
        self.learner.start_context(self._iterations[0], examples=len(examples))
        trained = first.take(len(self.stream.contexts), self.evaluate_every)
        if trained is not None:
            inputs, labels = examples.tensors
            *_, indices = self._indices(len(inputs), self._iterations[0], 0)
            self.learner.see(inputs[indices[-1]], labels[indices[-1]])
            self.timings.shared += trained.seconds
            self.on_taken(trained.steps)
            for points in moments(trained.curve) if self.evaluate_every else []:
                self._tell(points)
        return trained

    def _gathered(self, number: int) -> TensorDataset:
        """A context's training examples, made once for training and the estimate of the importance."""
        with self._clock("train"):
            return self.stream.contexts[number].train.gathered()

    def _train(self, number: int, examples: TensorDataset, *, tracks_path: bool = False) -> None:
        self.learner.activate(self.stream.active(number, number + 1))
        iters = self._iterations[number]
        inputs, labels = examples.tensors
        with self._clock("train"):
            self.learner.start_context(iters, examples=len(examples), tracks_path=tracks_path)
            shown = with_outputs(self.learner, inputs, labels)

        def batch(index: Tensor) -> tuple[Tensor, ...]:
            return tuple(values.index_select(0, index) for values in shown)

        parts = parts_of(iters, self.evaluate_every)
        steps = self._steps(batch, inputs, parts, number, f"context {number + 1}")
        for done, _ in zip(accumulate(parts), steps, strict=True):
            if done < iters:
                self._measure(number, done)

    def _measure(self, number: int, iteration: int) -> None:
        """Measure the contexts so far while one is learned; training goes on as if nobody had looked."""
        learned = number + 1
        with self._clock("evaluation"), self.learner.blaming(), self.learner.unnoticed():
            measured = _measured(self.learner, self.stream, learned, learned)
        overall = self._overall(number, iteration)
        self._tell([Point(learned, iteration, overall, *accuracy) for accuracy in measured])

    def _measured_after(self, cells: list[Cell]) -> list[Cell]:
        """What was measured after a context, whose end is a part of the curve, too."""
        if self.evaluate_every is not None:
            number = self.learned - 1
            iteration = self._iterations[number]
            self._tell(at_end(cells, iteration, self._overall(number, iteration)))
        return cells

    def _overall(self, number: int, iteration: int) -> int:
        return sum(self._iterations[:number]) + iteration

    def _tell(self, points: list[Point]) -> None:
        self.curve += points
        self.on_measured(points)

    def _end(self, examples: TensorDataset) -> None:
        with self._clock("importance"), self.learner.blaming():
            self.learner.end_context(examples)

    def _indices(self, count: int, iters: int, purpose: int | str) -> Iterator[Tensor]:
        """The examples of every step, of `count`; see `batch_indices`."""
        order = generator(self.protocol.seed, "batches", purpose)
        return batch_indices(count, iters, self.protocol.batch_size, order)

    def _steps(
        self,
        batch: Callable[[Tensor], tuple[Tensor, ...]],
        pool: _Pool | Tensor,
        parts: Sequence[int],
        purpose: int | str,
        name: str,
        begun: int = 0,
    ) -> Iterator[None]:
        """Train on batches of a pool of examples: all of a context's inputs [n, ...], or those of all contexts.

        Args:
            batch: what `Learner.step` gets of the examples with some numbers.
            pool: the examples.
            parts: the numbers of steps.
            purpose: what the order of the examples is drawn for.
            name: what to call this training in messages.
            begun: how many parts were made before.

        Yields:
            After each part of the steps, but for the first `begun`, which were made before the run was stopped.
        """
        learner, iters, done = self.learner, sum(parts), sum(parts[:begun])
        indices = (index for some in self._indices(len(pool), iters, purpose) for index in some.to(learner.device))
        to_come = islice(indices, done, None)
        watch = LossWatch(name, iters, done)
        for part in parts[begun:]:
            with self._clock("train"), learner.blaming():
                for index in islice(to_come, part):
                    process.raise_if_interrupted()
                    loss = learner.step(*batch(index))
                    watch.add(loss)
                    self.timings.steps += 1
                    self.on_step(loss)
                    if watch.is_due():
                        self._check(watch.look(), watch, pool)
                done += part
                which = "the last iteration" if done == iters else f"iteration {done}"
                self._check(watch.look(), watch, pool)
                self._check(learner.not_finite(f"after {which} of {name}"), watch, pool)
            yield

    def _check(self, problem: str | None, watch: LossWatch, pool: _Pool | Tensor) -> None:
        """Fail where there is a problem, with advice that fits its cause."""
        if problem is None:
            return
        images = pool if isinstance(pool, Tensor) else pool.images
        if torch.isfinite(images).all():
            raise RunError(f"{problem}: {self.learner.advice(watch.has_grown())}.")
        raise RunError(f"{problem}: training images hold NaN or infinity; expected a data set of finite numbers.")

    def _evaluate(self, learned: int) -> list[Cell]:
        with self._clock("evaluation"), self.learner.blaming():
            return evaluate(self.learner, self.stream, learned)

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        _synchronize(self.learner.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            _synchronize(self.learner.device)
            setattr(self.timings, part, getattr(self.timings, part) + time.perf_counter() - start)


class _Pool:
    """The training examples of all contexts, counted through, for joint training."""

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self._parts = [context.train for context in stream.contexts]
        sizes = torch.tensor([len(part) for part in self._parts], device=device)
        self._ends = sizes.cumsum(0)
        every = len(stream.contexts)
        active = [stream.active(number, every) for number in range(every)]
        self._active = torch.tensor([list(outputs) for outputs in active], device=device)
        self._rows = torch.cat([part.rows for part in self._parts])
        self._labels = torch.cat([part.labels for part in self._parts])
        self._transform = of_several([part.transform for part in self._parts])

    @property
    def images(self) -> Tensor:
        """The images that the examples are of."""
        return self._parts[0].images

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [b, C, H, W], labels [b] and active outputs [b, active] of the examples `index` [b]."""
        context = torch.bucketize(index, self._ends, right=True)
        inputs = self._transform(self.images[self._rows[index]], context)
        return inputs, self._labels[index], self._active[context]


def parts_of(iters: int, every: int | None) -> list[int]:
    """The steps of a context, cut where it is measured: after each `every`, and at the end.

    Args:
        iters: how many.
        every: None: it is measured at the end.
    """
    if every is None:
        return [iters]
    whole, rest = divmod(iters, every)
    return [every] * whole + [rest] * (rest > 0)


def batch_indices(n: int, iters: int, batch_size: int, source: torch.Generator) -> Iterator[Tensor]:
    """The examples of every step: epochs shuffled anew, laid end to end and cut into full batches.

    Args:
        n: the number of examples.
        iters: the number of steps.
        batch_size: examples in a step.
        source: decides the order.

    Yields:
        int64 [steps, batch_size], values from 0 to n - 1, for some steps at a time, so that any number of them takes no
        more memory; no example comes again before every other one has come, except across the end of an epoch.
    """
    at_once = max(1, _INDICES_AT_ONCE // batch_size)
    left = torch.empty(0, dtype=torch.int64)
    for done in range(0, iters, at_once):
        needed = min(at_once, iters - done) * batch_size
        epochs = [torch.randperm(n, generator=source) for _ in range(-(-(needed - len(left)) // n))]
        order = torch.cat([left, *epochs])
        left = order[needed:]
        yield order[:needed].view(-1, batch_size)


def with_outputs(learner: Learner, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """What `Learner.step` takes batches from, for a context that has just been started.

    A context's examples stay the same, so what the network gives for them at its start is computed only once. Eval mode
    makes that independent of what else is in a batch, and leaves running averages and random numbers alone.

    Args:
        learner: what is trained.
        inputs: the context's, [N, C, H, W].
        labels: [N].

    Returns:
        The inputs and labels; where the learner `takes_outputs`, also the logits of all classes, [N, n_outputs].
    """
    if not learner.takes_outputs:
        return inputs, labels
    with learner.evaluating():
        return inputs, labels, torch.cat([learner.all_logits(some) for some in inputs.split(EVALUATION_BATCH)])


def evaluate(learner: Learner, stream: Stream, learned: int) -> list[Cell]:
    """Measure the accuracy on every context, in eval mode.

    Args:
        learner: what to measure.
        stream: the contexts.
        learned: how many contexts have been learned; the cells' `after_context`.

    Returns:
        One cell for each context and each of its parts test and, where held out, validation.
    """
    return [Cell(learned, *accuracy) for accuracy in _measured(learner, stream, learned, len(stream.contexts))]


def _measured(learner: Learner, stream: Stream, learned: int, first: int) -> list[tuple[int, str, float, int]]:
    """Context (from 1), split, accuracy and number of examples, for each part of the `first` contexts."""
    parts: list[tuple[int, str, int]] = []
    correct: list[Tensor] = []
    with learner.evaluating():
        for number, context in enumerate(stream.contexts[:first]):
            learner.activate(stream.active(number, learned))
            for split, part in context.measured():
                parts.append((number + 1, split, len(part)))
                correct.append(_correct(learner, part))
    counts = torch.stack(correct).tolist()  # all at once: each look waits for the device
    return [(context, split, count / n, n) for (context, split, n), count in zip(parts, counts, strict=True)]


def _correct(learner: Learner, part: Part) -> Tensor:
    """How many examples are classified correctly, a scalar on the device."""
    correct = torch.zeros((), dtype=torch.int64, device=learner.device)
    for index in torch.arange(len(part), device=learner.device).split(EVALUATION_BATCH):
        correct += learner.correct(*part.take(index))
    return correct


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
