"""One model and its optimizer: what happens at a step and around a context.

The training loop above this module does not care how many models it trains; a population of them fits in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep import seeding
from clsweep.checkpoints.network import NetworkParts
from clsweep.checkpoints.packing import Packer, Places, Unpacker
from clsweep.errors import ClsweepError, RunError, is_machine_error, named
from clsweep.methods.base import Finished, Method, Path, Squares
from clsweep.methods.calls import IN_LOG, log
from clsweep.methods.declarations import PENALTY, TRANSFORM
from clsweep.methods.undisturbed import Network, first_not_finite
from clsweep.networks import Classifier, Outputs, layout_of, outputs_of, select
from clsweep.optimizers import OptimizerSetting
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.training.update import PathIntegral, Spring, parameter_update


class Learner:
    """A network that is trained with a method's penalty.

    Args:
        model: the network, on its device, as it was built.
        method: the method.
        optimizer: what moves the parameters.
        precision: `float32`, or `bf16` for autocast of the task's loss and of evaluation.
        shows_all: whether `model(x)` gives a method the logits of all classes, and the labels count over these; the
            loss and the accuracies are of the active ones in any case.

    Attributes:
        parts: the network's, as it was built.
    """

    def __init__(
        self,
        model: Classifier,
        method: Method,
        optimizer: OptimizerSetting,
        precision: str,
        *,
        shows_all: bool = False,
    ) -> None:
        self.model = model
        self.method = method
        self._network = Network(model)
        self.device = self._network.device
        self._outputs, self._layout = outputs_of(model), layout_of(model)
        self._active = self._outputs.active
        self._shows_all = shows_all
        self._autocast_enabled = precision == "bf16"
        self._parameters = list(model.parameters())
        self._update = parameter_update(self._parameters, optimizer)
        self._contexts_learned = 0
        self._steps = 0
        self._squares: Squares | None = None
        self._strength = 0.0  # of these squares
        self._is_fast = False
        self._path_addresses: list[int] = []
        self._totals: NamedTensors = {}  # of the path
        self.parts = NetworkParts(model)  # before the method has put anything there
        method.attach(self._network)
        self.parts.leave_out_of_training()
        self._start = snapshot(model)

    @property
    def update_name(self) -> str:
        """What changes the parameters at a step: `native`, `foreach` or `torch`; see `clsweep.training.update`."""
        return self._update.name

    def places(self) -> list[Places]:
        """What is there in every process that runs the same code: parts of the network, the method's code."""
        return [self.parts, *self.method.places()]

    def pack(self, packer: Packer) -> dict[str, Any]:
        """All that goes from one context to the next.

        Raises:
            UnpackableError: something of it can't be packed.
        """
        return {
            "learned": self._contexts_learned,
            "network": self.parts.pack(packer),
            "optimizer": packer.pack(self._update.state(), "the optimizer"),
            "method": self.method.pack(packer),
        }

    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Go on from what was packed; this learner has been made as that one was.

        Raises:
            DamagedError: it wasn't, or what was packed is damaged.
        """
        self._contexts_learned = packed["learned"]
        self.parts.restore(packed["network"], unpacker)
        self._update.load_state(unpacker.unpack(packed["optimizer"]))
        self.method.restore(packed["method"], unpacker)

    def pack_trained(self, packer: Packer) -> dict[str, Any]:
        """What a first context has left, without anything of a method; its path has been tracked.

        Raises:
            UnpackableError: something of it can't be packed.
        """
        return {
            "network": self.parts.pack_trained(packer),
            "optimizer": packer.pack(self._update.state(), "the optimizer"),
            "path": self._totals,
        }

    def take_over(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Go on from a first context that another learner has trained; this one has begun it.

        Raises:
            DamagedError: it was made otherwise.
        """
        self.parts.restore(packed["network"], unpacker)
        self._update.load_state(unpacker.unpack(packed["optimizer"]))
        if self.method.uses_path_integral:
            totals, positions = self.method.path
            for key, p in contract_parameters(self.model).items():
                totals[key].copy_(packed["path"][key])
                positions[key].copy_(p.detach())

    def see(self, inputs: Tensor, labels: Tensor) -> None:
        """Show the method the batch of a step, where it asks for that."""
        if self.method.takes_batch:
            self.method.see(inputs, self._as_shown(labels))

    @contextmanager
    def noticing_changes(self) -> Iterator[list[str]]:
        """Notice whether what a network computes was changed.

        Yields:
            What was changed, filled at the end.
        """
        before = {place: value.clone() for place, value in self.parts.values().items()}
        changes: list[str] = []
        yield changes
        changes += self.parts.changes(before)

    def activate(self, outputs: Outputs) -> None:
        self._active = outputs
        if not self._shows_all:
            self._outputs.active = outputs

    def start_context(
        self, iterations: int | None = None, *, examples: int | None = None, tracks_path: bool = False
    ) -> None:
        """Begin a context: the path integral is zero and starts at the current parameters.

        Args:
            iterations: how many steps it will have, for the optimizer's schedule; None where there is none.
            examples: how many it trains on, for the method; None where it doesn't ask.
            tracks_path: whether the path integral is extended even where the method has no use for it.
        """
        model, method = self.model, self.method
        self._network.train()
        parameters = contract_parameters(model)
        # A parameter with two names has one position and one path integral.
        positions = {p: p.detach().clone() for p in parameters.values()}
        totals = {p: torch.zeros_like(position) for p, position in positions.items()}
        path = Path(*({key: kept[p] for key, p in parameters.items()} for kept in (totals, positions)))
        assert isinstance(self._active, range)  # in joint training each example's own come with its batch
        method.active_outputs = self._active
        if examples is not None:
            method.expect(examples)
        method.start_context(path)
        self._start = snapshot(model)
        self._steps = 0
        self._is_fast = method.is_quadratic and len(positions) == len(parameters)
        self._squares = method.squares() if self._contexts_learned > 0 and self._is_fast else None
        self._update.start_context(iterations)
        self._set_springs()
        paths = self._path_integrals()
        self._totals = {key: paths[p].total for key, p in parameters.items() if p in paths}
        if tracks_path and not self._totals:
            # Beside what the method is shown, which it has said that it doesn't read, and which stays zero.
            own = {p: torch.zeros_like(position) for p, position in positions.items()}
            paths = {p: PathIntegral(total, None) for p, total in own.items()}
            self._totals = {key: own[p] for key, p in parameters.items()}
        self._update.set_path_integrals(paths)
        self._path_addresses = self._addresses_of_path()

    @property
    def takes_outputs(self) -> bool:
        """Whether `step` is to be given what the network gave at the context's start."""
        return self.method.takes_outputs and self._contexts_learned > 0

    def step(self, inputs: Tensor, labels: Tensor, before: Tensor | None = None) -> Tensor:
        """One optimizer step on the task's loss plus, from the second context on, the penalty.

        Args:
            inputs: a batch, [B, C, H, W].
            labels: its labels over the active classes, [B].
            before: where the learner `takes_outputs`, what `all_logits` gave for the batch at the context's start.

        Returns:
            The loss, a detached scalar on the device: the total, but without a penalty of which only the gradient is
            computed, as of a quadratic one.

        Raises:
            RunError: the method raised, or its first penalty of this context is not what it should be.
        """
        for p in self._parameters:
            p.grad = None
        self._steps += 1
        try:
            loss = self._differentiated(inputs, labels, before)
        except BaseException:
            self.method.abandon()
            raise
        self._follow_path()
        self._update.step()
        return loss.detach()

    def _differentiated(self, inputs: Tensor, labels: Tensor, before: Tensor | None) -> Tensor:
        """The loss of a step, whose gradients stand in the parameters; see `step`."""
        self.see(inputs, labels)
        loss = F.cross_entropy(self._logits_at_step(inputs, before), labels)
        if self._contexts_learned == 0:
            loss.backward()
        elif self._is_fast:
            loss.backward()
            if self.method.can_be_wrong and self._squares is not None and self._steps <= 2:
                self._meet_squares()
        else:
            penalty = self.method.penalty(is_first=self._steps == 1)  # first: it may overwrite the strength
            penalty = self.method.strength * penalty
            if self.method.is_quadratic and self.method.transforms_gradients:
                return self._with_penalty_apart(loss, penalty)
            loss = loss + penalty
            self.method.backward(loss)
            if self._steps == 1:
                self._check_gradient(loss)
        if self.method.transforms_gradients and (self._contexts_learned > 0 or self.method.transforms_first_context):
            self.method.transform()
        return loss

    def _with_penalty_apart(self, loss: Tensor, penalty: Tensor) -> Tensor:
        """The loss of a step whose quadratic penalty the update can't add: its gradient isn't transformed here either.

        Args:
            loss: the task's.
            penalty: a differentiable scalar, the strength in it.
        """
        loss.backward()
        self.method.transform()
        self.method.backward(penalty)
        return loss + penalty

    def logits(self, inputs: Tensor) -> Tensor:
        """The active classes' logits, [B, active], computed in the configured precision, never returned as bf16."""
        logits = self._forward(inputs)
        return select(logits, self._active) if self._shows_all else logits

    def all_logits(self, inputs: Tensor) -> Tensor:
        """Those of all classes, [B, n_outputs]; otherwise as `logits`."""
        shown, self._outputs.active = self._outputs.active, self._outputs.every
        try:
            return self._forward(inputs)
        finally:
            self._outputs.active = shown

    def _logits_at_step(self, inputs: Tensor, before: Tensor | None) -> Tensor:
        """The logits of the active classes; the method sees those of all of them where it asks for that."""
        assert (before is not None) == self.takes_outputs
        if before is None:
            return self.logits(inputs)
        logits = self.all_logits(inputs)
        self.method.see_outputs(logits, before)
        return select(logits, self._active)

    def _forward(self, inputs: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self.model(inputs.contiguous(memory_format=self._layout))
        return logits.float() if self._autocast_enabled else logits

    def _autocast(self) -> AbstractContextManager[object]:
        # Entering a disabled autocast takes as long as a small layer.
        return torch.autocast(self.device.type, torch.bfloat16) if self._autocast_enabled else nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode, without autograd; the modes from before are put back."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """Within a context: random numbers, modes, active outputs and buffers are as before at the end."""
        active = self._active
        with seeding.kept(), self._network.undisturbed(gradients=False):
            yield
        self.activate(active)

    def correct(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """How many examples get their label, an int64 scalar on the device; see `logits` for the shapes."""
        return (self.logits(inputs).argmax(1) == labels).sum()

    def end_context(self, dataset: TensorDataset) -> None:
        """Let the method learn from the context.

        Args:
            dataset: the context's training examples.

        Raises:
            RunError: the method raised or returned what it shouldn't.
        """
        self.check_squares()  # again: the parameters are farthest from the anchor now
        self._squares = None
        self._catch_up()
        inputs, labels = dataset.tensors
        shown = TensorDataset(inputs, self._as_shown(labels))
        self.method.end_context(Finished(shown, self._start, self.method.path, self.device))
        self._contexts_learned += 1

    def _as_shown(self, labels: Tensor) -> Tensor:
        """Labels over the active classes, counted over what the network shows a method."""
        if self._shows_all and isinstance(self._active, range):
            return labels + self._active.start
        return labels

    def not_finite(self, when: str) -> str | None:
        """Which of the network's parameters and buffers holds NaN or infinity, as the beginning of a sentence.

        Args:
            when: the sentence's next words.
        """
        name = self._network.not_finite()
        return None if name is None else f"the network's {name} holds NaN or infinity {when}"

    def advice(self, has_grown: bool) -> str:
        """What may help where training did not stay finite.

        Args:
            has_grown: whether the loss had grown before.
        """
        has_no_squares = self._is_fast and not (self._squares and self._squares.coefficients)
        is_penalized = self._contexts_learned > 0 and not has_no_squares
        suspects = [PENALTY] if is_penalized and not self._is_fast else []
        if self.method.transforms_gradients and self.method.can_be_wrong:
            suspects.append(TRANSFORM)
        if suspects and not has_grown:
            return (
                f"the loss had not grown before, so that a gradient of NaN in {self.method.source}'s "
                f"{' or '.join(suspects)} is a likelier reason than "
                f"{'regularizer.reg_strength' if is_penalized else 'benchmark.lr'} (a square root, a norm or a "
                "division at zero)"
            )
        if is_penalized:
            return "a smaller regularizer.reg_strength or benchmark.lr may help"
        return "a smaller benchmark.lr may help (there is no penalty in this loss)"

    def check_dependence(self) -> None:
        """Check that the penalty depends on the network's parameters, where the anchor has been left.

        Raises:
            MethodError: it doesn't.
        """
        if self._contexts_learned > 0:
            self._catch_up()
            self.method.check_dependence()

    def additions(self) -> list[str]:
        """What the method's author may take for something else, such as what it has added to the network."""
        return self.method.additions()

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Report an exception as the method's or the network's where it passed through a file of theirs, as in a hook.

        Raises:
            MethodError: it passed through the method's.
            RunError: it passed through the network's.
        """
        try:
            yield
        except Exception as error:
            blamed = self.method.blamed(error) or self._blamed(error)
            if blamed is None:
                raise
            raise blamed from error

    def _blamed(self, error: Exception) -> RunError | None:
        """The network's failure; the machine's is told elsewhere, wherever it came up."""
        where = self._network.place(error)
        is_machines = isinstance(error, MemoryError | torch.OutOfMemoryError) or is_machine_error(error)
        if where is None or is_machines or isinstance(error, ClsweepError):
            return None
        log.error("%s: the network raised", where, exc_info=error)
        return RunError(f"{where}: the network raised {named(error)} while it was used ({IN_LOG}).")

    def _check_gradient(self, loss: Tensor) -> None:
        """Find NaN in the gradient at a context's first step, and whose it is; the task's will be seen in the loss."""
        gradients = {str(number): p.grad for number, p in enumerate(self._parameters) if p.grad is not None}
        if first_not_finite(gradients) is not None:
            self.method.check_gradient()
            if torch.isfinite(loss):
                raise RunError(
                    f"regularizer.reg_strength={self.method.strength / self.method.reg_strength_scale:g}: times the "
                    "finite gradient of the penalty it overflows at a context's first step; expected a smaller one."
                )

    def _meet_squares(self) -> None:
        """Call the real penalty at a context's first two steps: first it may set the strength, then it is checked."""
        if self._steps == 1:
            self._catch_up()
            self.method.penalty(is_first=True)
            if self.method.strength != self._strength:
                self._set_springs()
        elif self._network.not_finite() is None:  # else the loss will show it: it isn't the penalty's doing
            self.check_squares()

    def check_squares(self) -> None:
        """Check a quadratic penalty and its strength against the real ones, where the anchor has been left.

        Raises:
            MethodError: they differ.
        """
        if self.method.can_be_wrong and self._squares is not None:
            self._catch_up()
            self.method.check_squares(self._squares, self._strength)

    def _set_springs(self) -> None:
        self._strength = self.method.strength
        self._update.set_springs(self._springs())

    def _springs(self) -> dict[nn.Parameter, Spring]:
        if self._squares is None:
            return {}
        factor = 2 * self._strength
        parameters = contract_parameters(self.model)
        return {
            parameters[key]: Spring((factor * value).contiguous(), self._squares.centres[key].contiguous())
            for key, value in self._squares.coefficients.items()
        }

    def _path_integrals(self) -> dict[nn.Parameter, PathIntegral]:
        if not self.method.uses_path_integral:
            return {}
        self.method.check_path()
        totals, positions = self.method.path
        return {
            p: PathIntegral(_as(p, totals, key), None if self._is_fast else _as(p, positions, key))
            for key, p in contract_parameters(self.model).items()
            if key in totals and key in positions
        }

    def _catch_up(self) -> None:
        """Bring the path's positions up to date, where steps don't, since nobody reads them there."""
        if self._is_fast and self.method.uses_path_integral:
            for key, p in contract_parameters(self.model).items():
                self.method.path.positions[key].copy_(p.detach())

    def _follow_path(self) -> None:
        """A method may keep its path in other tensors, at any step."""
        if self.method.uses_path_integral and self._addresses_of_path() != self._path_addresses:
            self._update.set_path_integrals(self._path_integrals())
            self._path_addresses = self._addresses_of_path()

    def _addresses_of_path(self) -> list[int]:
        return [tensor.data_ptr() for kept in self.method.path for tensor in kept.values()]


def _as(p: nn.Parameter, tensors: NamedTensors, key: str) -> Tensor:
    """The tensor under `key`, replaced there by a copy where its type or layout is not the parameter's."""
    if tensors[key].dtype != p.dtype or tensors[key].stride() != p.stride():
        tensors[key] = torch.empty_like(p.detach()).copy_(tensors[key])
    return tensors[key]
