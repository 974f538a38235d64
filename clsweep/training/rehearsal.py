"""A rehearsal: a method's file goes through a run's first two contexts in small, before anything is trained.

What is wrong with a function would otherwise be seen only when it is first called: after the first context was trained,
or in the second. A rehearsal makes a few steps on a few examples, with a network and an instance of the file of its
own, so that nothing of it stays; the random numbers of the run are as without it.

It must not refuse what the run would accept: what fails in it is tried again with all of the context's examples and
more steps, unless they have nothing to do with it; an assertion of the file's own, which may be about how far training
has come, is only noted; and what has to do with training rather than with the file is left for the run to find.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsweep import networks, protocol
from clsweep.config import ALL_LOGITS, Config
from clsweep.data.contexts import Part, Stream
from clsweep.errors import InputError, MethodError, NotFiniteError, RunError
from clsweep.methods import calls
from clsweep.methods.files import MethodFile
from clsweep.methods.loading import load
from clsweep.methods.undisturbed import settings_put_back
from clsweep.seeding import GlobalStream, Seeds, derived_seed
from clsweep.training import checkpoints
from clsweep.training.learner import Learner
from clsweep.training.loop import Trainer, TrainingProtocol, protocol_of

EXAMPLES = 64  # of a context
_OF_THE_CODE = (ImportError, NameError, AttributeError, TypeError)  # whatever the data
_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)  # the run will say so, if it is so there
_CALLS = 5  # after each step, of a penalty that is declared to be another: one that counts its calls may change


@dataclass(frozen=True)
class _Length:
    """How long a rehearsal is; less where the run is shorter.

    Attributes:
        contexts: how many.
        examples: of each; None: all.
        steps: in each.
        batch_size: examples in a step.
    """

    contexts: int
    examples: int | None
    steps: int
    batch_size: int


_SHORT = _Length(contexts=2, examples=EXAMPLES, steps=2, batch_size=32)
_LONG = _Length(contexts=2, examples=None, steps=50, batch_size=128)
_MEASURED = _Length(contexts=3, examples=EXAMPLES, steps=3, batch_size=32)


def rehearse(config: Config, stream: Stream, device: torch.device, file: MethodFile | None) -> list[str]:
    """Call a file's functions, or a built-in method's with a network of one's own, as a run with this setting would.

    Args:
        config: the run's setting.
        stream: the run's contexts.
        device: where they are.
        file: the method's; None: it is a built-in one.

    Returns:
        What the user should know of what the file does, in sentences.

    Raises:
        InputError: the file raised, or returned or left behind what it shouldn't.
    """
    if config.evaluate_every is not None:
        _check_unnoticed(config, stream, device, file)
    try:
        return _attempt(config, stream, device, file, _SHORT)
    except MethodError as error:
        if isinstance(error.__cause__, _OF_MEMORY):
            return []
        may_be_short = isinstance(error, NotFiniteError) or error.__cause__ is not None
        if _is_of_the_code(error.__cause__) or not may_be_short:
            raise _refused(error) from error
    try:
        return _attempt(config, stream, device, file, _LONG)
    except MethodError as error:
        if isinstance(error.__cause__, AssertionError):
            return [f"in a short rehearsal, {_told(error)} The run goes on in case longer training helps."]
        raise _refused(error) from error


def _is_of_the_code(cause: BaseException | None) -> bool:
    """Whether something fails whatever the data; where a loop has seen no batch, variables are unbound, or None."""
    from_empty_loops = isinstance(cause, UnboundLocalError) or "NoneType" in str(cause)
    return isinstance(cause, _OF_THE_CODE) and not from_empty_loops


def _refused(error: MethodError) -> InputError:
    return InputError(_told(error))


def _told(error: MethodError) -> str:
    return str(error).replace(calls.IN_LOG, "CLSWEEP_TRACEBACK=1 shows the traceback")


def _attempt(
    config: Config, stream: Stream, device: torch.device, file: MethodFile | None, length: _Length
) -> list[str]:
    """One try; see `rehearse`."""
    with _prepared(config, stream, device, file) as learner:
        if learner is None:
            return []
        try:
            trainer = _learn(learner, config, stream, length)
        except MethodError:
            raise
        except RunError:  # such as a loss that runs away: not the file's doing
            return learner.additions()
        return learner.additions() + checkpoints.obstacles(trainer, checkpoints.code_of(protocol.targets(config)))


@contextmanager
def _prepared(
    config: Config, stream: Stream, device: torch.device, file: MethodFile | None
) -> Iterator[Learner | None]:
    """A learner as a run would have it, of which nothing stays; None where its method can't be imported twice."""
    seeds = Seeds.of(config)
    with settings_put_back(), GlobalStream(seeds.batches).active(), _unlogged():
        try:
            method = load(config.regularizer, derived_seed(seeds.batches, "methods"), file).method
        except InputError:  # it could be imported before: it is one that can't be imported twice in a process
            yield None
            return
        shape, n_outputs = stream.input_shape, stream.n_outputs
        with method.active():  # so that a network of one's own is of the classes that the method imports
            model = networks.build(config.network, shape, n_outputs, derived_seed(seeds.init, "parameters")).to(device)
            shows_all = config.contract.logits == ALL_LOGITS
            yield Learner(model, method, config.optimizer_setting, config.precision, shows_all=shows_all)


def _check_unnoticed(config: Config, stream: Stream, device: torch.device, file: MethodFile | None) -> None:
    """Check that what is trained is the same where it is measured on the way.

    Raises:
        InputError: it isn't, as where a hook counts its calls, though without measuring it is the same each time.
    """
    plain = _trained(config, stream, device, file, None)
    if plain == _trained(config, stream, device, file, 1) or plain != _trained(config, stream, device, file, None):
        return
    raise InputError(
        f"evaluate_every={config.evaluate_every}: measuring the network within a context changes what is trained, as "
        "where a hook counts its calls; expected a method and a network that keep things of a call only while "
        "model.training is true, or evaluate_every left out."
    )


def _trained(
    config: Config, stream: Stream, device: torch.device, file: MethodFile | None, every: int | None
) -> bytes | None:
    """The parameters after three contexts in small, measured every `every` steps; None where they can't be trained."""
    with _prepared(config, stream, device, file) as learner:
        if learner is None:
            return None
        few = _shortened(stream, _MEASURED)
        few = replace(few, contexts=[replace(one, test=_some(one.test, EXAMPLES)) for one in few.contexts])
        trainer = Trainer(learner, few, _how_long(config, stream, _MEASURED), evaluate_every=every)
        try:
            for number in range(len(few.contexts)):
                trainer.learn(number)
        except (RunError, *_OF_MEMORY):
            return None  # which is told elsewhere
        values = (p.detach().cpu().reshape(-1).view(torch.uint8) for p in learner.model.parameters())
        return b"".join(value.numpy().tobytes() for value in values)


def _how_long(config: Config, stream: Stream, length: _Length) -> TrainingProtocol:
    steps = min(length.steps, *protocol_of(config).iterations(stream))
    return TrainingProtocol(steps, min(length.batch_size, config.benchmark.batch_size), Seeds.of(config).batches)


def _learn(learner: Learner, config: Config, stream: Stream, length: _Length) -> Trainer:
    def look_closely(loss: Tensor) -> None:
        learner.check_dependence()
        for _ in range(_CALLS):
            learner.check_squares()

    trainer = Trainer(learner, _shortened(stream, length), _how_long(config, stream, length), look_closely)
    for number in range(len(trainer.stream.contexts)):
        trainer.learn(number)
    return trainer


def _shortened(stream: Stream, length: _Length) -> Stream:
    """The first contexts, with some of their training examples."""
    some = [replace(one, train=_some(one.train, length.examples)) for one in stream.contexts[: length.contexts]]
    return replace(stream, contexts=some)


def _some(part: Part, count: int | None) -> Part:
    """`count` examples in their order, or one of each class if that is more: as evenly over the classes as possible."""
    if count is None or count >= len(part):
        return part
    by_class = torch.argsort(part.labels, stable=True)
    _, sizes = part.labels[by_class].unique_consecutive(return_counts=True)
    rank_in_class = torch.cat([torch.arange(int(size), device=by_class.device) for size in sizes])
    count = max(count, len(sizes))
    chosen = by_class[torch.argsort(rank_in_class, stable=True)[:count]].sort().values
    return replace(part, rows=part.rows[chosen], labels=part.labels[chosen])


@contextmanager
def _unlogged() -> Iterator[None]:
    """Log nothing: no run has begun."""
    before = calls.log.disabled
    calls.log.disabled = True
    try:
        yield
    finally:
        calls.log.disabled = before
