"""One model and its optimizer: what happens at a step and around a context.

The training loop above this module does not care how many models it trains; a population of them fits in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.config import RegularizerConfig
from clsweep.errors import RunError
from clsweep.methods.contract import PENALTY, NamedTensors, Regularizer, contract_parameters, snapshot
from clsweep.methods.undisturbed import first_not_finite
from clsweep.networks import Classifier, Outputs, layout_of, outputs_of
from clsweep.optimizers import OptimizerSetting
from clsweep.training.update import PathIntegral, Spring, parameter_update


class Learner:
    """A network that is trained with a regularizer's penalty.

    Args:
        model: the network, on its device.
        regularizer: the method.
        config: the method's hyperparameters, put on the model as the contract promises.
        optimizer: what moves the parameters.
        precision: `float32`, or `bf16` for autocast of the task's loss and of evaluation.
    """

    def __init__(
        self,
        model: Classifier,
        regularizer: Regularizer,
        config: RegularizerConfig,
        optimizer: OptimizerSetting,
        precision: str,
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._regularizer = regularizer
        self._network = regularizer.network_of(model)
        self._outputs, self._layout = outputs_of(model), layout_of(model)
        self._autocast_enabled = precision == "bf16"
        self._parameters = list(model.parameters())
        self._update = parameter_update(self._parameters, optimizer)
        self._contexts_learned = 0
        self._steps = 0
        self._declared: tuple[NamedTensors, NamedTensors] | None = None
        self._declared_strength = 0.0
        self._fast_penalty = False
        self._path_addresses: list[int] = []
        model.reg_strength, model.gamma, model.epsilon = config.reg_strength, config.gamma, config.epsilon
        model.fisher, model.floor_at_zero = config.fisher, config.floor_at_zero
        model._custom_importance, model._custom_prev_params = {}, {}
        self._start = snapshot(model)

    @property
    def update_name(self) -> str:
        """What changes the parameters at a step: `native`, `foreach` or `torch`; see `clsweep.training.update`."""
        return self._update.name

    def activate(self, outputs: Outputs) -> None:
        """Choose the active outputs."""
        self._outputs.active = outputs

    def start_context(self, iterations: int | None = None) -> None:
        """Begin a context: the path integral is zero and starts at the current parameters.

        Args:
            iterations: how many steps it will have, for the optimizer's schedule; None where there is none.
        """
        model = self.model
        self._network.train()
        parameters = contract_parameters(model)
        # A parameter with two names has one position and one path integral.
        positions = {p: p.detach().clone() for p in parameters.values()}
        integrals = {p: torch.zeros_like(position) for p, position in positions.items()}
        model._custom_p_old = {key: positions[p] for key, p in parameters.items()}
        model._custom_W = {key: integrals[p] for key, p in parameters.items()}
        self._start = snapshot(model)
        self._steps = 0
        self._fast_penalty = self._regularizer.is_quadratic and len(positions) == len(parameters)
        if self._contexts_learned > 0 and self._fast_penalty:
            self._declared = self._regularizer.quadratic(model, model._custom_importance, model._custom_prev_params)
        self._update.start_context(iterations)
        self._set_springs()
        self._update.set_path_integrals(self._path_integrals())
        self._path_addresses = self._addresses_of_path()

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on the task's loss plus, from the second context on, the penalty.

        Args:
            inputs: a batch, [B, C, H, W].
            labels: its labels over the active classes, [B].

        Returns:
            The loss, a detached scalar on the device: the total, but for a penalty that is declared to be quadratic,
            whose gradient alone is computed.

        Raises:
            RunError: the regularizer raised, or its first penalty of this context is not what it should be.
        """
        for p in self._parameters:
            p.grad = None
        self._steps += 1
        loss = F.cross_entropy(self.logits(inputs), labels)
        if self._contexts_learned == 0:
            loss.backward()
        elif self._fast_penalty:
            loss.backward()
            if self._declared is not None and self._steps <= 2:
                self._meet_declared()
        else:
            penalty = self._penalty()  # first: it may overwrite the strength
            loss = loss + self._strength() * penalty
            self._regularizer.backward(loss)
            if self._steps == 1:
                self._check_gradient(loss)
        self._follow_path()
        self._update.step()
        return loss.detach()

    def logits(self, inputs: Tensor) -> Tensor:
        """The logits of the active classes, [B, active], computed in the configured precision, never given as bf16."""
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

    def correct(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """How many examples get their label, an int64 scalar on the device; see `logits` for the shapes."""
        return (self.logits(inputs).argmax(1) == labels).sum()

    def end_context(self, dataset: TensorDataset) -> None:
        """Estimate importance on the context's training data, add it, and move the anchor.

        Args:
            dataset: the context's training examples.

        Raises:
            RunError: the regularizer raised or returned what it shouldn't.
        """
        model = self.model
        self.check_declared()  # again: the parameters are farthest from the anchor now
        self._declared = None
        self._catch_up()
        new = self._regularizer.importance(model, dataset, self._start, self.device)
        for key, value in new.items():
            carried = model._custom_importance.get(key)
            model._custom_importance[key] = value if carried is None else carried + value
        model._custom_prev_params = snapshot(model)
        self._contexts_learned += 1

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
        unpenalized = self._fast_penalty and not (self._declared and self._declared[0])
        if self._contexts_learned == 0 or unpenalized:
            return "a smaller benchmark.lr may help (there is no penalty in this loss)"
        if has_grown or self._fast_penalty:
            return "a smaller regularizer.reg_strength or benchmark.lr may help"
        return (
            f"the loss had not grown before, so that a gradient of NaN in {self._regularizer.source}'s {PENALTY} is a "
            "likelier reason than regularizer.reg_strength (a square root, a norm or a division at zero)"
        )

    def check_dependence(self) -> None:
        """Check that the penalty depends on the network's parameters, where the anchor has been left.

        Raises:
            MethodError: it doesn't.
        """
        model = self.model
        if self._contexts_learned > 0:
            self._catch_up()
            self._regularizer.check_dependence(model, model._custom_importance, model._custom_prev_params)

    def additions(self) -> list[str]:
        """What the method has added to the network that its author may take for something else, in sentences."""
        return self._regularizer.additions(self.model)

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Tell an exception as the method's where it passed through the method's file, such as in a hook.

        Raises:
            MethodError: it did.
        """
        try:
            yield
        except Exception as error:
            blamed = self._regularizer.blamed(error)
            if blamed is None:
                raise
            raise blamed from error

    def _penalty(self) -> Tensor:
        model, regularizer = self.model, self._regularizer
        checked = self._steps == 1 or self._fast_penalty
        call = regularizer.checked_penalty if checked else regularizer.penalty
        return call(model, model._custom_importance, model._custom_prev_params)

    def _strength(self) -> float:
        self._regularizer.check_strength(self.model.reg_strength)
        return self.model.reg_strength * self._regularizer.reg_strength_scale

    def _check_gradient(self, loss: Tensor) -> None:
        """Find NaN in the gradient at a context's first step, and whose it is; the task's will be seen in the loss."""
        gradients = {str(number): p.grad for number, p in enumerate(self._parameters) if p.grad is not None}
        if first_not_finite(gradients) is not None:
            model = self.model
            self._regularizer.check_gradient(model, model._custom_importance, model._custom_prev_params)
            if torch.isfinite(loss):
                raise RunError(
                    f"regularizer.reg_strength={model.reg_strength:g}: times the finite gradient of the penalty it "
                    "overflows at a context's first step; expected a smaller one."
                )

    def _meet_declared(self) -> None:
        """Call the real penalty at a context's first two steps: it may overwrite the strength, then it is checked."""
        if self._steps == 1:
            self._catch_up()
            self._penalty()
            if self._strength() != self._declared_strength:
                self._set_springs()
        elif self._network.not_finite() is None:  # else the loss will show it: it isn't the penalty's doing
            self.check_declared()

    def check_declared(self) -> None:
        """Hold a declared penalty and its strength against the real ones, where the anchor has been left.

        Raises:
            MethodError: they differ.
        """
        if self._declared is None:
            return
        self._catch_up()
        penalty = self._penalty()  # first: it may overwrite the strength
        if self._strength() != self._declared_strength:
            raise self._regularizer.changed_strength(self._declared_strength, self._strength())
        self._regularizer.check_quadratic(self.model, penalty, *self._declared)

    def _set_springs(self) -> None:
        self._declared_strength = self._strength()
        self._update.set_springs(self._springs())

    def _springs(self) -> dict[nn.Parameter, Spring]:
        if self._declared is None:
            return {}
        coefficients, centres = self._declared
        factor = 2 * self._strength()
        parameters = contract_parameters(self.model)
        return {
            parameters[key]: Spring((factor * value).contiguous(), centres[key].contiguous())
            for key, value in coefficients.items()
        }

    def _path_integrals(self) -> dict[nn.Parameter, PathIntegral]:
        if not self._regularizer.uses_path_integral:
            return {}
        model = self.model
        return {
            p: PathIntegral(
                _as(p, model._custom_W, key), None if self._fast_penalty else _as(p, model._custom_p_old, key)
            )
            for key, p in contract_parameters(model).items()
            if key in model._custom_W and key in model._custom_p_old
        }

    def _catch_up(self) -> None:
        """Put the current parameters into `_custom_p_old`, where no step does it since no function looks at it."""
        if self._fast_penalty and self._regularizer.uses_path_integral:
            for key, p in contract_parameters(self.model).items():
                self.model._custom_p_old[key].copy_(p.detach())

    def _follow_path(self) -> None:
        """A method may put other tensors into `_custom_W` and `_custom_p_old`, at any step."""
        if self._regularizer.uses_path_integral and self._addresses_of_path() != self._path_addresses:
            self._update.set_path_integrals(self._path_integrals())
            self._path_addresses = self._addresses_of_path()

    def _addresses_of_path(self) -> list[int]:
        model = self.model
        return [tensor.data_ptr() for kept in (model._custom_W, model._custom_p_old) for tensor in kept.values()]


def _as(p: nn.Parameter, tensors: NamedTensors, key: str) -> Tensor:
    """The tensor under `key`, replaced there by a copy where its type or layout is not the parameter's."""
    if tensors[key].dtype != p.dtype or tensors[key].stride() != p.stride():
        tensors[key] = torch.empty_like(p.detach()).copy_(tensors[key])
    return tensors[key]
