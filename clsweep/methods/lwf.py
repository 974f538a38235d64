"""Learning without forgetting: the network's earlier answers to the current examples are kept.

    R(theta) = T² sum_h n_h (1/B) sum_b sum_c -q_c(x_b; theta*) log q_c(x_b; theta),    q = softmax(f_h / T)

over the examples b of a step's batch, with f_h the logits of the outputs h of earlier contexts, n_h how many of these
have had just these outputs, T the temperature and theta* the parameters at the end of the previous context (Li & Hoiem,
"Learning without forgetting", ECCV 2016 and TPAMI 2018, equations 2 to 4, summed over the earlier tasks). As in their
procedure (figure 3), the answers of theta* to a context's examples are recorded once, before it is trained.

With outputs of their own, contexts are distilled one by one: a sum over heads. With one head for all, n_h counts them.
Where each context adds classes to those before, h is all earlier classes, once. These weights are those of the code
of van de Ven et al. ("Three types of incremental learning", Nature Machine Intelligence 2022), whose softmax over f has
the new classes in it, too, in the class-incremental scenario, with q_c(x; theta*) = 0; here it is over h, as elsewhere.

T² keeps the size of the gradient where T changes (Hinton, Vinyals & Dean, "Distilling the knowledge in a neural
network", 2015, section 2). Neither Li & Hoiem nor that code has it: their weight 1 at T = 2 is a reg_strength of 1/4.
The step's forward pass is the loss's own, in training mode; theta* answers in eval mode, as the network is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clsweep.hyperparameters import NOT_NEGATIVE, POSITIVE, hyperparameter
from clsweep.methods.base import BuiltIn, Finished, state

Heads = dict[tuple[int, int], int]


@dataclass(eq=False)
class LwF(BuiltIn):
    """The cross entropy between the earlier answers and the current ones.

    Attributes:
        reg_strength: what the penalty is multiplied with.
        temperature: T.
        heads: n_h by the first output of h and the one after its last; no two of them overlap.
    """

    takes_outputs = True
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-2, 1e2))")
    temperature: float = hyperparameter(2.0, POSITIVE, "tag(log, interval(1, 10))")
    heads: Heads = state()
    _distilled: Tensor | None = field(init=False, default=None)

    @property
    def strength(self) -> float:
        return self.reg_strength

    def learn(self, finished: Finished) -> None:
        """Take in the context's outputs; those that are only a part of them are distilled with them."""
        start, stop = own = self.active_outputs.start, self.active_outputs.stop
        apart = {h: n for h, n in self.heads.items() if h == own or h[1] <= start or stop <= h[0]}
        self.heads = apart | {own: apart.get(own, 0) + 1}

    def see_outputs(self, logits: Tensor, before: Tensor) -> None:
        """Compare them; see `Method`."""
        self._distilled = distillation(logits, before, self.heads, self.temperature)

    def penalty(self, *, is_first: bool) -> Tensor:
        """R for the batch that was seen last, a differentiable scalar; its graph isn't kept."""
        distilled, self._distilled = self._distilled, None
        assert distilled is not None
        return distilled


def distillation(logits: Tensor, before: Tensor, heads: Mapping[tuple[int, int], int], temperature: float) -> Tensor:
    """The weighted cross entropy over earlier contexts' outputs, a scalar; see the module.

    Args:
        logits: the current ones, [B, n_outputs].
        before: the recorded ones, likewise.
        heads: n_h by outputs.
        temperature: T.
    """
    total = logits.new_zeros(())
    kinds = {(stop - start, count) for (start, stop), count in heads.items()}
    for size, count in sorted(kinds):  # heads alike in both go together, [B, heads, size]
        alike = [slice(*h) for h, n in heads.items() if (h[1] - h[0], n) == (size, count)]
        now, then = (torch.stack([values[:, h] for h in alike], 1) / temperature for values in (logits, before))
        total = total - count * (then.softmax(2) * now.log_softmax(2)).sum((1, 2)).mean()
    return temperature**2 * total
