"""The base of methods that carry the Fisher information of all contexts in Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clsweep.curvature.fisher import FisherOptions
from clsweep.curvature.kronecker import Curvature, as_plain, kronecker_fisher, of_plain
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import BuiltIn, Finished, added, state
from clsweep.parameters import NamedTensors, layers_of, snapshot


@dataclass(eq=False)
class Factored(BuiltIn):
    """The sum of the contexts' Fisher information, and the latest parameters.

    A sum of Kronecker products isn't one itself, so the exact sum would take memory and time for every context. It is
    replaced by the Kronecker product with its partial traces (`Factors.plus`). Layers that have no factors
    (normalization, attention, embeddings, ...) keep the diagonal.

    Attributes:
        fisher: how it is estimated.
        curvature: G and A of each layer that has them.
        diagonal: the Fisher information's diagonal of the other layers' parameters, by key.
        anchor: theta*, by key.
    """

    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e9))")
    fisher: FisherOptions = field(default_factory=FisherOptions)
    curvature: Curvature = state()
    diagonal: NamedTensors = state()
    anchor: NamedTensors = state()

    @property
    def strength(self) -> float:
        return self.reg_strength

    def learn(self, finished: Finished) -> None:
        """Add the context's Fisher information, and move the anchor."""
        new, diagonals = kronecker_fisher(self.model, finished.dataset, self.fisher)
        before = self.curvature
        joined = {keys: before[keys].plus(factors) if keys in before else factors for keys, factors in new.items()}
        self.curvature = before | joined
        self.diagonal = self.diagonal | added(self.diagonal, diagonals)
        self.anchor = snapshot(self.model)

    def additions(self) -> list[str]:
        """Which layers have factors, where some have none."""
        if not self.diagonal:
            return []
        factored = layers_of(keys[0] for keys in self.curvature) or "no layer"
        return [f"{self.source} has Kronecker factors for {factored}, and the diagonal for {layers_of(self.diagonal)}"]

    def state_dict(self) -> dict[str, Any]:
        """The factors as plain tensors, under their joined keys."""
        return super().state_dict() | {"curvature": as_plain(self.curvature)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state | {"curvature": of_plain(state["curvature"])})
