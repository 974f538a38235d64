"""Riemannian walk.

    R(theta) = sum_i (F^_i + s^_i) (theta_i - theta*_i)^2

with the running Fisher information F~ and the score s~, each scaled to [0, 1] over all parameters together:
x^ = (x~ - min x~) / (max x~ - min x~) (Chaudhry, Dokania, Ajanthan & Torr, "Riemannian walk for incremental learning:
understanding forgetting and intransigence", ECCV 2018). After context t,

    F~_t = alpha F_t + (1 - alpha) F~_{t-1},                        alpha = 1 / (1 + gamma);  F~_1 = F_1
    s_t  = max(0, W_t) / (1/2 F~_t Delta_t^2 + epsilon)
    s~_t = 1/2 (s~_{t-1} + s_t),                                    s~_1 = s_1

with W_t the path integral of -gradient * update, the loss that the parameter took away, and Delta_t its change: the
score is the loss per distance, which the Fisher information measures, in KL divergence, on the manifold of the
network's output distributions. The score alone is averaged over contexts, lest the penalty become more rigid with each.

What differs from the paper, as the loop gives path integral and examples once a context:

- One distance a context, from its start to its end; in the paper s_t is a sum over intervals of a few steps (ten in the
  authors' experiments), each with its own loss, change and Fisher information, and floored at zero on its own.
- F_t is the Fisher information at the context's end, over the model's own labels (`fisher`), and the average is over
  contexts; in the paper it is the empirical one of minibatches, averaged over steps with alpha = 0.9, so that next to
  nothing is left of earlier contexts. Here the first context weighs gamma times as much as the second, and each later
  one gamma / (1 + gamma) times as much as the next: half at gamma = 1, where Online EWC's contexts all weigh alike.
- W_t is that of the whole loss, penalty included, as the loop keeps it (as for `si`); the paper's is the task's loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clsweep.curvature.fisher import DiagonalOptions, diagonal_fisher
from clsweep.hyperparameters import NOT_NEGATIVE, POSITIVE, SHARE, hyperparameter
from clsweep.methods.base import Anchored, Finished, state
from clsweep.parameters import NamedTensors, contract_parameters


@dataclass(eq=False)
class RWalk(Anchored):
    """The running Fisher information and the score, each scaled to [0, 1].

    Attributes:
        gamma: how much earlier contexts weigh in the Fisher information.
        epsilon: damps the denominator of the score.
        fisher: how the Fisher information is estimated.
        running_fisher: F~, by key, before it is scaled.
        score: s~, likewise.
    """

    uses_path_integral = True
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e6))")
    gamma: float = hyperparameter(1.0, SHARE, "interval(0.05, 1)")
    epsilon: float = hyperparameter(1e-3, POSITIVE, "tag(log, interval(1e-6, 10))")
    fisher: DiagonalOptions = field(default_factory=DiagonalOptions)
    running_fisher: NamedTensors = state()
    score: NamedTensors = state()

    def updated(self, finished: Finished) -> NamedTensors:
        """F^ + s^."""
        new = diagonal_fisher(self.model, finished.dataset, self.fisher)
        fisher = {key: _running_mean(self.running_fisher.get(key), value, self.gamma) for key, value in new.items()}
        score = {
            key: _running_mean(self.score.get(key), value, 1.0) for key, value in self._scores(fisher, finished).items()
        }
        self.running_fisher = self.running_fisher | fisher  # a frozen parameter keeps its own
        self.score = self.score | score
        scaled_fisher, scaled_score = _scaled(fisher), _scaled(score)
        return {key: value + scaled_score[key] for key, value in scaled_fisher.items()}

    def _scores(self, fisher: NamedTensors, finished: Finished) -> NamedTensors:
        """max(0, W) / (1/2 F~ Delta^2 + epsilon) of this context, by key."""
        parameters = contract_parameters(self.model)
        changes = {key: parameters[key].detach() - finished.start[key] for key in fisher}
        return {
            key: finished.path.totals[key].clamp_min(0) / (0.5 * fisher[key] * change.square() + self.epsilon)
            for key, change in changes.items()
        }


def _running_mean(before: Tensor | None, new: Tensor, weight: float) -> Tensor:
    """(new + weight * before) / (1 + weight)."""
    return new if before is None else (new + weight * before) / (1 + weight)


def _scaled(values: NamedTensors) -> NamedTensors:
    """To [0, 1], over all parameters together; zero where all values are the same."""
    ends = [torch.stack(torch.aminmax(value)) for value in values.values() if value.numel()]
    if not ends:
        return values
    low, high = torch.aminmax(torch.cat(ends))
    span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    return {key: (value - low) / span for key, value in values.items()}
