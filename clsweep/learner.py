"""One model and its optimizer: what happens at a step and around a context.

The training loop above this module does not care how many models it trains; a population of them fits in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.config import RegularizerConfig
from clsweep.contract import Regularizer, contract_parameters, snapshot
from clsweep.networks import Classifier


class Learner:
    """A network that is trained with a regularizer's penalty.

    Args:
        model: the network, on its device.
        regularizer: the method.
        config: the method's hyperparameters, put on the model as the contract promises.
        lr: Adam's learning rate; its state is kept across contexts.
        precision: `float32`, or `bf16` for autocast of the task's loss and of evaluation.
    """

    def __init__(
        self, model: Classifier, regularizer: Regularizer, config: RegularizerConfig, lr: float, precision: str
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._regularizer = regularizer
        self._autocast_enabled = precision == "bf16"
        self._optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        self._contexts_learned = 0
        self._penalty_checked = True
        model.reg_strength, model.gamma, model.epsilon = config.reg_strength, config.gamma, config.epsilon
        model.fisher, model.floor_at_zero = config.fisher, config.floor_at_zero
        model._custom_importance, model._custom_prev_params = {}, {}
        self._start = snapshot(model)

    def activate(self, outputs: range | Tensor) -> None:
        """Choose the active outputs; see `clsweep.networks.Head`."""
        self.model.activate(outputs)

    def start_context(self) -> None:
        """Begin a context: the path integral is zero and starts at the current parameters."""
        model = self.model
        model.train()
        model._custom_p_old = snapshot(model)
        model._custom_W = {key: torch.zeros_like(p) for key, p in model._custom_p_old.items()}
        self._start = snapshot(model)
        self._penalty_checked = False

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on the task's loss plus, from the second context on, the penalty.

        Args:
            inputs: a batch, [B, C, H, W].
            labels: its labels over the active classes, [B].

        Returns:
            The total loss, a detached scalar on the device.

        Raises:
            RunError: the regularizer raised, or its first penalty of this context is not what it should be.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.logits(inputs), labels)
        if self._contexts_learned > 0:
            loss = loss + self._scaled_penalty()
            self._regularizer.backward(loss)
        else:
            loss.backward()
        self._optimizer.step()
        if self._regularizer.uses_path_integral:
            self._extend_path_integral()
        return loss.detach()

    def logits(self, inputs: Tensor) -> Tensor:
        """The logits of the active classes, [B, active], computed in the configured precision, never given as bf16."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast_enabled):
            logits: Tensor = self.model(inputs)
        return logits.float() if self._autocast_enabled else logits

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode, without autograd; the mode from before is put back."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

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
        new = self._regularizer.importance(model, dataset, self._start, self.device)
        for key, value in new.items():
            carried = model._custom_importance.get(key)
            model._custom_importance[key] = value if carried is None else carried + value
        model._custom_prev_params = snapshot(model)
        self._contexts_learned += 1

    def _scaled_penalty(self) -> Tensor:
        model, regularizer = self.model, self._regularizer
        penalty = regularizer.penalty(model, model._custom_importance, model._custom_prev_params)
        if not self._penalty_checked:
            regularizer.check_penalty(penalty)
            self._penalty_checked = True
        return model.reg_strength * regularizer.reg_strength_scale * penalty

    @torch.no_grad()
    def _extend_path_integral(self) -> None:
        """`_custom_W += -grad * (p - _custom_p_old)`, then `_custom_p_old = p`, for parameters with a gradient."""
        model = self.model
        keys, values, gradients = [], [], []
        for key, p in contract_parameters(model).items():
            if p.grad is not None:
                keys.append(key)
                values.append(p.detach())
                gradients.append(p.grad)
        old = [model._custom_p_old[key] for key in keys]
        change = torch._foreach_sub(values, old)
        torch._foreach_addcmul_([model._custom_W[key] for key in keys], gradients, change, value=-1.0)
        torch._foreach_copy_(old, values)
