"""Methods that multiply each layer's gradient with matrices that they have learned from earlier contexts.

The gradient with respect to a linear layer's [W b] is a sum over examples of g a^T, with a the layer's input, a 1
appended, and g the gradient of the loss with respect to its output; a convolution's is a sum over patches, too.
Multiplied from the right, a matrix decides for which inputs a step is felt; from the left, which outputs it moves.

The first context is trained without any of it. What a method promises about a step holds for the gradient that the
optimizer gets: only a step straight against it (SGD, without the momentum of earlier contexts and without weight decay)
stays where the method leaves it. Adam scales each parameter on its own and keeps the momentum that it has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clsweep.curvature.heads import head_parameters
from clsweep.curvature.kronecker import Keys, as_matrix, as_parameters, input_statistics, joined
from clsweep.errors import MethodError
from clsweep.methods.base import Finished, Quadratic, Squares, derived, state
from clsweep.parameters import NamedTensors, contract_parameters, layers_of

# From a layer's gradient [W b], [out, columns], to what is left of it, likewise.
Change = Callable[[Tensor], Tensor]


@dataclass
class Applied:
    """What is done to the gradients of a context.

    Attributes:
        layers: the parameters of each layer, in the order of `as_matrix`, and the change of its gradient.
        scales: single parameters, and what their gradients are multiplied with.
        frozen: parameters that get no gradient.
    """

    layers: list[tuple[list[nn.Parameter], Change]]
    scales: list[tuple[nn.Parameter, Tensor]]
    frozen: list[nn.Parameter]

    def apply(self) -> None:
        """Change the gradients that stand in the parameters' `grad`, in place; what has none is left alone."""
        gradients: list[Tensor] = []
        changed: list[Tensor] = []
        for parameters, change in self.layers:
            own = [p.grad for p in parameters if p.grad is not None]
            if len(own) == len(parameters):
                gradients += own
                changed += as_parameters(change(as_matrix(own)), own)
        if gradients:
            torch._foreach_copy_(gradients, changed)
        scaled = [(p.grad, scale) for p, scale in self.scales if p.grad is not None]
        if scaled:
            torch._foreach_mul_([gradient for gradient, _ in scaled], [scale for _, scale in scaled])
        for p in self.frozen:
            p.grad = None


@dataclass(eq=False)
class Preconditioned(Quadratic):
    """From the second context on, each layer's gradient is changed by what the earlier contexts have left.

    Attributes:
        applied: what is done in the context, from its first step on; None before that.
    """

    transforms_gradients = True
    transforms_first_context = False
    needs_plain_steps = True
    tells_layers = True
    applied: Applied | None = derived(lambda: None)

    @abstractmethod
    def prepared(self, parameters: dict[str, nn.Parameter]) -> Applied:
        """What is to be done to the gradients of a context, whose outputs are `active_outputs`.

        Args:
            parameters: the network's, by key.
        """

    @abstractmethod
    def layers(self) -> list[Keys]:
        """The parameters' keys of each layer that the state covers."""

    def refuse_half_frozen(self) -> None:
        """Check that a layer's bias is trained always or never: a layer's gradient is changed as one matrix.

        Raises:
            MethodError: a layer was trained with its bias in one context and without it in another.
        """
        whole: dict[str, Keys] = {}
        for keys in self.layers():
            if whole.setdefault(keys[0], keys) != keys:
                raise MethodError(
                    f"{self.source}: {keys[0]} was trained with its bias in some contexts and without it in others; "
                    "expected both to be trained, or frozen, in all of them."
                )

    def transform(self) -> None:
        """Change the gradients of a step."""
        if self.applied is None:
            self.applied = self.prepared(contract_parameters(self.model))
        self.applied.apply()

    def end_context(self, finished: Finished) -> None:
        """See `BuiltIn`; what was made from the earlier state will be made anew."""
        self.applied = None
        super().end_context(finished)


@dataclass(eq=False)
class Projected(Preconditioned):
    """No penalty: each layer's gradient is projected away from the inputs that the layer had in earlier contexts.

    All layers are where the context has outputs that an earlier one had, too. A head of the context's own, as in the
    task-incremental scenario, is free, whatever layers it consists of: it computes nothing that an earlier context is
    asked for.

    What isn't a linear or convolutional layer, used once for examples in rows, has no such inputs: it is trained in the
    first context and frozen from then on, lest it change what later layers get. That goes for the scales and shifts of
    normalization layers; the running averages of batch normalization move on, as in every method.

    Attributes:
        without_inputs: the keys of what is frozen.
        free: the keys of what is left alone in a context with outputs of its own (see `head_parameters`).
        outputs_before: the outputs that earlier contexts had.
    """

    without_inputs: list[str] = state(list)
    free: list[str] = state(list)
    outputs_before: list[int] = state(list)

    @property
    def strength(self) -> float:
        return 0.0

    def squares(self) -> Squares:
        return Squares({}, {})

    def learn(self, finished: Finished) -> None:
        """Take in what the inputs of the context's layers were.

        Raises:
            MethodError: the network has no layer whose gradient could be projected.
            NotFiniteError: an input was NaN or infinite.
        """
        seen = input_statistics(self.model, finished.dataset)
        if not seen.covariances:
            raise MethodError(
                f"{self.source}: there is no layer whose gradient it could project; expected a network with a linear "
                "layer or a convolution that is trained, and used once for each example."
            )
        covariances = {joined(keys): value for keys, value in seen.covariances.items()}
        self.refuse_not_finite({"covariances": covariances})
        self.take(covariances)
        self.refuse_half_frozen()
        projected = {key for layer in self.layers() for key in layer}
        self.without_inputs = [key for key in [*self.without_inputs, *seen.others] if key not in projected]
        self.without_inputs = list(dict.fromkeys(self.without_inputs))
        self.outputs_before = sorted({*self.outputs_before, *self.active_outputs})
        self.free = head_parameters(self.model, finished.dataset.tensors[0], self.outputs_before)

    @abstractmethod
    def take(self, covariances: NamedTensors) -> None:
        """Bring the state up to date.

        Args:
            covariances: A of each layer in the context that has ended, [columns, columns], by its joined keys.
        """

    @abstractmethod
    def projection(self, layer: str) -> Change:
        """What is done to a layer's gradient.

        Args:
            layer: its joined keys.
        """

    def prepared(self, parameters: dict[str, nn.Parameter]) -> Applied:
        has_own_head = set(self.outputs_before).isdisjoint(self.active_outputs)
        free = set(self.free) if has_own_head else set()
        layers = [
            ([parameters[key] for key in keys], self.projection(joined(keys)))
            for keys in self.layers()
            if not free.issuperset(keys)
        ]
        return Applied(layers, [], [parameters[key] for key in self.without_inputs if key not in free])

    def additions(self) -> list[str]:
        """Which layers are projected, where others are frozen."""
        if not self.without_inputs:
            return []
        projected = layers_of(keys[0] for keys in self.layers())
        free = [key for key in self.without_inputs if key in self.free]
        but = f", but for {layers_of(free)} where a context has outputs of its own" if free else ""
        return [
            f"{self.source} projects the gradients of {projected}, and freezes "
            f"{layers_of(self.without_inputs)}, which it can't project, after the first context{but}"
        ]


def damped_inverse(matrix: Tensor, weight: float) -> Tensor:
    """(I + weight M)^-1, computed in float64.

    Args:
        matrix: M, symmetric, [n, n]; an eigenvalue that rounding has made negative counts as 0.
        weight: above 0.

    Returns:
        [n, n], of the matrix's type, with eigenvalues above 0 and up to 1.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    inverse: Tensor = (vectors / (1 + weight * values.clamp_min(0))) @ vectors.T
    return inverse.to(matrix.dtype)
