"""Which outputs of the network belong to which class, and which of them are active when.

Scenarios are those of van de Ven, Tuytelaars & Tolias, "Three types of incremental learning" (2022). Each makes an
output layer for the classes that a stream's contexts show. Contexts are counted from 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

# The classes of each context, in the order of their labels: what is equal is the same class.
Classes = Sequence[Sequence[Hashable]]


@dataclass(frozen=True)
class Outputs:
    """The output layer for a stream.

    Attributes:
        n: its size.
        labels: for each context the label of each of its classes, counted over the active outputs.
        own: for each context the outputs that are active as long as no later context has been started.
        reach: for each context how many outputs are active for all contexts once it has been started; 0 but in `class`.
    """

    n: int
    labels: Sequence[range | Sequence[int]]
    own: Sequence[range]
    reach: Sequence[int]

    def active(self, context: int, learned: int) -> range:
        """The active outputs for an example of `context` when `learned` contexts have been started."""
        own = self.own[context]
        return range(own.start, max(own.stop, self.reach[learned - 1] if learned else 0))


class Scenario(Protocol):
    """Makes the output layer for the classes of all contexts."""

    def outputs(self, classes: Classes) -> Outputs: ...


class TaskIncremental:
    """The context is known: each has outputs of its own, and labels from 0. One that comes again has the same ones."""

    def outputs(self, classes: Classes) -> Outputs:
        """One output for each class of each context that shows other classes than those before it."""
        heads: dict[tuple[Hashable, ...], range] = {}
        n = 0
        for shown in map(tuple, classes):
            if shown not in heads:
                heads[shown] = range(n, n + len(shown))
                n += len(shown)
        return Outputs(
            n, [range(len(shown)) for shown in classes], [heads[tuple(shown)] for shown in classes], [0] * len(classes)
        )


class DomainIncremental:
    """The context is not known and not asked for: all contexts share the outputs, which are always active."""

    def outputs(self, classes: Classes) -> Outputs:
        """One output for each label."""
        n = max(map(len, classes))
        return Outputs(n, [range(len(shown)) for shown in classes], [range(n)] * len(classes), [0] * len(classes))


class ClassIncremental:
    """The context is not known but must be told from the class: all classes seen so far are active.

    A context that has not been learned yet is evaluated over all classes up to its own.
    """

    def outputs(self, classes: Classes) -> Outputs:
        """One output for each class, in the order in which they come."""
        numbers: dict[Hashable, int] = {}
        seen = []
        for shown in classes:
            for one in shown:
                numbers.setdefault(one, len(numbers))
            seen.append(len(numbers))
        labels = [[numbers[one] for one in shown] for shown in classes]
        return Outputs(len(numbers), labels, list(map(range, seen)), seen)


SCENARIOS: dict[str, Scenario] = {
    "task": TaskIncremental(),
    "domain": DomainIncremental(),
    "class": ClassIncremental(),
}
